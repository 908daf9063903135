"""Checksums: computed beside the event loop, and remembered, so that a large file is not read at each start."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from infs.config import ModelConfig
from infs.errors import ChecksumMismatch, ConfigError
from infs.store.disk import Notes, storage_errors
from infs.store.progress import Meter, Report

CHUNK = 4 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")

# The wanted digests by the name of their algorithm, in lower-case hexadecimal.
Digests = Mapping[str, str]


def wanted_digests(config: ModelConfig) -> dict[str, str]:
    """What the configuration says that the file must hash to."""
    given = {"sha256": config.sha256, "md5": config.md5}
    return {name: digest.lower() for name, digest in given.items() if digest is not None}


async def digests_of(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digests of a file, read once in a thread; cancelling stops the reading.

    Raises:
        OSError: when it cannot be read.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_hash, path, names, stop)
    finally:
        stop.set()


def _hash(path: Path, names: tuple[str, ...], stop: threading.Event) -> dict[str, str]:
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as file:
        while not stop.is_set() and (chunk := file.read(CHUNK)):
            for each in hashes.values():
                each.update(chunk)
    return {name: each.hexdigest() for name, each in hashes.items()}


def mismatch(what: str, wanted: Digests, found: Digests) -> str | None:
    """A sentence about the first digest that differs; ``None`` when all agree."""
    for name, digest in wanted.items():
        if found[name] != digest:
            return f"{what} has the {name} checksum {found[name]}, and {digest} is wanted."
    return None


def show_checking(path: Path, report: Report) -> None:
    """Say that a file is there and its checksum is computed, which takes a while for a large one."""
    size = path.stat().st_size
    Meter(report, path.name).show(size, size, doing="checking")


class Verifier:
    """Checks files that lie on the disk, and remembers the result for as long as size and time stay the same."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    async def check(self, path: Path, wanted: Digests, report: Report) -> None:
        """Raise unless `path` hashes to `wanted`; its content is read only when this was not found out before.

        Raises:
            ChecksumMismatch: with both digests.
            ConfigError: a folder has no checksum.
        """
        if not wanted:
            return
        with storage_errors(path):
            known = self._known(path)
            missing = tuple(name for name in wanted if name not in known)
            if missing:
                show_checking(path, report)
                known |= await digests_of(path, missing)
                self.remember(path, known)
        wrong = mismatch(str(path), wanted, known)
        if wrong is not None:
            raise ChecksumMismatch(f"{wrong} {_advice(path)}")

    def remember(self, path: Path, digests: Digests) -> None:
        """Note that `path`, as it lies there now, is whole, and hashes to `digests`."""
        self._notes.put("digests", str(path.resolve()), state=_state(path), digests=dict(digests))

    async def discard_damaged(self, path: Path, report: Report, log: logging.Logger) -> bool:
        """Delete a downloaded file that is not what it was when it was remembered, with a line in `log`.

        Another size is damage. With the same size but another time the content decides, where its checksum is known
        (the hub's cache names content by it), and is damage else. A file that is seen for the first time is remembered.

        Args:
            path: a file that can be downloaded again: never one of the user's own.

        Returns:
            Whether it was deleted.

        Raises:
            SourceError: it cannot be read, or not deleted.
        """
        with storage_errors(path):
            state = _state(path)
            wrong, wanted = self._compare(path, state)
            if wanted:
                show_checking(path, report)
                found = await digests_of(path, tuple(wanted))
                wrong = mismatch(str(path), wanted, found)
                if wrong is None:
                    self.remember(path, found)
            if wrong is None:
                return False
            log.warning("%s It is deleted, to be downloaded again.", wrong)
            _delete(path, state)
            return True

    def _compare(self, path: Path, state: list[int]) -> tuple[str | None, Digests]:
        """What is wrong with `path` by its note; and what it must hash to, if only its content can tell."""
        real = path.resolve()
        note = self._notes.get("digests", str(real))
        if not note:
            self.remember(path, {})
        if note.get("state", state) == state:
            return None, {}
        size = note["state"][0]
        if size != state[0]:
            return f"{path} has {state[0]} bytes, and had {size}: it is damaged.", {}
        wanted = {**note["digests"], **({"sha256": real.name} if _SHA256.fullmatch(real.name) else {})}
        return (None, wanted) if wanted else (f"{path} was changed after its download.", {})

    def _known(self, path: Path) -> dict[str, str]:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, which has no checksum: leave sha256 and md5 out, or name a file.")
        note = self._notes.get("digests", str(path.resolve()))
        return dict(note["digests"]) if note.get("state") == _state(path) else {}


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _delete(path: Path, state: list[int]) -> None:
    """Delete what `path` leads to, unless another process has replaced it since it was looked at."""
    if _state(path) == state:
        path.resolve().unlink()


def _advice(path: Path) -> str:
    return (
        f"Correct the configuration, or put the right file there; if it was downloaded, delete {path.resolve()} to "
        f"have it downloaded again."
    )
