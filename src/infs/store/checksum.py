"""Checksums: computed beside the event loop, and remembered, so that a large file is not read at each start."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from infs.config import ModelConfig
from infs.errors import ChecksumMismatch, ConfigError
from infs.store.disk import Notes, storage_errors
from infs.store.progress import Meter, Report

CHUNK = 4 * 1024 * 1024

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
        """Note that `path`, as it lies there now, hashes to `digests`."""
        if digests:
            self._notes.put("digests", str(path.resolve()), state=_state(path), digests=dict(digests))

    def _known(self, path: Path) -> dict[str, str]:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, which has no checksum: leave sha256 and md5 out, or name a file.")
        note = self._notes.get("digests", str(path.resolve()))
        return dict(note["digests"]) if note.get("state") == _state(path) else {}


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _advice(path: Path) -> str:
    return (
        f"Correct the configuration, or put the right file there; if it was downloaded, delete {path.resolve()} to "
        f"have it downloaded again."
    )
