"""HTTP as the store needs it: failures of the network told apart, and tried again where that helps."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from infs.errors import ConfigError, DownloadFailed, SourceError, SourceForbidden, SourceNotFound
from infs.store.source import public_url

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


# What says that there are too many requests, not that one of them went wrong.
LIMITED = frozenset({429, 503})


class Connections(Struct, frozen=True, kw_only=True):
    """When and how one file comes over several connections at once.

    Attributes:
        most: connections; with 1 all files come over one.
        piece: bytes that one request asks for.
        least: bytes that must be missing for more than one connection.
    """

    most: int = 4
    piece: int = 16 * 1024 * 1024
    least: int = 32 * 1024 * 1024


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How the network is met: how often and how fast something is tried again, and over how many connections.

    Attributes:
        attempts: tries in a row that bring nothing new, before giving up.
        first: seconds before the second try; doubled each time.
        longest: seconds that are waited at most; who asks for more (``Retry-After``) is not waited for.
        timeout: seconds without a sign of the other end after which a try has failed.
        connections: of the download of one large file.
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 30.0
    timeout: float = 30.0
    connections: Connections = Connections()


class TransientError(Exception):
    """A failure after which another try may go well; `limited` when fewer requests would have gone well."""

    def __init__(self, reason: str, retry_after: float | None = None, *, limited: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.limited = limited


class Attempts:
    """Counts the tries of one piece of work.

    Args:
        what: the work, as in "`what` failed".
        hint: what else to say when it failed for good.
    """

    def __init__(self, policy: RetryPolicy, what: str, hint: str = "") -> None:
        self._policy = policy
        self._what = what
        self._hint = hint
        self._failed = 0

    def progressed(self) -> None:
        """The work is further than ever, so earlier failures no longer count."""
        self._failed = 0

    async def failed(self, error: TransientError) -> None:
        """Wait until the next try.

        Raises:
            DownloadFailed: there is none.
        """
        await asyncio.sleep(self.wait(error))

    def wait(self, error: TransientError) -> float:
        """Count a failure; the seconds until the next try.

        Raises:
            DownloadFailed: there is none.
        """
        self._failed += 1
        wait = self._policy.first * 2 ** (self._failed - 1) * random.uniform(0.75, 1.25)
        wait = min(wait, self._policy.longest) if error.retry_after is None else error.retry_after
        if self._failed >= self._policy.attempts or wait > self._policy.longest:
            tries = f" after {self._failed} tries" if self._failed > 1 else ""
            raise DownloadFailed(
                f"{self._what} failed{tries}: {error.reason}. Check the connection and try again. {self._hint}".strip(),
                retry_after=error.retry_after,
            ) from error
        return wait


async def open_client(policy: RetryPolicy) -> httpx.AsyncClient:
    """A client, made in a thread: importing the library and reading the certificates take a while."""
    return await asyncio.to_thread(_make_client, policy)


def _make_client(policy: RetryPolicy) -> httpx.AsyncClient:
    import httpx

    try:
        # Compressed answers have neither ranges nor a length that could be checked.
        headers = {"User-Agent": "infs", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(policy.timeout, connect=min(policy.timeout, 10.0))
        return httpx.AsyncClient(headers=headers, timeout=timeout, follow_redirects=False)
    except (ImportError, ValueError) as error:
        raise SourceError(f"The proxy that the environment names cannot be used: {error}") from error


async def ask(
    client: httpx.AsyncClient, policy: RetryPolicy, method: str, url: str, headers: Mapping[str, str]
) -> httpx.Response:
    """The answer to a small request: one that is not in `RETRIED`, redirects on the same host followed.

    Raises:
        DownloadFailed: there was none.
    """
    attempts = Attempts(policy, f"{public_url(url)}")
    while True:
        try:
            with network_errors(url):
                return await _ask_once(client, method, url, headers)
        except TransientError as error:
            await attempts.failed(error)


async def _ask_once(client: httpx.AsyncClient, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    for _ in range(10):
        response = await client.request(method, url, headers=headers)
        check_retry(response)
        target = response.next_request
        # Another host gets no token; and what the hub says of a file comes with the redirect, not with its target.
        if target is None or not same_origin(target.url, response.url):
            return response
        url = str(target.url)
    raise DownloadFailed(f"{public_url(url)} redirects in circles.")


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether both are on the same server, so that one may see what is meant for the other."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


@contextlib.contextmanager
def network_errors(url: str) -> Iterator[None]:
    """Inside, what the HTTP library raises becomes a `TransientError`, or an error of ours where that is vain."""
    import httpx

    where = public_url(url)
    try:
        yield
    except httpx.TimeoutException as error:
        raise TransientError(f"{where} did not answer in time") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"{where} is not a URL, or redirects to something that is none: {error}.") from error
    except httpx.TransportError as error:
        if _is_untrusted(error):
            raise DownloadFailed(f"{where} is not trusted: {error}. Is a proxy in between?") from error
        raise TransientError(f"the connection to {where} failed ({error or type(error).__name__})") from error
    except httpx.RequestError as error:
        raise DownloadFailed(f"{where} cannot be read: {error}.") from error


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_retry(response: httpx.Response) -> None:
    """Raise `TransientError` for an answer that a later try may change."""
    if response.status_code in RETRIED:
        raise TransientError(
            f"{public_url(str(response.url))} answered {response.status_code} {response.reason_phrase}".rstrip(),
            retry_after=_retry_after(response.headers.get("Retry-After")),
            limited=response.status_code in LIMITED,
        )


def check_answer(response: httpx.Response, url: str) -> None:
    """Raise for an answer that is not a file.

    Raises:
        SourceForbidden, SourceNotFound, DownloadFailed: by its status.
    """
    check_retry(response)
    where, status = public_url(url), response.status_code
    if status in (401, 403, 407):
        raise SourceForbidden(f"{where} may not be read: it answered {status}. Does it need a user and a password?")
    if status in (404, 410):
        raise SourceNotFound(f"{where} is not there: it answered {status}. Check the URL.")
    if status not in (200, 206):
        raise DownloadFailed(f"{where} answered {status} {response.reason_phrase}, which is not a file.")


def _retry_after(text: str | None) -> float | None:
    """Seconds from a number or a date; ``None`` for neither."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return min(float(text), 7 * 24 * 3600.0)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment.timestamp() - time.time())
