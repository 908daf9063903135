"""Bytes on their way into a file: gathered, and written by a thread at their place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CHUNK = 1024 * 1024

Result = TypeVar("Result")


class Sink:
    """Writes to a file from one place on. `close` it, since it holds the file.

    Args:
        path: the file, made where there is none.
        at: the byte at which it begins.
        written: told up to which byte the file is written.
    """

    def __init__(self, path: Path, at: int, written: Callable[[int], None] = lambda end: None) -> None:
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._file.seek(at)
        self._at = at
        self._written = written
        # Allocated once: memory that is new each time costs more than the copying.
        self._buffer = memoryview(bytearray(CHUNK))
        self._used = 0

    async def put(self, chunk: bytes) -> None:
        """Have `chunk` written some time.

        Raises:
            OSError: the disk did not do it; what it took counts.
        """
        view = memoryview(chunk)
        while view:
            count = min(len(view), CHUNK - self._used)
            self._buffer[self._used : self._used + count] = view[:count]
            self._used += count
            view = view[count:]
            if self._used == CHUNK:
                await self._drain()

    async def sync(self) -> None:
        """Write all there is, so that a power failure does not take it.

        Raises:
            OSError
        """
        await self._drain()
        await in_thread(lambda: os.fsync(self._file.fileno()))

    def close(self) -> None:
        """Write what waits, and let go of the file.

        Raises:
            OSError
        """
        try:
            self._write()
        finally:
            self._written(self._at)
            self._file.close()

    async def _drain(self) -> None:
        try:
            await in_thread(self._write)
        finally:
            self._written(self._at)

    def _write(self) -> None:
        view, self._used = self._buffer[: self._used], 0
        while view:
            count = self._file.write(view)
            self._at += count
            view = view[count:]


async def in_thread(work: Callable[[], Result]) -> Result:
    """The result of `work`, done by a thread, which has ended when this ends: also when it is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        done, _ = await asyncio.wait([task])
        for each in done:
            # Looked at because nobody else will.
            each.exception()
        raise
