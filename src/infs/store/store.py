"""The store: from a model's source to verified files on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import msgspec

from infs.config import HubConfig, ModelConfig
from infs.errors import ChecksumMismatch, SourceNotFound
from infs.store.checksum import Digests, Verifier, wanted_digests
from infs.store.disk import Notes, storage_errors
from infs.store.hub import Hub, HubFile
from infs.store.hubcache import HubCache, shared_cache
from infs.store.locks import file_lock
from infs.store.names import cache_name, part_names, part_urls
from infs.store.progress import Meter, Report, size_text
from infs.store.sharing import Sharing
from infs.store.source import FileSource, HubSource, Source, UrlSource, find_source, is_safe_path, public_url
from infs.store.transfer import Download, Transfer
from infs.store.web import RetryPolicy, open_client

if TYPE_CHECKING:
    import httpx

_NO_HUB = HubConfig()
_PATIENT = RetryPolicy()


class Store:
    """Turns a model's `url` or `file` into a path.

    What is in the cache is used as it is, without a look at the network. Files of the hub lie in the cache that
    all tools of the hub share, unless `cache_path` is given: then everything lies below that.

    Args:
        cache_path: folder for what is downloaded; the user's cache folder by default.
        hub: endpoint and token of the hub.
        environ: where ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE`` are read.
        log: gets a line for each download.
        retry: how failures of the network are met.

    Raises:
        ConfigError: the endpoint is not a URL.
    """

    def __init__(
        self,
        cache_path: str | Path | None = None,
        *,
        hub: HubConfig = _NO_HUB,
        environ: Mapping[str, str] | None = None,
        log: logging.Logger | None = None,
        retry: RetryPolicy = _PATIENT,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.cache = _default_cache() if cache_path is None else Path(cache_path).expanduser().absolute()
        self._hub = Hub(hub, environ, retry)
        self._hub_cache = HubCache(shared_cache(environ) if cache_path is None else self.cache / "hub")
        self._downloads = self.cache / "downloads"
        self._notes = Notes(self.cache / "notes")
        self._verifier = Verifier(self._notes)
        self._log = log or logging.getLogger(__name__)
        self._retry = retry
        self._sharing = Sharing(self._log)

    async def fetch(self, model: str, config: ModelConfig, progress: Report) -> Path | None:
        """The files of a model: there, complete, and with the checksum that the configuration asks for.

        Calls for the same files at the same time share one download; cancelling one leaves it to the others. Of
        a split model all parts are fetched, and the path is the first one's; a checksum is that part's too.

        Args:
            model: its id, for messages.
            progress: called on this event loop, at most ten times a second.

        Returns:
            The path, or ``None`` for a model that names neither `url` nor `file`.

        Raises:
            ConfigError: the source cannot be understood.
            SourceError: the files could not be had; the class says why.
            ServerClosed: after `close`.
        """
        source = find_source(config, self.cache, self._hub.endpoint, f"models.{model}")
        if source is None:
            return None
        digests = wanted_digests(config)

        async def work(report: Report) -> Path:
            return await self._obtain(source, digests, report)

        return await self._sharing.run((source, tuple(digests.items())), work, progress)

    def find(self, config: ModelConfig) -> Path | None:
        """Where the files of a model are, if all of them are there; nothing is checked, or asked of the network.

        Raises:
            ConfigError: the source cannot be understood.
        """
        source = find_source(config, self.cache, self._hub.endpoint)
        return None if source is None else self._find(source)

    async def close(self) -> None:
        """End the downloads that run. What came so far stays, for the next time."""
        await self._sharing.close()

    # --- what is there ---

    def _find(self, source: Source) -> Path | None:
        if isinstance(source, FileSource):
            paths = [source.path.with_name(name) for name in part_names(source.path.name)]
            return paths[0] if all(path.exists() for path in paths) else None
        if isinstance(source, UrlSource):
            paths = [self._target(url) for url in part_urls(source.url)]
            return paths[0] if all(path.is_file() for path in paths) else None
        if source.folder:
            return self._find_chosen(source)
        found = [self._hub_cache.find(part) for part in _hub_parts(source)]
        return found[0] if all(found) else None

    def _find_chosen(self, source: HubSource) -> Path | None:
        """The file that was chosen in a folder when it was last looked at."""
        path = self._notes.get("chosen", self._hub.endpoint, str(source)).get("path")
        if not isinstance(path, str) or not is_safe_path(path):
            return None
        return self._find(HubSource(source.repo, source.revision, path))

    def _target(self, url: str) -> Path:
        return self._downloads / cache_name(url)

    # --- getting it there ---

    async def _obtain(self, source: Source, digests: Digests, report: Report) -> Path:
        path = self._find(source) or await self._download(source, digests, report)
        await self._verifier.check(path, digests, report)
        return path

    async def _download(self, source: Source, digests: Digests, report: Report) -> Path:
        if isinstance(source, FileSource):
            raise _no_file(source.path, self.cache)
        async with _client(self._retry) as client:
            if isinstance(source, UrlSource):
                parts = part_urls(source.url)
                paths = [await self._from_url(client, url, _of_first(digests, url, parts), report) for url in parts]
                return paths[0]
            if source.folder:
                folder, source = source, await self._hub.choose(client, source)
                self._notes.put("chosen", self._hub.endpoint, str(folder), path=source.path)
            files = _hub_parts(source)
            paths = [await self._from_hub(client, file, _of_first(digests, file, files), report) for file in files]
            return paths[0]

    async def _from_url(self, client: httpx.AsyncClient, url: str, digests: Digests, report: Report) -> Path:
        target = self._target(url)
        download = Download(url=url, partial=target.with_name(f"{target.name}.part"), digests=digests)

        def find() -> Path | None:
            return target if target.is_file() else None

        def publish() -> Path:
            os.replace(download.partial, target)
            return target

        lock = target.with_name(f"{target.name}.lock")
        return await self._transfer(client, download, lock, find, publish, report)

    async def _from_hub(self, client: httpx.AsyncClient, source: HubSource, digests: Digests, report: Report) -> Path:
        file = await self._hub.describe(client, source)
        blob = self._hub_cache.blob(source, file.etag)
        download = Download(
            url=file.url,
            # A name of our own: what other tools leave half-done may have holes.
            partial=blob.with_name(f"{blob.name}.infs.incomplete"),
            headers=self._hub.headers(),
            size=file.size,
            digests=_hub_digests(source, file, digests),
            fixed=True,
        )

        def find() -> Path | None:
            there = blob.is_file() or self._hub_cache.snapshot(source, file.commit).is_file()
            return self._hub_cache.link(source, file.commit, file.etag) if there else None

        def publish() -> Path:
            os.replace(download.partial, blob)
            return self._hub_cache.link(source, file.commit, file.etag)

        lock = self._hub_cache.lock(source, file.etag)
        return await self._transfer(client, download, lock, find, publish, report)

    async def _transfer(
        self,
        client: httpx.AsyncClient,
        download: Download,
        lock: Path,
        find: Callable[[], Path | None],
        publish: Callable[[], Path],
        report: Report,
    ) -> Path:
        """Download, unless somebody else does or did; whoever holds `lock` is waited for."""
        meter = Meter(report, unquote(public_url(download.url).rpartition("/")[2]))

        def waiting() -> None:
            meter.show(_size(download.partial), download.size, doing="another process is downloading it")

        async with file_lock(lock, waiting):
            with storage_errors(lock):
                path = find()
            if path is None:
                self._log.info("Downloading %s", public_url(download.url))
                await Transfer(client, self._retry, download, meter, self._log).run()
                with storage_errors(download.partial):
                    path = publish()
                self._verifier.remember(path, download.digests)
                self._log.info("Downloaded %s (%s)", path, size_text(_size(path)))
            return path


def _default_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("infs", appauthor=False)


@contextlib.asynccontextmanager
async def _client(policy: RetryPolicy) -> AsyncIterator[httpx.AsyncClient]:
    client = await open_client(policy)
    try:
        yield client
    finally:
        await client.aclose()


Part = TypeVar("Part")


def _of_first(digests: Digests, part: Part, parts: list[Part]) -> Digests:
    """The configured checksum is that of the first part."""
    return digests if part == parts[0] else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _hub_parts(source: HubSource) -> list[HubSource]:
    return [msgspec.structs.replace(source, path=path) for path in part_names(source.path)]


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


def _no_file(path: Path, cache: Path) -> SourceNotFound:
    names = part_names(path.name)
    missing = next((path.with_name(name) for name in names if not path.with_name(name).exists()), path)
    part = f", a part of a model in {len(names)} files" if len(names) > 1 else ""
    return SourceNotFound(
        f"{missing} is not there{part}. Put the file there, or correct `file`; a relative path starts at {cache}."
    )
