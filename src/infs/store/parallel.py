"""One file over several connections: each fetches pieces of it, and writes them at their places."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, cast

from infs.store.answers import extent, is_encoded
from infs.store.partial import Partial
from infs.store.progress import Meter
from infs.store.segments import Piece, Pieces, Ranges
from infs.store.sink import Sink, in_thread
from infs.store.source import public_url
from infs.store.web import Attempts, RetryPolicy, TransientError, check_answer, network_errors, same_origin

if TYPE_CHECKING:
    import httpx

# Seconds after which one who has nothing to do looks again.
IDLE = 0.1
# Seconds between two notes of what is there: for each, all of it must be on the disk.
NOTE_INTERVAL = 0.25


class RangesRefused(Exception):
    """The server does not send the parts that it is asked for, or no longer those of the same file."""


class Origin:
    """Where the parts of a file come from: the place that redirects led to, until its address expires.

    Args:
        url: where redirects begin.
        headers: sent to the host of `url`, and to no other.
        validator: what tells that the file is still the same; ``None`` for content that never changes.

    Attributes:
        place: where the next part is asked for.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str], validator: str | None) -> None:
        self._client = client
        self._first = self.place = client.build_request("GET", url).url
        self._headers = headers
        self.validator = validator

    @contextlib.asynccontextmanager
    async def part(self, first: int, end: int) -> AsyncIterator[httpx.Response]:
        """The answer to a request for the bytes from `first` up to `end`; its content is yet to be read."""
        response = await self._send(self.place, first, end)
        if 400 <= response.status_code < 416 and response.status_code != 408 and self.place != self._first:
            # Addresses that a redirect leads to are often valid for an hour only.
            await response.aclose()
            response = await self._send(self._first, first, end)
            self.place = response.url
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, place: httpx.URL, first: int, end: int) -> httpx.Response:
        headers = {**self._headers} if same_origin(place, self._first) else {}
        headers["Range"] = f"bytes={first}-{end - 1}"
        if self.validator is not None:
            headers["If-Range"] = self.validator
        request = self._client.build_request("GET", place, headers=headers)
        return await self._client.send(request, stream=True, follow_redirects=True)


class Gate:
    """Says when the next request may start: what one connection learns of the server holds for all of them.

    Requests that were under way together and fail together are one failure.
    """

    def __init__(self, attempts: Attempts) -> None:
        self.round = 0
        self._attempts = attempts
        self._opens = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request may start, which then belongs to `round`."""
        return time.monotonic() >= self._opens

    def hold(self, seconds: float) -> None:
        """Keep it shut for so long."""
        self._opens = max(self._opens, time.monotonic() + seconds)

    def failed(self, error: TransientError, entered: int) -> None:
        """Count the failure of a request of the round `entered`.

        Raises:
            DownloadFailed: it was one too many.
        """
        if entered == self.round:
            self.round += 1
            self.hold(self._attempts.wait(error))


class Parallel:
    """Completes the partial file of one download.

    Args:
        done: the ranges of it that are there.
        total: bytes of the whole file.
        attempts: counts failures in a row.
    """

    def __init__(
        self,
        origin: Origin,
        partial: Partial,
        done: Ranges,
        total: int,
        policy: RetryPolicy,
        attempts: Attempts,
        meter: Meter,
        log: logging.Logger,
    ) -> None:
        self._origin = origin
        self._partial = partial
        self._done = done
        self._total = total
        self._policy = policy
        self._attempts = attempts
        self._meter = meter
        self._log = log
        self._gate = Gate(attempts)
        self._pieces = Pieces(total, done, policy.connections.piece, time.monotonic)
        self._width = policy.connections.most
        self._completed = asyncio.Event()
        self._noteworthy = asyncio.Event()

    async def run(self, first: httpx.Response) -> None:
        """Fetch what is missing.

        Args:
            first: an answer whose content begins where the first gap does.

        Raises:
            RangesRefused: the server does not do it this way.
            DownloadFailed, SourceForbidden, SourceNotFound, OSError
        """
        self._origin.place = first.url
        self._etag = first.headers.get("ETag")
        # Before anything is written behind a gap: without the note it would look like a file without gaps.
        self._partial.save(self._done, self._total)
        try:
            await self._fetch(first)
            await in_thread(self._partial.sync)
        finally:
            # On a full disk an older note stays, which promises less.
            with contextlib.suppress(OSError):
                self._partial.save(self._done, self._total)
        self._meter.show(self._total, self._total, always=True)

    async def _fetch(self, first: httpx.Response) -> None:
        failures: tuple[Exception, ...] = ()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._keep_notes()), group.create_task(self._work(first))]
                tasks += [group.create_task(self._work()) for _ in range(self._width - 1)]
                await self._completed.wait()
                # Some may still wait for what another connection was quicker with.
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as error:
            failures = error.exceptions
        if failures:
            raise failures[0]

    async def _keep_notes(self) -> None:
        """Note what is there, now and then, so that who goes on after a kill knows it."""
        while True:
            await self._noteworthy.wait()
            self._noteworthy.clear()
            await in_thread(functools.partial(self._note, Ranges(self._done)))
            await asyncio.sleep(NOTE_INTERVAL)

    def _note(self, done: Ranges) -> None:
        # In this order: a power failure must not leave a note that promises what the disk does not have.
        self._partial.sync()
        self._partial.save(done, self._total)

    async def _work(self, response: httpx.Response | None = None) -> None:
        """Fetch one piece after the other, the first one from `response`; ends when the server wants fewer requests."""
        leaves = False
        while not leaves:
            piece = self._pieces.take() if self._gate.is_open else None
            if piece is None:
                await asyncio.sleep(IDLE)
                continue
            entered = self._gate.round
            try:
                await self._attempt(piece, response)
                self._noteworthy.set()
            except TransientError as error:
                leaves = piece.left > 0 and self._failed(error, entered)
            finally:
                response = None
                self._pieces.release(piece)

    def _failed(self, error: TransientError, entered: int) -> bool:
        """Count a failure; whether this connection was one too many for the server."""
        self._log.info("A connection of a download failed: %s", error.reason)
        if not error.limited or self._width == 1:
            self._gate.failed(error, entered)
            return False
        self._width -= 1
        self._log.info("The download goes on over %d connections", self._width)
        wait = self._policy.first if error.retry_after is None else error.retry_after
        self._gate.hold(min(wait, self._policy.longest))
        return True

    async def _attempt(self, piece: Piece, response: httpx.Response | None) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                piece.stop = lambda: limit.reschedule(0)
                await self._request(piece, response)
        except TimeoutError:
            # Disks have timeouts too.
            if piece.left > 0:
                raise

    async def _request(self, piece: Piece, response: httpx.Response | None) -> None:
        if response is not None:
            with network_errors(str(response.url)):
                try:
                    await self._receive(piece, response)
                finally:
                    # It may go on behind the piece, where others are at work.
                    await response.aclose()
            return
        with network_errors(str(self._origin.place)):
            async with self._origin.part(piece.at, piece.end) as answer:
                self._check(answer, piece)
                await self._receive(piece, answer)

    def _check(self, response: httpx.Response, piece: Piece) -> None:
        status = response.status_code
        if status != 416:
            check_answer(response, str(response.url))
        first, total = extent(response)
        same = self._origin.validator is None or response.headers.get("ETag") in (None, self._etag)
        fits = first == piece.at and total in (None, self._total)
        if status != 206 or is_encoded(response) or not fits or not same:
            raise RangesRefused(f"{public_url(str(response.url))} does not send the parts that it is asked for")

    async def _receive(self, piece: Piece, response: httpx.Response) -> None:
        chunks = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
        sink = Sink(self._partial.path, piece.at, functools.partial(self._wrote, piece.at))
        with contextlib.closing(sink):
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    wanted = chunk[: max(0, piece.left)]
                    self._pieces.received(piece, len(wanted))
                    await sink.put(wanted)
                    if piece.left <= 0:
                        return
        raise TransientError(f"{public_url(str(response.url))} ended {piece.left} bytes too early")

    def _wrote(self, first: int, end: int) -> None:
        if end > first:
            self._done.add(first, end)
            self._attempts.progressed()
            self._meter.show(self._done.size, self._total)
            if self._pieces.complete:
                self._completed.set()
