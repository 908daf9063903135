"""A model that is there, complete and right: found on this machine, or else downloaded."""

from __future__ import annotations

import logging
from pathlib import Path

from infs.errors import DownloadFailed, SourceNotFound
from infs.store.checksum import Digests, Verifier
from infs.store.downloads import Downloads
from infs.store.finder import Finder, Found
from infs.store.hub import Hub, forbidden
from infs.store.names import part_names
from infs.store.progress import Report
from infs.store.queries import Query, folder_of, hub_parts, in_folder, place_of, wish_in
from infs.store.source import FileSource, HubSource, LmStudioSource, OllamaSource, UrlSource

# Endings of what is a model only together with other files.
_NOT_ALONE = (".safetensors", ".onnx", ".index.json")


class Obtainer:
    """Finds, downloads and checks.

    Args:
        cache: where relative paths start, for messages.
    """

    def __init__(
        self, finder: Finder, downloads: Downloads, hub: Hub, verifier: Verifier, cache: Path, log: logging.Logger
    ) -> None:
        self._finder = finder
        self._downloads = downloads
        self._hub = hub
        self._verifier = verifier
        self._cache = cache
        self._log = log

    async def obtain(self, query: Query, digests: Digests, report: Report) -> Found:
        """The model that `query` asks for.

        Args:
            digests: what its file must hash to.

        Raises:
            SourceError: the class says why.
            ConfigError: something that is asked for has no meaning there.
        """
        found = self._finder.find(query)
        if found is None or await self._damaged(found, query, report):
            found = await self._get(query, digests, report)
        await self._verifier.check(found.path, digests, report)
        return found

    async def _damaged(self, found: Found, query: Query, report: Report) -> bool:
        """Whether a file of a download was changed since, and is deleted now."""
        if self._hub.offline or not isinstance(query.source, UrlSource | HubSource):
            return False
        damaged = [await self._verifier.discard_damaged(path, report, self._log) for path in found.files]
        return any(damaged)

    async def _get(self, query: Query, digests: Digests, report: Report) -> Found:
        source = query.source
        if isinstance(source, FileSource):
            raise _no_file(source.path, self._cache)
        if isinstance(source, OllamaSource | LmStudioSource):
            raise self._finder.missing(source)
        if isinstance(source, UrlSource):
            return await self._from_url(source, query, digests, report)
        if query.listed:
            return await self._from_folder(source, query, digests, report)
        async with self._downloads.client() as client:
            paths = await self._downloads.from_hub(client, hub_parts(source), digests, report)
        return self._finder.file(paths, query)

    async def _from_url(self, source: UrlSource, query: Query, digests: Digests, report: Report) -> Found:
        name = self._finder.target(source.url).name
        if query.engine is None and name.lower().endswith(_NOT_ALONE) and self._finder.engine_by_name(name) is None:
            raise self._finder.unclaimed(name)
        async with self._downloads.client() as client:
            paths = await self._downloads.from_url(client, source.url, digests, report)
        return self._finder.file(paths, query)

    # --- folders of the hub ---

    async def _from_folder(self, source: HubSource, query: Query, digests: Digests, report: Report) -> Found:
        if self._hub.offline:
            return self._without_network(source, query)
        async with self._downloads.client() as client:
            try:
                files = await self._hub.files(client, folder_of(source))
            except DownloadFailed as error:
                return self._without_network(source, query, error)
            chosen = self._finder.choose(files, query, place_of(source), wish_in(source, query))
            parts = [in_folder(source, name) for name in chosen.selection.all_files]
            await self._downloads.from_hub(client, parts, digests if chosen.selection.main else {}, report)
        self._finder.note(query, chosen)
        return self._finder.in_snapshot(source, chosen)

    def _without_network(self, source: HubSource, query: Query, error: DownloadFailed | None = None) -> Found:
        """What the cache holds of a repository that cannot be looked at now."""
        found = self._finder.cached(source, query)
        if found is None:
            raise error or forbidden(str(source))
        if error is not None:
            self._log.warning("%s What is in the cache of %s is used.", error, source)
        return found


def _no_file(path: Path, cache: Path) -> SourceNotFound:
    names = part_names(path.name)
    missing = next((path.with_name(name) for name in names if not path.with_name(name).exists()), path)
    part = f", a part of a model in {len(names)} files" if len(names) > 1 else ""
    return SourceNotFound(
        f"{missing} is not there{part}. Put the file there, or correct `file`; a relative path starts at {cache}."
    )
