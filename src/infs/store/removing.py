"""Deletes models from the caches: exactly the files of an entry, nothing outside of its cache, nothing in use by a
download."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from infs.errors import SourceError
from infs.store.catalogue import Entry
from infs.store.downloads import NOTE
from infs.store.folders import size_of
from infs.store.hubcache import PARTIAL, HubCache
from infs.store.locks import file_lock
from infs.store.source import HubSource

_OWNERS = {"ollama": "Ollama: remove it with `ollama rm`", "lmstudio": "LM Studio: remove it there"}


class Remover:
    """Removes entries of the catalogue.

    Args:
        cache: that of the hub's tools.
        downloads: the folder of other downloads.
    """

    def __init__(self, cache: HubCache, downloads: Path) -> None:
        self._cache = cache
        self._downloads = downloads

    async def remove(self, entry: Entry) -> int:
        """Delete the files of `entry`. Content that another revision of the hub uses stays.

        Returns:
            The bytes that are free now.

        Raises:
            SourceError: it belongs to another tool, is not in the cache, is being downloaded, or cannot be deleted.
        """
        if not entry.removable:
            raise SourceError(f"{entry.reference} belongs to {_OWNERS.get(entry.kind, 'another tool')}.")
        try:
            if entry.kind == "download":
                return await self._remove_download(entry)
            return await (self._remove_files(entry) if entry.commit else self._remove_partial(entry))
        except OSError as error:
            raise SourceError(
                f"{error.filename or entry.path} cannot be removed: {error.strerror or error}. Is the model loaded?"
            ) from error

    # --- the hub ---

    async def _remove_files(self, entry: Entry) -> int:
        repo = self._repository(entry)
        snapshot = repo / "snapshots" / entry.commit
        paths = [file.path for file in entry.files]
        for path in paths:
            _check_inside(path.parent, snapshot)
        blobs = {path.resolve() for path in paths if path.is_symlink() and path.resolve().parent == repo / "blobs"}
        async with self._locked(entry, (blob.name for blob in blobs)):
            freed = sum(_unlink(path) for path in paths)
            in_use = {path.resolve() for path in (repo / "snapshots").rglob("*") if path.is_symlink()}
            freed += sum(_unlink(blob) for blob in blobs - in_use)
            self._tidy(repo, snapshot, entry.commit)
        return freed

    async def _remove_partial(self, entry: Entry) -> int:
        repo = self._repository(entry)
        paths = [file.path for file in entry.files]
        for path in paths:
            _check_inside(path, repo / "blobs")
            if path.parent.resolve() != repo / "blobs" or not path.name.endswith(PARTIAL):
                raise _outside(path, repo)
        async with self._locked(entry, {path.name.partition(".")[0] for path in paths}):
            freed = sum(_unlink(path) for path in paths)
            self._tidy(repo)
        return freed

    def _repository(self, entry: Entry) -> Path:
        """The real folder of the entry's repository, which is no link to another place."""
        folder, root = self._cache.repository(entry.repository), self._cache.root.resolve()
        if folder.resolve() != root / folder.name or not folder.is_dir():
            raise _outside(folder, root)
        return folder.resolve()

    @contextlib.asynccontextmanager
    async def _locked(self, entry: Entry, etags: Iterable[str]) -> AsyncIterator[None]:
        source = HubSource(entry.repository, "main", "", True)
        async with contextlib.AsyncExitStack() as stack:
            for etag in sorted(etags):
                await stack.enter_async_context(_try_lock(self._cache.lock(source, etag), entry))
            yield

    def _tidy(self, repo: Path, snapshot: Path | None = None, commit: str = "") -> None:
        """Take away what is empty now, and the names of revisions of which nothing is left."""
        if snapshot is not None:
            _remove_empty(snapshot)
        if commit and snapshot is not None and not snapshot.exists():
            for ref in [path for path in (repo / "refs").rglob("*") if path.is_file() and _holds(path, commit)]:
                ref.unlink()
            shutil.rmtree(repo / ".no_exist" / commit, ignore_errors=True)
        _remove_empty(repo)

    # --- downloads ---

    async def _remove_download(self, entry: Entry) -> int:
        folder = entry.path.parent
        if folder.is_symlink() or folder.resolve().parent != self._downloads.resolve():
            raise _outside(folder, self._downloads)
        targets = {file.path.name.removesuffix(".part") for file in entry.files}
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted(targets):
                await stack.enter_async_context(_try_lock(folder / f"{name}.lock", entry))
            freed = sum(_unlink(folder / file.path.name) for file in entry.files)
            for path in [*folder.glob(f"*{NOTE}"), *folder.glob("*.part*")]:
                path.unlink()
            # While they are held: a lock on a name that is gone is noticed, and asked for again.
            for name in targets:
                with contextlib.suppress(OSError):
                    (folder / f"{name}.lock").unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        return freed


@contextlib.asynccontextmanager
async def _try_lock(path: Path, entry: Entry) -> AsyncIterator[None]:
    def taken() -> None:
        raise SourceError(f"{entry.reference} is being downloaded: stop that, or wait for its end.")

    async with file_lock(path, taken):
        yield


def _check_inside(path: Path, folder: Path) -> None:
    """Raise unless `path`, with all links followed, is `folder` or below it, and `folder` where it seems to be."""
    real = path.resolve()
    if folder.resolve() != folder or not (real == folder or real.is_relative_to(folder)):
        raise _outside(path, folder)


def _outside(path: Path, folder: Path) -> SourceError:
    return SourceError(f"{path} is not a file or folder of {folder}, so it is not removed, and nothing else is either.")


def _unlink(path: Path) -> int:
    """Delete a file or link; the bytes that this frees."""
    size = 0 if path.is_symlink() else size_of(path)
    path.unlink(missing_ok=True)
    return size


def _holds(ref: Path, commit: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return ref.read_text(encoding="utf-8").strip() == commit
    return False


def _remove_empty(folder: Path) -> None:
    """Remove `folder` and what is below it, as far as it is empty."""
    for at, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(at)
