"""The files of all spaces below one folder: what is there, how large it is, and what goes first.

Other processes write and delete there too. Nothing is locked: a folder is listed again when its time of change is
another than before, and a file that is gone when its turn comes is simply gone.
"""

from __future__ import annotations

import heapq
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infs.batching.tiers.blocks import BlockId
from infs.batching.tiers.files import SUFFIX, TEMPORARY

_SPACE = re.compile(r"[0-9a-f]{32}")
_TICK = 3_000_000_000  # ns: a folder that changed so recently may change again without another time of change
_AHEAD = 60 * 1_000_000_000  # ns: a file from further in the future was used before the clock was set back
_STALE = 3600 * 1_000_000_000  # ns: a temporary file that nobody has written to for so long is left over


@dataclass(slots=True)
class _File:
    size: int
    used: int  # the time of change in ns, which is set when the block is used


@dataclass(slots=True)
class _Folder:
    changed: int = -1
    files: dict[str, _File] = field(default_factory=dict)  # by the name of the block
    temporary: int = 0  # bytes of what is being written


class Shelves:
    """The files of blocks below `root`, one folder for each space. Used by one thread at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bytes = 0  # of all files, those being written included, when they were last looked at, and of `added` ones
        self.surveyed = False
        self._folders: dict[str, _Folder] = {}

    def path(self, id: BlockId) -> Path:
        """Where the file of a block is, if there is one."""
        return self.root / id.space / f"{id.name}{SUFFIX}"

    def names(self, space: str) -> set[str]:
        """The blocks of a space that are there now.

        Raises:
            OSError: the folder is there, but cannot be read.
        """
        if not self.surveyed:
            self.survey()
        self._look(space)
        return set(self._folders[space].files) if space in self._folders else set()

    def survey(self) -> int:
        """Look at all spaces that can be read; returns the size of all files in bytes.

        Raises:
            OSError: `root` is there, but cannot be read.
        """
        try:
            with os.scandir(self.root) as entries:
                spaces = {entry.name for entry in entries if _SPACE.fullmatch(entry.name)}
        except FileNotFoundError:
            spaces = set()
        for space in spaces | set(self._folders):
            with suppress(OSError):
                self._look(space)
        self.surveyed = True
        return self._sum()

    def added(self, id: BlockId, size: int) -> None:
        """This process has just written a file of `size` bytes: to know so much, there is no need to look."""
        files = self._folders.setdefault(id.space, _Folder()).files
        known = files.get(id.name)
        files[id.name] = _File(size, time.time_ns())
        self.bytes += size - (known.size if known else 0)

    def evict(self, size: int) -> list[BlockId]:
        """Delete what was not used for the longest time, at least `size` bytes of it if there are so many.

        Call `survey` before. Returns what is gone, be it that others deleted it.
        """
        now = time.time_ns()
        order = [
            (_rank(file.used, now), BlockId(space, name))
            for space, folder in self._folders.items()
            for name, file in folder.files.items()
        ]
        heapq.heapify(order)
        gone: list[BlockId] = []
        while order and size > 0:
            rank, id = heapq.heappop(order)
            later = self._used_since(id, rank, now)
            if later is not None:
                heapq.heappush(order, (later, id))
            elif self._delete(id):
                size -= self._folders[id.space].files.pop(id.name).size
                gone.append(id)
        for space in {id.space for id in gone}:
            self._tidy(space)
        self._sum()
        return gone

    def _sum(self) -> int:
        folders = self._folders.values()
        self.bytes = sum(sum(file.size for file in f.files.values()) + f.temporary for f in folders)
        return self.bytes

    def _look(self, space: str) -> None:
        """Bring what is known of a space up to date."""
        path = self.root / space
        try:
            changed = path.stat().st_mtime_ns
            folder = self._folders.setdefault(space, _Folder())
            if changed != folder.changed:
                settled = abs(time.time_ns() - changed) > _TICK
                self._list(path, folder)
                folder.changed = changed if settled and not folder.temporary else -1  # what is left over grows old
        except FileNotFoundError:
            self._folders.pop(space, None)

    def _list(self, path: Path, folder: _Folder) -> None:
        """List a folder; only files that are new here are asked for their size."""
        found: dict[str, _File] = {}
        folder.temporary = 0
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name[: -len(SUFFIX)]
                file = folder.files.get(name)
                if file is not None and entry.name.endswith(SUFFIX):  # most are known, and cost little
                    found[name] = file
                    continue
                with suppress(FileNotFoundError):
                    if entry.name.endswith(SUFFIX):
                        found[name] = _look_at(entry)
                    elif entry.name.endswith(TEMPORARY):
                        folder.temporary += _clean(entry)
        folder.files = found

    def _used_since(self, id: BlockId, rank: int, now: int) -> int | None:
        """The new rank of a file that somebody used after it was listed, else None."""
        try:
            stat = self.path(id).stat()
        except OSError:
            return None
        file = self._folders[id.space].files[id.name]
        file.size, file.used = stat.st_size, stat.st_mtime_ns
        later = _rank(file.used, now)
        return later if later > rank else None

    def _delete(self, id: BlockId) -> bool:
        try:
            self.path(id).unlink(missing_ok=True)
        except OSError:  # Windows: somebody is reading it
            return False
        return True

    def _tidy(self, space: str) -> None:
        """Remove the folder of a space that has nothing left; who is just about to write there makes it again."""
        if not self._folders[space].files:
            with suppress(OSError):
                (self.root / space).rmdir()


def _rank(used: int, now: int) -> int:
    """What goes first. Files from the future go before all others, for they would stay for ever."""
    return used if used <= now + _AHEAD else 0


def _look_at(entry: os.DirEntry[str]) -> _File:
    stat = entry.stat()
    return _File(stat.st_size, stat.st_mtime_ns)


def _clean(entry: os.DirEntry[str]) -> int:
    """The size of a temporary file, which is deleted if nobody is writing it any more."""
    stat = entry.stat()
    if abs(time.time_ns() - stat.st_mtime_ns) > _STALE:
        with suppress(OSError):
            os.unlink(entry.path)
            return 0
    return stat.st_size
