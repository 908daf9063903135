"""Finds models among what is on this machine. Asks nobody, and changes nothing but notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from infs.errors import SourceError, SourceNotFound
from infs.store.disk import Notes
from infs.store.folders import list_folder
from infs.store.hubcache import HubCache
from infs.store.lmstudio import LmStudio
from infs.store.names import cache_name, part_names, part_urls
from infs.store.ollama import Ollama
from infs.store.queries import Query, folder_of, hub_parts, in_folder, place_of, wish_in
from infs.store.rules import FORMATS, PROJECTOR
from infs.store.selection import Chosen, FileRule, Place, RepoFile, Wish, choose_engine, no_engine
from infs.store.source import (
    FileSource,
    HubSource,
    LmStudioSource,
    OllamaSource,
    UrlSource,
    is_safe_path,
)

_BEGINNING = 64


class Found(Struct, frozen=True, kw_only=True):
    """A model that is on this machine.

    Attributes:
        path: what its engine is given.
        files: all that belong to it.
        beside: files that it can make use of, by the keys of the configuration that would name them.
        bundled: those that belong to it and are used unless others are named.
    """

    path: Path
    engine: str
    files: tuple[Path, ...]
    beside: dict[str, Path] = {}
    bundled: dict[str, Path] = {}


class Finder:
    """Knows all places where models lie.

    Args:
        rules: of the engines, by their names, in the order in which engines are chosen.
        cache: that of the hub's tools.
        downloads: the folder of other downloads.
    """

    def __init__(
        self,
        rules: Mapping[str, FileRule],
        cache: HubCache,
        downloads: Path,
        notes: Notes,
        endpoint: str,
        ollama: Ollama,
        lmstudio: LmStudio,
    ) -> None:
        self._rules = rules
        self._cache = cache
        self._downloads = downloads
        self._notes = notes
        self._endpoint = endpoint
        self._ollama = ollama
        self._lmstudio = lmstudio

    def find(self, query: Query) -> Found | None:
        """The model, if all of it is there. A folder of the hub counts from when it was once looked at.

        Raises:
            SourceError: there is something, and it is no model, or several.
            ConfigError: patterns for a single file.
        """
        source = query.source
        if isinstance(source, FileSource):
            return self.local(source.path, query)
        if isinstance(source, UrlSource):
            query.check_patterns()
            paths = [self.target(url) for url in part_urls(source.url)]
            return self.file(paths, query) if all(path.is_file() for path in paths) else None
        if isinstance(source, OllamaSource):
            return self._of_ollama(source, query)
        if isinstance(source, LmStudioSource):
            path = self._lmstudio.find(source)
            return None if path is None else self.local(path, query)
        return self._noted(source, query) if query.listed else self._of_hub(source, query)

    def target(self, url: str) -> Path:
        """Where the file of `url` lies when it was downloaded."""
        return self._downloads / cache_name(url)

    def missing(self, source: OllamaSource | LmStudioSource) -> SourceNotFound:
        """The error for a model that another tool has not fetched."""
        return self._ollama.missing(source) if isinstance(source, OllamaSource) else self._lmstudio.missing(source)

    # --- files and folders ---

    def local(self, path: Path, query: Query) -> Found | None:
        """The model at `path`, a file or a folder.

        Raises:
            SourceError: it holds no model, several, or one that is not complete.
        """
        if path.is_dir():
            chosen = self.choose(list_folder(path), query, _place_of(path))
            return _found(chosen, path)
        query.check_patterns()
        paths = [path.with_name(name) for name in part_names(path.name)]
        if not all(each.exists() for each in paths):
            return None
        if not query.beside:
            return self.file(paths, query)
        wish = msgspec.structs.replace(query.wish, path=path.name)
        files = list_folder(path.parent, deep=False)
        return _found(self.choose(files, query, _place_of(path.parent), wish), path.parent)

    def choose(self, files: Iterable[RepoFile], query: Query, place: Place, wish: Wish | None = None) -> Chosen:
        """See `choose_engine`."""
        wish = query.wish if wish is None else wish
        chosen = choose_engine(self._rules, files, wish, place, engine=query.engine, known=FORMATS)
        if query.beside:
            return chosen
        return msgspec.structs.replace(chosen, selection=msgspec.structs.replace(chosen.selection, beside={}))

    def unclaimed(self, name: str) -> SourceNotFound:
        """The error for a single file that no engine claims."""
        return no_engine(name, self._rules)

    def _engine_of(self, path: Path, engine: str | None) -> str:
        """The engine for the single file `path`: by its name, else by its content."""
        found = engine or self.engine_by_name(path.name)
        if found is None:
            beginning = _beginning(path)
            found = next((name for name, rule in self._rules.items() if rule.recognises(beginning)), None)
        if found is None:
            raise self.unclaimed(str(path))
        return found

    def engine_by_name(self, path: str) -> str | None:
        """The engine for a single file, as far as its name tells; ``None`` when it does not."""
        parts = [RepoFile(part) for part in part_names(path)]
        return next((name for name, rule in self._rules.items() if rule.select(parts, Wish())), None)

    def file(self, paths: list[Path], query: Query) -> Found:
        """A model that is a file, or the parts of one.

        Raises:
            SourceNotFound: no engine claims it.
        """
        return Found(path=paths[0], engine=self._engine_of(paths[0], query.engine), files=tuple(paths))

    def _of_ollama(self, source: OllamaSource, query: Query) -> Found | None:
        query.check_patterns()
        model = self._ollama.find(source)
        if model is None:
            return None
        projector = model.layers.get("projector")
        bundled = {} if projector is None else {PROJECTOR: projector}
        return msgspec.structs.replace(self.file([model.layers["model"]], query), beside=bundled, bundled=bundled)

    # --- the hub's cache ---

    def _of_hub(self, source: HubSource, query: Query) -> Found | None:
        query.check_patterns()
        found = [self._cache.find(part) for part in hub_parts(source)]
        paths = [path for path in found if path is not None]
        return self.file(paths, query) if len(paths) == len(found) else None

    def _noted(self, source: HubSource, query: Query) -> Found | None:
        """What was chosen in a folder when it was last looked at, if all of that is there."""
        note = self._notes.get(*self._note_key(query))
        try:
            chosen = msgspec.convert(note.get("chosen"), Chosen)
        except msgspec.ValidationError:
            return None
        names = chosen.selection.all_files
        if not names or not all(is_safe_path(name) for name in names):
            return None
        there = [self._cache.find(in_folder(source, name)) for name in names]
        return self.in_snapshot(source, chosen) if all(there) else None

    def note(self, query: Query, chosen: Chosen) -> None:
        """Remember what was chosen."""
        self._notes.put(*self._note_key(query), chosen=msgspec.to_builtins(chosen))

    def cached(self, source: HubSource, query: Query) -> Found | None:
        """The model in a folder of the hub, judged by what is in the cache of it, since the hub cannot be asked.

        Raises:
            SourceError: there is something, and it is no model, several, or one that is not complete.
        """
        commit = self._cache.commit(source)
        folder = None if commit is None else self._cache.snapshot(folder_of(source), commit)
        if folder is None or not folder.is_dir():
            return None
        return _found(self.choose(list_folder(folder), query, place_of(source), wish_in(source, query)), folder)

    def in_snapshot(self, source: HubSource, chosen: Chosen) -> Found:
        """A model that was chosen in the folder of `source`, and is in the cache."""
        commit = self._cache.commit(source)
        if commit is None:
            raise SourceError(f"{source} was removed from the cache meanwhile; try again.")
        return _found(chosen, self._cache.snapshot(folder_of(source), commit))

    def _note_key(self, query: Query) -> tuple[str, ...]:
        wish = msgspec.json.encode([query.wish, query.engine, query.beside, list(self._rules)]).decode()
        return ("chosen", self._endpoint, str(query.source), wish)


def _place_of(folder: Path) -> Place:
    return Place(str(folder), "file", lambda selection: str(folder / (selection.main or selection.files[0])))


def _found(chosen: Chosen, folder: Path) -> Found:
    selection = chosen.selection
    return Found(
        path=folder / selection.main if selection.main else folder,
        engine=chosen.engine,
        files=tuple(folder / name for name in selection.all_files),
        beside={key: folder / name for key, name in selection.beside.items()},
    )


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING)
    except OSError:
        return b""
