"""The model files on this machine: what there is, what it is called in a configuration, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from infs.errors import SourceError
from infs.store.downloads import NOTE
from infs.store.folders import list_folder, size_of
from infs.store.hubcache import HubCache, Snapshot
from infs.store.lmstudio import LmStudio
from infs.store.names import part_names
from infs.store.ollama import Ollama, OllamaModel
from infs.store.rules import FORMATS
from infs.store.selection import RepoFile, Selection, Wish
from infs.store.source import HubSource, LmStudioSource

_AUXILIARY = (NOTE, ".lock", ".part.json")


class EntryFile(Struct, frozen=True, kw_only=True):
    """A file of an entry.

    Attributes:
        name: its path in the repository or folder.
        path: where it is found.
        content: where its bytes lie; the same for files that share them.
        bytes: what that takes on the disk.
    """

    name: str
    path: Path
    content: Path
    bytes: int


class Entry(Struct, frozen=True, kw_only=True):
    """A model on this machine, or what is left of one.

    Attributes:
        kind: where it is from: the cache of the hub's tools, a download of infs from another server, or another tool.
        reference: as one writes it as `url` in a configuration; of a URL, without what may be secret in it.
        format: ``"GGUF model"`` and the like; empty for files that are no model by themselves.
        label: its quantisation, where its name tells it.
        path: what an engine is given; of an entry that is not complete, its first file.
        files: all of it, with what was downloaded so far.
        complete: whether all of it is there.
        removable: whether `Store.remove` may delete it: files of other tools belong to these.
        used: when it was last read, in seconds since 1970, where the system keeps that.
        repository: of the hub, of LM Studio, or the name of Ollama's model; the host of a download.
        commit: of the hub.
        revisions: branches and tags of the hub that are at that commit, as far as is known here.
        notes: what belongs to it besides, of Ollama: ``template``, ``license``, ``projector``, ...
    """

    kind: Literal["hub", "download", "ollama", "lmstudio"]
    reference: str
    format: str = ""
    label: str = ""
    path: Path
    files: list[EntryFile]
    complete: bool = True
    removable: bool = True
    used: float | None = None
    repository: str = ""
    commit: str = ""
    revisions: list[str] = []
    notes: list[str] = []

    @property
    def bytes(self) -> int:
        """What it takes on the disk; content that several of its files share counts once."""
        return disk_use([self])


def disk_use(entries: Iterable[Entry]) -> int:
    """The bytes that `entries` take together; content that several share counts once."""
    return sum({file.content: file.bytes for entry in entries for file in entry.files}.values())


class Catalogue:
    """Looks through all places where models lie. Reads only.

    Args:
        cache: that of the hub's tools.
        downloads: the folder of other downloads.
    """

    def __init__(self, cache: HubCache, downloads: Path, ollama: Ollama, lmstudio: LmStudio) -> None:
        self._cache = cache
        self._downloads = downloads
        self._ollama = ollama
        self._lmstudio = lmstudio

    def entries(self) -> list[Entry]:
        """All that there is, by kind and reference; what cannot be read is left out."""
        found = [*self._of_hub(), *self._of_downloads(), *self._of_ollama(), *self._of_lmstudio()]
        order = ("hub", "download", "lmstudio", "ollama")
        return sorted(found, key=lambda entry: (order.index(entry.kind), entry.reference, entry.commit))

    # --- the hub ---

    def _of_hub(self) -> Iterator[Entry]:
        for repo in self._cache.repositories():
            for snapshot in self._cache.snapshots(repo):
                yield from _of_snapshot(snapshot)
            partial = self._cache.partial(repo)
            if partial:
                source = HubSource(repo, "main", "", True)
                yield _entry("hub", str(source), [_file(each.parent, each) for each in partial], repo, complete=False)

    # --- downloads ---

    def _of_downloads(self) -> Iterator[Entry]:
        for folder in sorted(each for each in _children(self._downloads) if each.is_dir() and not each.is_symlink()):
            files = [each for each in _children(folder) if each.is_file() and not each.name.endswith(_AUXILIARY)]
            if files:
                yield _download(folder, files)

    # --- other tools ---

    def _of_ollama(self) -> Iterator[Entry]:
        for model in self._ollama.models():
            if "model" in model.layers:
                yield _of_ollama(model)

    def _of_lmstudio(self) -> Iterator[Entry]:
        for source, folder in self._lmstudio.models():
            for selection in _models(_listed(folder)):
                yield _of_lmstudio(source, folder, *selection)


def _of_snapshot(snapshot: Snapshot) -> Iterator[Entry]:
    """The models of a snapshot, and what else there is of it."""
    names = {file.path for file in snapshot.files}
    at = "main" if not snapshot.revisions or "main" in snapshot.revisions else snapshot.revisions[0]
    source = HubSource(snapshot.repo, at if snapshot.revisions else snapshot.commit, "", True)
    for kind, selection in _models(snapshot.files):
        there = [name for name in selection.files if name in names]
        names.difference_update(there)
        named = msgspec.structs.replace(source, path=selection.main, folder=not selection.main)
        yield _hub_entry(snapshot, str(named), there, selection, kind)
    if names:
        yield _hub_entry(snapshot, str(source), sorted(names))


def _hub_entry(
    snapshot: Snapshot, reference: str, names: list[str], selection: Selection | None = None, kind: str = ""
) -> Entry:
    files = [_file(snapshot.folder, snapshot.folder / name) for name in names]
    path = snapshot.folder if selection is None or not selection.main else snapshot.folder / selection.main
    return msgspec.structs.replace(
        _entry("hub", reference, files, snapshot.repo, complete=selection is None or not selection.missing),
        format=kind,
        label="" if selection is None else selection.label,
        path=path,
        commit=snapshot.commit,
        revisions=snapshot.revisions,
    )


def _download(folder: Path, files: list[Path]) -> Entry:
    """What lies in a folder of downloads: a file, or the parts of one, and what is on its way."""
    whole = sorted(path.name for path in files if not path.name.endswith(".part"))
    first = whole[0] if whole else files[0].name.removesuffix(".part")
    complete = all(name in whole for name in part_names(first))
    models = _models([RepoFile(name) for name in whole])
    host = folder.name.rpartition("-")[0]
    entry = _entry("download", _url_of(folder, first), [_file(folder, path) for path in files], host, complete=complete)
    return msgspec.structs.replace(
        entry,
        path=folder / part_names(first)[0] if complete else files[0],
        format=models[0][0] if models else "",
        label=models[0][1].label if models else "",
    )


def _url_of(folder: Path, name: str) -> str:
    """The URL of the first part that has a note; else the name is all that is known."""
    for part in part_names(name):
        try:
            return (folder / f"{part}{NOTE}").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
    return name


def _of_ollama(model: OllamaModel) -> Entry:
    files = [_file(model.manifest.parent, path, name) for name, path in model.layers.items() if path.is_file()]
    path = model.layers["model"]
    entry = _entry("ollama", str(model.source), files, model.source.name, complete=model.complete)
    return msgspec.structs.replace(
        entry, path=path, format="GGUF model", removable=False, notes=[kind for kind in model.layers if kind != "model"]
    )


def _of_lmstudio(source: LmStudioSource, folder: Path, kind: str, selection: Selection) -> Entry:
    named = msgspec.structs.replace(source, path=selection.main)
    files = [_file(folder, folder / name) for name in selection.files if (folder / name).is_file()]
    entry = _entry("lmstudio", str(named), files, source.repo, complete=not selection.missing)
    path = folder / selection.main if selection.main else folder
    return msgspec.structs.replace(entry, path=path, format=kind, label=selection.label, removable=False)


# --- parts ----------------------------------------------------------------------------------------------------


def _models(files: list[RepoFile]) -> list[tuple[str, Selection]]:
    """The models in `files`, each with its format."""
    return [(rule.format, selection) for rule in FORMATS for selection in rule.select(files, Wish())]


def _entry(
    kind: Literal["hub", "download", "ollama", "lmstudio"],
    reference: str,
    files: list[EntryFile],
    repository: str,
    *,
    complete: bool,
) -> Entry:
    used = [time for time in (_used(file.content) for file in files) if time is not None]
    return Entry(
        kind=kind,
        reference=reference,
        path=files[0].path,
        files=files,
        complete=complete,
        used=max(used, default=None),
        repository=repository,
    )


def _file(folder: Path, path: Path, name: str | None = None) -> EntryFile:
    content = path.resolve()
    named = path.relative_to(folder).as_posix() if name is None else name
    return EntryFile(name=named, path=path, content=content, bytes=size_of(content))


def _used(path: Path) -> float | None:
    try:
        return path.stat().st_atime
    except OSError:
        return None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _listed(folder: Path) -> list[RepoFile]:
    try:
        return list_folder(folder)
    except SourceError:
        return []
