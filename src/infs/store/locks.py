"""Locks between processes that do not block the event loop and that a killed holder cannot leave behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from infs.errors import SourceError
from infs.store.disk import storage_errors

POLL = 0.1


@contextlib.asynccontextmanager
async def file_lock(path: Path, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """Hold the lock file `path`; `waiting` is called now and then while somebody else holds it.

    The operating system gives the lock back when its holder ends, however it ends. Waiting asks again and again
    instead of blocking a thread, so that it can be cancelled.

    Raises:
        SourceError: the folder cannot be written to, or its file system has no locks.
    """
    # Imported here: it is not small, and most starts find their files without a lock.
    from filelock import FileLock, Timeout

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except Timeout:
                waiting()
            except NotImplementedError as error:
                raise SourceError(
                    f"The file system of {path.parent} has no locks: set cache_path to a folder on a local disk."
                ) from error
            await asyncio.sleep(POLL)
    try:
        yield
    finally:
        lock.release()
