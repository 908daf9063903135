"""A server that runs already, as commands see it: where it is, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from infs.cli.addresses import is_local, reachable_url
from infs.cli.failures import Failed, WrongCall
from infs.config import find_file, load_config
from infs.errors import ConfigError
from infs.status import ServerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

PATIENCE = 10.0  # seconds for an answer that nobody has to wait for


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, and the key for it."""

    url: str
    key: str | None = None


def find_place(
    url: str | None, key: str | None, config_file: Path | None, environ: Mapping[str, str], directory: Path
) -> Place:
    """Where the server is: what was said, else ``INFS_URL``, else what the configuration says of host and port.

    A key of the configuration goes to the server of the configuration only.

    Raises:
        ConfigError: what was said is no URL; or the configuration is wrong, and nothing else says where the server is.
    """
    url = url or environ.get("INFS_URL") or None
    key = key or environ.get("INFS_API_KEY") or None
    if url is not None:
        return Place(url=_checked(url).rstrip("/"), key=key)
    named = config_file or environ.get("INFS_CONFIG") or None
    server = load_config(find_file(named, directory), environ=environ).server
    own = server.api_keys[0] if server.api_keys else None
    return Place(url=reachable_url(server.host, server.port), key=key or own)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{url!r} (--url, or INFS_URL) is no URL of a server; write http://HOST:PORT.", param="url")
    return url


class Remote:
    """A running server at `place`. Whatever goes wrong ends the command in one line."""

    def __init__(self, place: Place, client: httpx.AsyncClient) -> None:
        self._place = place
        self._client = client

    async def status(self) -> tuple[ServerStatus, dict[str, Any]]:
        """How it is, also as it said so."""
        data = await self._ask("GET", "/", timeout=PATIENCE)
        if not isinstance(data.get("models"), dict):
            raise self._stranger()
        try:
            return msgspec.convert(data, ServerStatus), data
        except msgspec.ValidationError as error:
            raise Failed(f"The server at {self._place.url} is of another version: {error}.") from error

    async def unload(self, model: str, *, now: bool) -> int:
        """Have it end the instances of `model`; gives how many there were."""
        answer = await self._ask("POST", "/admin/unload", {"model": model, "now": now}, timeout=None)
        return int(answer.get("instances", 0))

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout: float | None
    ) -> dict[str, Any]:
        import httpx

        limits = httpx.Timeout(timeout, connect=PATIENCE)
        try:
            answer = await self._client.request(method, self._place.url + path, json=body, timeout=limits)
        except httpx.TimeoutException as error:
            raise Failed(f"The server at {self._place.url} did not answer within {PATIENCE:g} seconds.") from error
        except httpx.HTTPError as error:
            raise Failed(
                f"No server answers at {self._place.url} ({error or type(error).__name__}). Start one with infs serve, "
                "or say where it is with --url."
            ) from error
        return self._understood(answer)

    def _understood(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            data = answer.json()
        except ValueError as error:
            raise self._stranger() from error
        if answer.status_code == 401:
            raise Failed(
                f"The server at {self._place.url} wants an API key: give --api-key, or set INFS_API_KEY."
                if self._place.key is None
                else f"The server at {self._place.url} does not take this API key."
            )
        error_object = data.get("error") if isinstance(data, dict) else None
        if isinstance(error_object, dict) and answer.status_code >= 400:
            kind = WrongCall if answer.status_code in (400, 404) else Failed
            raise kind(str(error_object.get("message")))
        if answer.status_code >= 400 or not isinstance(data, dict):
            raise self._stranger()
        return data

    def _stranger(self) -> Failed:
        return Failed(f"What answers at {self._place.url} is no infs server. Say where it is with --url.")


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[Remote]:
    """The server at `place`, for as long as this is entered."""
    import httpx

    headers = {"authorization": f"Bearer {place.key}"} if place.key is not None else {}
    # A proxy of the environment is of no use to reach this machine itself.
    async with httpx.AsyncClient(headers=headers, trust_env=not is_local(place.url)) as client:
        yield Remote(place, client)
