"""The thread that writes blocks to disk, behind everybody's back."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from infs.batching.tiers.blocks import Block, BlockId, Data

_log = logging.getLogger("infs.cache")


class Writer:
    """Calls `write` for each added block and `use` for each used one, on a thread that is started when needed.

    Args:
        write, use: what the thread calls, never both at the same time. `write` is told whether nothing else is
            waiting to be written.
        limit: bytes of data that wait at most, or one block if it has more: the oldest are dropped.
    """

    def __init__(self, write: Callable[[Block, Data, bool], None], use: Callable[[BlockId], None], limit: int) -> None:
        self._write = write
        self._use = use
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: OrderedDict[BlockId, tuple[Block, Data]] = OrderedDict()
        self._used: dict[BlockId, int] = {}
        self._bytes = 0
        self._busy = False
        self._held = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, block: Block, data: Data) -> int:
        """Have `block` written some time, or not at all if more come than can be written; returns how many are not."""
        dropped = 0
        with self._changed:
            if self._closed:
                return 1
            self._take(block.id)
            self._waiting[block.id] = block, data
            self._bytes += len(data)
            while self._bytes > self._limit and len(self._waiting) > 1:
                self._take(next(iter(self._waiting)))
                dropped += 1
            self._wake()
        return dropped

    def used(self, id: BlockId, start: int) -> None:
        """Have the file of a block marked as used; `start` is its first position, for those of one chain."""
        with self._changed:
            if not self._closed:
                self._used[id] = start
                self._wake()

    def hold(self, held: bool) -> None:
        """While it is held it writes only what would be dropped otherwise."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is left to do, at most `timeout` seconds; False if something is. Ends a hold."""
        self.hold(False)
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def close(self) -> None:
        """End the thread; what it has not begun to write is not written. Idempotent."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._used.clear()
            self._bytes = 0
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _idle(self) -> bool:
        return not (self._waiting or self._used or self._busy)

    def _due(self) -> bool:
        """Whether there is something to do now."""
        if self._held:
            return self._bytes > self._limit // 2
        return bool(self._waiting or self._used)

    def _take(self, id: BlockId) -> tuple[Block, Data] | None:
        held = self._waiting.pop(id, None)
        if held:
            self._bytes -= len(held[1])
        return held

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="infs-cache-writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Do what there is to do, or wait for it; False at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._due())
            if self._closed:
                return False
            self._busy = True
            # The beginning of a chain is marked last, and outlives its end, which is of no use alone.
            used = sorted(self._used, key=self._used.__getitem__, reverse=True)
            self._used.clear()
            held = self._take(next(iter(self._waiting))) if self._waiting else None
            last = not self._waiting
        try:
            for id in used:
                self._use(id)
            if held:
                self._write(*held, last)
        except Exception:
            _log.exception("A block of the context cache was not written")
        return True
