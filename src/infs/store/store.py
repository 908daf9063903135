"""The store: from a model's source to verified files on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from infs.config import HubConfig, ModelConfig
from infs.errors import SourceError, SourceNotFound
from infs.store.catalogue import Catalogue, Entry
from infs.store.checksum import Verifier, wanted_digests
from infs.store.disk import Notes
from infs.store.downloads import Downloads
from infs.store.extras import wanted_extras
from infs.store.finder import Finder, Found
from infs.store.hub import Hub
from infs.store.hubcache import HubCache, shared_cache
from infs.store.lmstudio import LmStudio
from infs.store.obtaining import Obtainer
from infs.store.ollama import Ollama
from infs.store.progress import Report
from infs.store.queries import Query, wish_of
from infs.store.removing import Remover
from infs.store.rules import BUILTIN
from infs.store.selection import BESIDE, FileRule
from infs.store.sharing import Sharing
from infs.store.source import (
    FileSource,
    HubSource,
    OllamaSource,
    Source,
    UrlSource,
    find_source,
    parse_url,
    public_url,
)
from infs.store.web import RetryPolicy

_NO_HUB = HubConfig()
_PATIENT = RetryPolicy()


class Fetched(Struct, frozen=True, kw_only=True):
    """A model that is there.

    Attributes:
        path: what its engine is given: a file, or a folder.
        engine: the one that is configured, or that its files are for.
        extras: files beside it, by the keys of the configuration that name them, as in ``options.projector``.
    """

    path: Path
    engine: str
    extras: dict[str, Path] = {}


class Store:
    """Turns a model's `url` or `file` into a path, and tells the engine that it is for.

    What is in the cache is used as it is, without a look at the network. Files of the hub lie in the cache that
    all tools of the hub share, unless `cache_path` is given: then everything lies below that.

    Args:
        cache_path: folder for what is downloaded; the user's cache folder by default.
        hub: endpoint and token of the hub, and whether anything may be downloaded.
        environ: where ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE`` and
            ``OLLAMA_MODELS`` are read.
        log: gets a line for each download.
        retry: how failures of the network are met.
        rules: what models of each engine consist of, by the engines' names; where none is configured, the first one
            whose rule finds a model. An engine without one gets all files as they are. By default the built-in ones.

    Attributes:
        traffic: the downloads that run.

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
        rules: Mapping[str, FileRule] = BUILTIN,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.cache = default_cache() if cache_path is None else Path(cache_path).expanduser().absolute()
        self._rules = dict(rules)
        self._log = log or logging.getLogger(__name__)
        self._hub = Hub(hub, environ, retry)
        cache = HubCache(shared_cache(environ) if cache_path is None else self.cache / "hub")
        downloaded = self.cache / "downloads"
        ollama, lmstudio = Ollama(environ), LmStudio(environ)
        notes = Notes(self.cache / "notes")
        verifier = Verifier(notes)
        self._finder = Finder(
            self._rules,
            cache,
            downloaded,
            notes,
            self._hub.endpoint,
            ollama,
            lmstudio,
        )
        self._catalogue = Catalogue(cache, downloaded, ollama, lmstudio)
        self._remover = Remover(cache, downloaded)
        downloads = Downloads(self._hub, cache, self._finder.target, verifier, retry, self._log)
        self.traffic = downloads.traffic
        self._obtainer = Obtainer(self._finder, downloads, self._hub, verifier, self.cache, self._log)
        self._sharing: Sharing[Fetched] = Sharing(self._log)

    async def fetch(self, model: str, config: ModelConfig, progress: Report) -> Fetched | None:
        """The files of a model: there, complete, and with the checksum that the configuration asks for.

        Calls for the same files at the same time share one download; cancelling one leaves it to the others. Of
        a split model all parts are fetched, and the path is the first one's; a checksum is that part's too.

        Args:
            model: its id, for messages.
            progress: called on this event loop, at most ten times a second.

        Returns:
            ``None`` for a model that names neither `url` nor `file`.

        Raises:
            ConfigError: the source cannot be understood.
            SourceError: the files could not be had; the class says why.
            ServerClosed: after `close`.
        """
        query = self._query(config, f"models.{model}")
        if query is None:
            return None

        async def work(report: Report) -> Fetched:
            found = await self._obtainer.obtain(query, wanted_digests(config), report)
            extras = await self._extras(config, found, f"models.{model}", report)
            return Fetched(path=found.path, engine=found.engine, extras=extras)

        key = msgspec.json.encode([config.url, config.file, config.sha256, config.md5, query.wish, config.engine])
        return await self._sharing.run((key, repr(sorted(config.options.items()))), work, progress)

    def find(self, config: ModelConfig) -> Path | None:
        """Where the files of a model are, if all of them are there; nothing is checked, or asked of the network.

        Raises:
            ConfigError: the source cannot be understood.
        """
        query = self._query(config)
        found = None if query is None else self._find(query)
        return None if found is None else found.path

    def engine_of(self, config: ModelConfig, key: str = "model") -> str | None:
        """The engine of a model, as far as it can be told without the network: ``None`` when it cannot.

        It is the one that is configured, or the one that the name of the file says, or that files on this machine
        are for.

        Args:
            key: the model's key in the configuration, for messages.

        Raises:
            ConfigError: the source cannot be understood.
        """
        if config.engine is not None:
            return config.engine
        query = self._query(config, key)
        if query is None:
            return None
        found = self._find(query)
        if found is not None:
            return found.engine
        name = _file_name(query.source)
        return self._finder.engine_by_name(name) if name else None

    def catalogue(self) -> list[Entry]:
        """The model files on this machine that infs could use: of the hub, other downloads, Ollama and LM Studio.

        It reads folders, which takes a while on a slow disk, so call it in a thread.
        """
        return self._catalogue.entries()

    async def remove(self, entry: Entry) -> int:
        """Delete exactly the files of an entry of the catalogue; content that another revision uses stays.

        Returns:
            The bytes that are free now.

        Raises:
            SourceError: it belongs to another tool, is not in the cache, is being downloaded, or cannot be deleted.
        """
        return await self._remover.remove(entry)

    async def close(self) -> None:
        """End the downloads that run. What came so far stays, for the next time."""
        await self._sharing.close()

    # --- what is there ---

    def _query(self, config: ModelConfig, key: str = "model") -> Query | None:
        """What `config` asks for; ``None`` when it names no files."""
        source = find_source(config, self.cache, self._hub.endpoint, key)
        if source is None:
            return None
        key = f"{key}.file" if config.file is not None else f"{key}.url"
        beside = BESIDE in self._extras_of(config.engine, config).values()
        return Query(source, config.engine, wish_of(config, source), beside, key)

    def _extras_of(self, engine: str | None, config: ModelConfig) -> dict[str, str]:
        """What `config` names beside the model; without an engine, as the first that has a rule sees it."""
        rule = self._rules.get(engine) if engine is not None else next(iter(self._rules.values()), None)
        return wanted_extras(rule, config)

    def _find(self, query: Query) -> Found | None:
        """What is there; without a network also what looks complete. What is wrong there counts as nothing."""
        try:
            found = self._finder.find(query)
            if found is None and self._hub.offline and query.listed and isinstance(query.source, HubSource):
                found = self._finder.cached(query.source, query)
        except SourceError:
            return None
        return found

    async def _extras(self, config: ModelConfig, found: Found, key: str, report: Report) -> dict[str, Path]:
        """The files beside the model that the configuration names, and those that belong to it."""
        rule = self._rules.get(found.engine)
        named = {} if rule is None else rule.extras(config)
        paths = {name: path for name, path in found.bundled.items() if name not in named}
        for name, text in self._extras_of(found.engine, config).items():
            where = f"{key}.{name}"
            if text != BESIDE:
                source = parse_url(text, self._hub.endpoint, where)
                query = Query(source, found.engine, wish_of(ModelConfig(), source), key=where)
                paths[name] = (await self._obtainer.obtain(query, {}, report)).path
            elif name in found.beside:
                paths[name] = found.beside[name]
            else:
                raise SourceNotFound(f"{where}: there is no such file beside {found.path}; name it.")
        return paths


def default_cache() -> Path:
    """The cache of infs, where no `cache_path` is given."""
    from platformdirs import user_cache_path

    return user_cache_path("infs", appauthor=False)


def _file_name(source: Source) -> str:
    """The name of the file that `source` names; empty where it names none."""
    if isinstance(source, UrlSource):
        return unquote(public_url(source.url)).rpartition("/")[2]
    if isinstance(source, FileSource):
        return source.path.name
    return "" if isinstance(source, OllamaSource) or (isinstance(source, HubSource) and source.folder) else source.path
