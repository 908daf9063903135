"""Brings files here: from the hub into the cache that its tools share, from other servers into that of infs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import msgspec

from infs.errors import ChecksumMismatch
from infs.store.checksum import Digests, Verifier
from infs.store.disk import check_space, storage_errors, write_text
from infs.store.folders import size_of
from infs.store.hub import Hub, HubFile, forbidden
from infs.store.hubcache import HubCache
from infs.store.locks import file_lock
from infs.store.names import part_urls
from infs.store.partial import arrived
from infs.store.progress import Meter, Report, size_text
from infs.store.source import HubSource, public_url
from infs.store.traffic import Traffic
from infs.store.transfer import Download, Transfer
from infs.store.web import RetryPolicy, open_client
from infs.types import Progress

if TYPE_CHECKING:
    import httpx

NOTE = ".url"  # beside a download: where it came from
_AT_ONCE = 8  # questions to the hub
Part = TypeVar("Part")


class Downloads:
    """Downloads, each file once at a time on this machine.

    Args:
        target: where the file of a URL belongs.
    """

    def __init__(
        self,
        hub: Hub,
        cache: HubCache,
        target: Callable[[str], Path],
        verifier: Verifier,
        retry: RetryPolicy,
        log: logging.Logger,
    ) -> None:
        self._hub = hub
        self._cache = cache
        self._target = target
        self._verifier = verifier
        self._retry = retry
        self._log = log
        self.traffic = Traffic()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for what is to be downloaded."""
        client = await open_client(self._retry)
        try:
            yield client
        finally:
            await client.aclose()

    # --- any server ---

    async def from_url(self, client: httpx.AsyncClient, url: str, digests: Digests, report: Report) -> list[Path]:
        """The file of `url`, or all parts of a split model; `digests` are those of the first.

        Raises:
            SourceError: the class says why.
        """
        if self._hub.offline:
            raise forbidden(public_url(url))
        parts = part_urls(url)
        labels = _labels([unquote(public_url(part)) for part in parts])
        return [
            await self._one(client, part, _of_first(digests, part, parts), Meter(report, label))
            for part, label in zip(parts, labels, strict=True)
        ]

    async def _one(self, client: httpx.AsyncClient, url: str, digests: Digests, meter: Meter) -> Path:
        target = self._target(url)
        note = target.with_name(f"{target.name}{NOTE}")
        download = Download(url=url, partial=target.with_name(f"{target.name}.part"), digests=digests)

        def find() -> Path | None:
            if target.is_file():
                return target
            write_text(note, public_url(url))
            return None

        def publish() -> Path:
            os.replace(download.partial, target)
            return target

        lock = target.with_name(f"{target.name}.lock")
        try:
            return await self._transfer(client, download, lock, find, publish, meter)
        finally:
            with contextlib.suppress(OSError):
                if not target.exists() and not download.partial.exists():
                    note.unlink(missing_ok=True)

    # --- the hub ---

    async def from_hub(
        self, client: httpx.AsyncClient, files: list[HubSource], digests: Digests, report: Report
    ) -> list[Path]:
        """The `files`, all of one repository and revision, at the commit that this is at now.

        Args:
            digests: of the first one.

        Raises:
            SourceError: the class says why.
        """
        described = await self._describe(client, files)
        commit = described[0].commit
        self._check_space(files, described)
        labels = _labels([file.path for file in files])
        paths = [
            await self._from_hub(
                client,
                source,
                file,
                _hub_digests(source, file, _of_first(digests, source, files)),
                Meter(report, label),
            )
            for source, file, label in zip(files, described, labels, strict=True)
        ]
        # Only now: whoever finds the commit behind the revision finds all files there.
        with storage_errors(paths[0]):
            self._cache.point(files[0], commit)
        return paths

    async def _describe(self, client: httpx.AsyncClient, files: list[HubSource]) -> list[HubFile]:
        """What the hub says of `files`, all at the commit that the first one is found at."""
        first = await self._hub.describe(client, files[0])
        gate = asyncio.Semaphore(_AT_ONCE)

        async def describe(source: HubSource) -> HubFile:
            async with gate:
                return await self._hub.describe(client, msgspec.structs.replace(source, revision=first.commit))

        others = await asyncio.gather(*(describe(source) for source in files[1:]), return_exceptions=True)
        for other in others:
            if isinstance(other, BaseException):
                raise other
        return [first, *(other for other in others if isinstance(other, HubFile))]

    def _check_space(self, files: list[HubSource], described: list[HubFile]) -> None:
        """Raise `StorageFull` unless all that is not there yet fits: no model is of use by halves."""
        missing = [
            file.size or 0
            for source, file in zip(files, described, strict=True)
            if not self._cache.blob(source, file.etag).is_file()
        ]
        if len(missing) > 1:
            folder = self._cache.blob(files[0], described[0].etag).parent
            check_space(next(each for each in (folder, *folder.parents) if each.is_dir()), sum(missing))

    async def _from_hub(
        self, client: httpx.AsyncClient, source: HubSource, file: HubFile, digests: Digests, meter: Meter
    ) -> Path:
        blob = self._cache.blob(source, file.etag)
        download = Download(
            url=file.url,
            # A name of our own: what other tools leave half-done may have holes.
            partial=blob.with_name(f"{blob.name}.infs.incomplete"),
            headers=self._hub.headers(),
            size=file.size,
            digests=digests,
            fixed=True,
        )

        def find() -> Path | None:
            there = blob.is_file() or self._cache.snapshot(source, file.commit).is_file()
            return self._cache.link(source, file.commit, file.etag) if there else None

        def publish() -> Path:
            os.replace(download.partial, blob)
            return self._cache.link(source, file.commit, file.etag)

        lock = self._cache.lock(source, file.etag)
        return await self._transfer(client, download, lock, find, publish, meter)

    # --- both ---

    async def _transfer(
        self,
        client: httpx.AsyncClient,
        download: Download,
        lock: Path,
        find: Callable[[], Path | None],
        publish: Callable[[], Path],
        meter: Meter,
    ) -> Path:
        """Download, unless somebody else does or did; whoever holds `lock` is waited for."""

        def waiting() -> None:
            meter.show(arrived(download.partial), download.size, doing="another process is downloading it")

        async with file_lock(lock, waiting):
            with storage_errors(lock):
                path = find()
            if path is None:
                self._log.info("Downloading %s", public_url(download.url))
                with self.traffic.counted() as meter.counting:
                    meter.counting(Progress(stage="download", done=arrived(download.partial), detail=meter.name))
                    await Transfer(client, self._retry, download, meter, self._log).run()
                with storage_errors(download.partial):
                    path = publish()
                self._verifier.remember(path, download.digests)
                self._log.info("Downloaded %s (%s)", path, size_text(size_of(path)))
            return path


def _of_first(digests: Digests, part: Part, parts: list[Part]) -> Digests:
    """The configured checksum is that of the first part."""
    return digests if part == parts[0] else {}


def _labels(paths: list[str]) -> list[str]:
    """The names of files for people; of several, also which one it is."""
    names = [path.rpartition("/")[2] for path in paths]
    if len(names) == 1:
        return names
    return [f"{name} ({number} of {len(names)})" for number, name in enumerate(names, start=1)]


def _hub_digests(source: HubSource, file: HubFile, wanted: Digests) -> dict[str, str]:
    """What to check: what the configuration and the hub say, which must not contradict each other.

    Raises:
        ChecksumMismatch: they do, so there is no need to download anything.
    """
    own = {} if file.sha256 is None else {"sha256": file.sha256}
    if own and wanted.get("sha256", file.sha256) != file.sha256:
        raise ChecksumMismatch(
            f"{source} has the sha256 checksum {file.sha256}, and {wanted['sha256']} is wanted. "
            f"Correct the configuration, or name the revision that is meant."
        )
    return {**wanted, **own}
