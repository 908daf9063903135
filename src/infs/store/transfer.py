"""One file over HTTP into a partial file: resumed, tried again, counted and checked, whatever server it comes from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from infs.errors import ChecksumMismatch, SourceNotFound
from infs.store.answers import ends_at, extent, has_ranges, is_encoded
from infs.store.checksum import Digests, digests_of, mismatch
from infs.store.disk import check_space, storage_errors
from infs.store.parallel import Origin, Parallel, RangesRefused
from infs.store.partial import Partial, is_strong
from infs.store.progress import Meter, size_text
from infs.store.segments import Ranges
from infs.store.sink import Sink
from infs.store.source import public_url
from infs.store.web import Attempts, RetryPolicy, TransientError, check_answer, network_errors

if TYPE_CHECKING:
    import httpx

_HINT = "The next try goes on from what came so far, where the server allows that."


class Download(Struct, frozen=True, kw_only=True):
    """What is downloaded.

    Attributes:
        url: where from; redirects are followed.
        headers: sent to the host of `url`, and to no other.
        partial: the file that grows; one that is there is gone on with.
        size: bytes of the whole file, when known.
        digests: what it must hash to.
        fixed: the content behind `url` never changes, so a partial file always fits to it.
    """

    url: str
    partial: Path
    headers: Mapping[str, str] = {}
    size: int | None = None
    digests: Digests = {}
    fixed: bool = False


class Transfer:
    """Runs one `Download`. The caller holds the lock of its partial file, and publishes that at the end.

    A large file comes over several connections (`RetryPolicy.connections`) from a server that sends parts, where it is
    sure that these are parts of the same content; else over one. Either way goes on with what the other one left.
    """

    def __init__(
        self, client: httpx.AsyncClient, policy: RetryPolicy, download: Download, meter: Meter, log: logging.Logger
    ) -> None:
        self._client = client
        self._policy = policy
        self._download = download
        self._meter = meter
        self._log = log
        self._partial = Partial(download.partial, download.fixed)
        self._where = public_url(download.url)
        # Set for the rest of the download when the server does not do it over several connections.
        self._single = policy.connections.most < 2

    async def run(self) -> None:
        """Complete the partial file.

        Raises:
            DownloadFailed: the network or the server did not do it, again and again.
            SourceNotFound, SourceForbidden: the server says so.
            ChecksumMismatch: the content is not the wanted one; the partial file is gone.
            StorageFull, SourceError: the disk did not do it.
        """
        with storage_errors(self._partial.path):
            self._partial.path.parent.mkdir(parents=True, exist_ok=True)
            resumed = self._kept().size > 0
            await self._fetch()
            wrong = await self._check()
            if wrong is not None and resumed:
                # What an earlier run left may be damaged, as after a power cut.
                self._log.warning("%s Starting anew.", wrong)
                self._partial.discard()
                await self._fetch()
                wrong = await self._check()
            if wrong is not None:
                self._partial.discard()
                raise ChecksumMismatch(f"{wrong} The download was deleted. Is the URL right, and the checksum?")
            self._partial.finish()

    def _kept(self) -> Ranges:
        return self._partial.kept(self._download.size)

    async def _fetch(self) -> None:
        attempts = Attempts(self._policy, f"The download of {self._where}", _HINT)
        furthest = self._kept().size
        while True:
            try:
                await self._attempt(attempts)
                return
            except TransientError as error:
                size = self._kept().size
                if size > furthest:
                    furthest = size
                    attempts.progressed()
                self._log.info("Download interrupted at %s: %s", size_text(size), error.reason)
                await attempts.failed(error)
            except RangesRefused as refused:
                self._log.info("%s. The download goes on over one connection.", refused)
                self._single = True

    async def _attempt(self, attempts: Attempts) -> None:
        kept = self._kept()
        if kept.size > 0 and kept.size == (self._download.size or self._partial.total):
            return
        headers = {**self._download.headers, **self._range(kept)}
        with network_errors(self._download.url):
            async with self._client.stream(
                "GET", self._download.url, headers=headers, follow_redirects=True
            ) as response:
                if response.status_code == 416 and self._is_complete(response, kept):
                    return
                kept, total = self._accept(response, kept)
                check_space(self._partial.path.parent, (total or 0) - kept.size)
                self._meter.show(kept.size, total)
                if total is not None and self._is_divisible(response, kept, total):
                    await self._receive_parts(response, kept, total, attempts)
                else:
                    await self._receive(response, kept.beginning, total)

    def _range(self, kept: Ranges) -> dict[str, str]:
        end = self._first_end(kept)
        if kept.size == 0 and end is None:
            return {}
        validator = self._validator()
        asked = f"bytes={kept.beginning}-{'' if end is None else end - 1}"
        return {"Range": asked, **({"If-Range": validator} if validator else {})}

    def _first_end(self, kept: Ranges) -> int | None:
        """Where the first request ends, if others are sure to follow: a connection that is cut is of no more use."""
        total = self._download.size or self._partial.total
        gap = kept.gap(total) if total is not None and self._is_large(kept, total) else None
        return None if gap is None else min(gap[1], gap[0] + self._policy.connections.piece)

    def _validator(self) -> str | None:
        return None if self._download.fixed else self._partial.validator

    # --- the answer ---

    def _is_complete(self, response: httpx.Response, kept: Ranges) -> bool:
        """Whether the server has no more because everything is here; otherwise the partial file is of no use."""
        if kept.size == kept.beginning == ends_at(response):
            return True
        self._partial.discard()
        raise TransientError(f"{self._where} does not go on at byte {kept.beginning}")

    def _accept(self, response: httpx.Response, kept: Ranges) -> tuple[Ranges, int | None]:
        """What of the partial file stays, whose first gap the answer begins to fill, and how long the whole file is.

        Raises:
            TransientError: the answer does not fit to what is here; the partial file is gone.
            SourceError: it is not a file.
        """
        check_answer(response, self._download.url)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceNotFound(f"{self._where} is a web page, not a model file: use the URL of the download itself.")
        first, total = extent(response)
        goes_on = response.status_code == 206 and first == kept.beginning and kept.size > 0 and self._is_same(response)
        known = self._download.size or (self._partial.total if goes_on else None)
        if not (goes_on or first == 0) or (total is not None and known is not None and total != known):
            self._partial.discard()
            raise TransientError(f"{self._where} sent another part of the file, or another file, than was asked for")
        if not goes_on:
            kept = Ranges()
            self._begin(response)
        return kept, known if total is None else total

    def _is_same(self, response: httpx.Response) -> bool:
        """Whether a part belongs to what is here: some servers send parts without looking at ``If-Range``."""
        new = response.headers.get("ETag")
        return self._download.fixed or new is None or new == self._partial.etag

    def _begin(self, response: httpx.Response) -> None:
        """Note what tells this content from another; a compressed answer cannot be gone on with."""
        names = not is_encoded(response) and not self._download.fixed
        validators = {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}
        self._partial.begin(validators if names else None)

    # --- the content ---

    def _is_divisible(self, response: httpx.Response, kept: Ranges, total: int) -> bool:
        """Whether the rest comes over several connections."""
        return self._is_large(kept, total) and has_ranges(response) and not is_encoded(response)

    def _is_large(self, kept: Ranges, total: int) -> bool:
        """Whether the rest is worth several connections: it is large or has gaps, and its parts are sure to fit."""
        large = kept.size > kept.beginning or total - kept.size >= self._policy.connections.least
        return large and not self._single and (self._download.fixed or is_strong(self._partial.etag))

    async def _receive_parts(self, response: httpx.Response, kept: Ranges, total: int, attempts: Attempts) -> None:
        origin = Origin(self._client, self._download.url, self._download.headers, self._validator())
        work = Parallel(origin, self._partial, kept, total, self._policy, attempts, self._meter, self._log)
        await work.run(response)

    async def _receive(self, response: httpx.Response, offset: int, total: int | None) -> None:
        self._partial.cut(offset)
        done = offset
        with contextlib.closing(Sink(self._partial.path, offset)) as sink:
            async for chunk in response.aiter_bytes() if is_encoded(response) else response.aiter_raw():
                done += len(chunk)
                await sink.put(chunk)
                self._meter.show(done, total)
            await sink.sync()
        self._meter.show(done, total, always=True)
        if done == 0 or (total is not None and done != total):
            if total is not None and done > total:
                self._partial.discard()
            raise TransientError(f"{self._where} sent {done} bytes of {total if total is not None else 'its file'}")

    async def _check(self) -> str | None:
        """What is wrong with the content; ``None`` when it is right."""
        if not self._download.digests:
            return None
        size = self._kept().size
        self._meter.show(size, size, doing="checking", always=True)
        found = await digests_of(self._partial.path, tuple(self._download.digests))
        return mismatch(self._where, self._download.digests, found)
