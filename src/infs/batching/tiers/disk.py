"""The tier on disk: one file for each block, shared by all processes that are given the same folder."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from infs.batching.tiers import files
from infs.batching.tiers.blocks import Block, BlockId, Data
from infs.batching.tiers.counts import Tally, TierCounts
from infs.batching.tiers.shelves import Shelves

_log = logging.getLogger("infs.cache")
_FLOOR = 1 << 30
_FLOOR_SHARE = 0.05
_UNSEEN = 16  # this part of the limit is written before looking what others have written
_SPARE = 32  # this part of the limit is freed beyond what is needed, so that not every write has to choose what goes


@dataclass(frozen=True, slots=True)
class Change:
    """What is on disk now that was not, and what no longer is."""

    added: list[Block] = field(default_factory=list)
    gone: list[BlockId] = field(default_factory=list)


class DiskCache:
    """Blocks in files below `folder`, at most `limit` bytes of them, of all spaces and processes together.

    No method raises because of the file system: what goes wrong is counted, logged once for each kind of error, and the
    block is not there. Files are readable by the user only, since conversations are private. Methods may be called by
    any thread; all of them read or write files.

    Args:
        folder: made when it is first needed.
        limit: bytes. Several that write at the same time may exceed it for a moment, until the next `tidy`, each by
            1/16 at most.
        floor: bytes of the disk that stay free; by default 1 GiB, or 5% of the disk if that is less.
    """

    def __init__(self, folder: Path, limit: int, *, floor: int | None = None) -> None:
        self.limit = limit
        self._floor = floor
        self._shelves = Shelves(folder)
        self._lock = (
            threading.Lock()
        )  # for the shelves and for what is known of them, not while data are read or written
        self._known: dict[str, set[str]] = {}
        self._unseen = 0  # bytes written since everything was looked at
        self._tally = Tally()
        self._counting = threading.Lock()
        self._complained: set[object] = set()

    # --- what is there

    def refresh(self, space: str) -> Change:
        """What has changed in the space with id `space` since it was last asked for; everything, the first time.

        It costs next to nothing unless the folder has changed, and one small read for each new file.
        """
        change = Change()
        new: set[str] = set()
        with self._failures(), self._lock:
            known, names = self._known.setdefault(space, set()), self._shelves.names(space)
            change.gone.extend(BlockId(space, name) for name in known - names)
            new = names - known
            known &= names
        for name in new:
            with self._failures():
                change.added.extend(self._look(BlockId(space, name)))
        return change

    def counts(self) -> TierCounts:
        """How the tier is doing."""
        return self._tally.counts(sum(map(len, list(self._known.values()))), self._shelves.bytes)

    # --- blocks

    def write(self, block: Block, data: Data) -> Change:
        """Store a block, and delete others if they are too many. Does nothing if there is a file for it already."""
        change = Change()
        with self._failures():
            if self._shelves.path(block.id).exists():
                self.use(block.id)
                change.added.append(block)
            else:
                self._store(block, data, change)
        return self._noted(change)

    def tidy(self) -> Change:
        """Look at what others have written, and delete old blocks if all together are too many.

        To be called when nothing else is to be written for the moment.
        """
        change = Change()
        with self._failures():
            self._unseen = self.limit
            self._make_room(0, change)
        return self._noted(change)

    def read(self, id: BlockId) -> tuple[Block, bytes] | None:
        """A block and its data; None if it is not there (any more), or damaged, in which case it is deleted."""
        found = None
        with self._failures(), self._verified(id), suppress(FileNotFoundError):
            found = files.read_data(self._shelves.path(id), id)
        self.count(hits=int(found is not None), misses=int(found is None))
        if found is None:
            with self._lock:
                self._known.get(id.space, set()).discard(id.name)
        return found

    def use(self, id: BlockId) -> None:
        """A block was used just now, and goes later than others."""
        with self._failures(), suppress(FileNotFoundError):
            os.utime(self._shelves.path(id))

    def count(self, **more: int) -> None:
        """Add to what is counted."""
        with self._counting:
            for name, number in more.items():
                setattr(self._tally, name, getattr(self._tally, name) + number)

    # --- inner workings

    def _look(self, id: BlockId) -> list[Block]:
        """The block of a file that is new here; none, if it is damaged or gone."""
        with self._verified(id), suppress(FileNotFoundError):
            block = files.read_block(self._shelves.path(id), id)
            with self._lock:
                self._known[id.space].add(id.name)
            return [block]
        return []

    def _store(self, block: Block, data: Data, change: Change) -> None:
        start = files.head(block, data)
        size = len(start) + len(data)
        if size > self.limit or not self._make_room(size, change):
            self.count(dropped=1)
            return
        path = self._shelves.path(block.id)
        try:
            _folder(path.parent)
            files.write(path, start, data)
        except FileNotFoundError:  # somebody has removed the folder between the two
            _folder(path.parent)
            files.write(path, start, data)
        change.added.append(block)
        self.count(stored=1)
        with self._lock:
            self._shelves.added(block.id, size)
            self._unseen += size

    def _make_room(self, size: int, change: Change) -> bool:
        """Delete old blocks so that `size` more bytes stay within the limit; False if there is no room."""
        short = self._short(size)
        with self._lock:
            shelves = self._shelves
            unsure = not shelves.surveyed or self._unseen * _UNSEEN >= self.limit
            if unsure or short or shelves.bytes + size > self.limit:
                shelves.survey()
                self._unseen = 0
            over = shelves.bytes + size - self.limit
            gone = shelves.evict(max(over + self.limit // _SPARE if over > 0 else 0, short))
            left = shelves.bytes
        change.gone.extend(gone)
        self.count(evicted=len(gone))
        return left + size <= self.limit and (not short or not self._short(size))

    def _noted(self, change: Change) -> Change:
        """`change`, once it is part of what is known."""
        with self._lock:
            for id in change.gone:
                self._known.get(id.space, set()).discard(id.name)
            for block in change.added:
                self._known.setdefault(block.id.space, set()).add(block.id.name)
        return change

    def _short(self, size: int) -> int:
        """How many bytes are missing on the disk for `size` more, if others are to have some left; 0 for none."""
        if not size:
            return 0
        folder = self._shelves.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        disk = shutil.disk_usage(folder)
        floor = min(_FLOOR, int(disk.total * _FLOOR_SHARE)) if self._floor is None else self._floor
        return max(0, size + floor - disk.free)

    @contextmanager
    def _verified(self, id: BlockId) -> Iterator[None]:
        """A damaged file is counted and deleted; whoever it was good for computes its tokens again."""
        try:
            yield
        except files.Damaged as damage:
            self.count(corrupt=1)
            _log.warning("A file of the context cache is deleted: %s (%s)", self._shelves.path(id), damage)
            self._shelves.path(id).unlink(missing_ok=True)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.count(errors=1)
            if error.errno not in self._complained:
                self._complained.add(error.errno)
                _log.warning("The context cache on disk does without: %s. Further such errors are not logged.", error)


def _folder(path: Path) -> None:
    """Make the folder of a space, and those above, for the user only."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
