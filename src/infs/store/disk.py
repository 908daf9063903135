"""What the store does to the disk, with its failures as errors of ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infs.errors import SourceError, StorageFull
from infs.store.progress import size_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES = 5
_MOMENT = 0.01  # seconds


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Inside, an `OSError` becomes a `SourceError` that says what to do about `path`.

    Raises:
        StorageFull: no space, no quota, or a file larger than the file system allows.
        SourceError: anything else.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise StorageFull(
                f"{path} cannot be written: {reason}. Free some space, or set cache_path to a folder on another disk. "
                f"What came so far is kept, and the next try goes on from there."
            ) from error
        raise SourceError(
            f"{error.filename or path} cannot be used: {reason}. Set cache_path to a folder that you can write to."
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """Raise `StorageFull` unless `needed` more bytes fit into `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFull(
            f"{folder} has {size_text(free)} free, and {size_text(needed)} are needed: free some space, or set "
            f"cache_path to a folder on another disk."
        )


def read_json(path: Path) -> dict[str, Any]:
    """The table in a small JSON file; empty when there is none, or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write a small file at once: a reader sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_text(text, encoding="utf-8")
        _replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _replace(new: Path, path: Path) -> None:
    """Give `new` the name `path`. On Windows that is refused while somebody reads what has it, so for a moment."""
    for _ in range(_TRIES):
        try:
            os.replace(new, path)
            return
        except PermissionError:
            time.sleep(_MOMENT)
    os.replace(new, path)


class Notes:
    """Small facts that outlive the process, each in a file of its own. Losing one costs time, never correctness."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, *key: str) -> dict[str, Any]:
        """What was noted under `key`; empty when nothing was."""
        note = read_json(self._path(key))
        return note if note.get("key") == list(key) else {}

    def put(self, *key: str, **facts: object) -> None:
        """Note `facts` under `key`. A cache that cannot be written is no reason to fail."""
        with contextlib.suppress(OSError):
            write_text(self._path(key), json.dumps({"key": key, **facts}))

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).hexdigest()
        return self._folder / f"{digest[:32]}.json"
