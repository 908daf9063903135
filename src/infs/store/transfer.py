"""One file over HTTP into a partial file: resumed, tried again, counted and checked, whatever server it comes from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from infs.errors import ChecksumMismatch, SourceNotFound
from infs.store.checksum import Digests, digests_of, mismatch
from infs.store.disk import check_space, read_json, storage_errors, write_text
from infs.store.progress import Meter, size_text
from infs.store.source import public_url
from infs.store.web import Attempts, RetryPolicy, TransientError, check_answer, network_errors

if TYPE_CHECKING:
    import httpx

CHUNK = 1024 * 1024
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?P<total>\d+|\*)")
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
    """Runs one `Download`. The caller holds the lock of its partial file, and publishes that at the end."""

    def __init__(
        self, client: httpx.AsyncClient, policy: RetryPolicy, download: Download, meter: Meter, log: logging.Logger
    ) -> None:
        self._client = client
        self._policy = policy
        self._download = download
        self._meter = meter
        self._log = log
        self._partial = download.partial
        self._note = download.partial.with_name(download.partial.name + ".json")
        self._where = public_url(download.url)

    async def run(self) -> None:
        """Complete the partial file.

        Raises:
            DownloadFailed: the network or the server did not do it, again and again.
            SourceNotFound, SourceForbidden: the server says so.
            ChecksumMismatch: the content is not the wanted one; the partial file is gone.
            StorageFull, SourceError: the disk did not do it.
        """
        with storage_errors(self._partial):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            resumed = self._offset() > 0
            await self._fetch()
            wrong = await self._check()
            if wrong is not None and resumed:
                # What an earlier run left may be damaged, as after a power cut.
                self._log.warning("%s Starting anew.", wrong)
                self._discard()
                await self._fetch()
                wrong = await self._check()
            if wrong is not None:
                self._discard()
                raise ChecksumMismatch(f"{wrong} The download was deleted. Is the URL right, and the checksum?")
            self._note.unlink(missing_ok=True)

    async def _fetch(self) -> None:
        attempts = Attempts(self._policy, f"The download of {self._where}", _HINT)
        furthest = self._size()
        while True:
            try:
                await self._attempt()
                return
            except TransientError as error:
                size = self._size()
                if size > furthest:
                    furthest = size
                    attempts.progressed()
                self._log.info("Download interrupted at %s: %s", size_text(size), error.reason)
                await attempts.failed(error)

    async def _attempt(self) -> None:
        offset = self._offset()
        if self._download.size is not None and offset == self._download.size:
            return
        headers = {**self._download.headers, **self._range(offset)}
        with network_errors(self._download.url):
            async with self._client.stream(
                "GET", self._download.url, headers=headers, follow_redirects=True
            ) as response:
                if response.status_code == 416 and self._is_complete(response, offset):
                    return
                offset, total = self._accept(response, offset)
                check_space(self._partial.parent, (total or 0) - offset)
                await self._receive(response, offset, total)

    # --- going on with a partial file ---

    def _size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._partial.stat().st_size
        return 0

    def _offset(self) -> int:
        """How much of the partial file can be kept."""
        size = self._size()
        known = self._download.fixed or self._validator() is not None
        fits = self._download.size is None or size <= self._download.size
        return size if known and fits else 0

    def _validator(self) -> str | None:
        """What tells that the content is still the same: a strong ETag, or the time of the last change."""
        note = read_json(self._note)
        etag, modified = note.get("etag"), note.get("modified")
        if isinstance(etag, str) and etag.startswith('"'):
            return etag
        return modified if isinstance(modified, str) else None

    def _range(self, offset: int) -> dict[str, str]:
        if offset == 0:
            return {}
        validator = None if self._download.fixed else self._validator()
        return {"Range": f"bytes={offset}-", **({"If-Range": validator} if validator else {})}

    def _discard(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    # --- the answer ---

    def _is_complete(self, response: httpx.Response, offset: int) -> bool:
        """Whether the server has no more because everything is here; otherwise the partial file is of no use."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if offset > 0 and found is not None and found["total"] == str(offset):
            return True
        self._discard()
        raise TransientError(f"{self._where} does not go on at byte {offset}")

    def _accept(self, response: httpx.Response, offset: int) -> tuple[int, int | None]:
        """Where in the file the answer begins, and how long the whole file is.

        Raises:
            TransientError: the answer does not fit to what is here; the partial file is gone.
            SourceError: it is not a file.
        """
        check_answer(response, self._download.url)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise SourceNotFound(f"{self._where} is a web page, not a model file: use the URL of the download itself.")
        first, total = _extent(response)
        known = self._download.size
        fits = first == 0 or (first == offset and self._is_same(response))
        if not fits or (total is not None and known is not None and total != known):
            self._discard()
            raise TransientError(f"{self._where} sent another part of the file, or another file, than was asked for")
        if first == 0:
            self._remember(response)
        return first, known if total is None else total

    def _is_same(self, response: httpx.Response) -> bool:
        """Whether a part belongs to what is here: some servers send parts without looking at ``If-Range``."""
        new = response.headers.get("ETag")
        return self._download.fixed or new is None or new == read_json(self._note).get("etag")

    def _remember(self, response: httpx.Response) -> None:
        """Note what tells this content from another; a compressed answer cannot be gone on with."""
        self._discard()
        if not _is_encoded(response) and not self._download.fixed:
            validators = {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}
            write_text(self._note, json.dumps(validators))

    async def _receive(self, response: httpx.Response, offset: int, total: int | None) -> None:
        done = offset
        encoded = _is_encoded(response)
        with self._partial.open("ab" if offset else "wb") as file:
            waiting = bytearray()
            try:
                async for chunk in response.aiter_bytes() if encoded else response.aiter_raw():
                    waiting += chunk
                    done += len(chunk)
                    if len(waiting) >= CHUNK:
                        full, waiting = waiting, bytearray()
                        await asyncio.to_thread(file.write, full)
                    self._meter.show(done, total)
            finally:
                # Also after a failure: what came need not come again.
                file.write(waiting)
            await asyncio.to_thread(_flush, file)
        self._meter.show(done, total, always=True)
        if done == 0 or (total is not None and done != total):
            if total is not None and done > total:
                self._discard()
            raise TransientError(f"{self._where} sent {done} bytes of {total if total is not None else 'its file'}")

    async def _check(self) -> str | None:
        """What is wrong with the content; ``None`` when it is right."""
        if not self._download.digests:
            return None
        size = self._size()
        self._meter.show(size, size, doing="checking", always=True)
        found = await digests_of(self._partial, tuple(self._download.digests))
        return mismatch(self._where, self._download.digests, found)


def _is_encoded(response: httpx.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """The first byte of the answer and the size of the whole file; -1 when the answer does not say where it begins."""
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found["first"] is None:
            return -1, None
        return int(found["first"]), int(found["total"]) if found["total"] != "*" else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and not _is_encoded(response) else None


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
