"""Who on this machine has reserved how much memory: each server writes down its own, and reads those of others.

A pool's file lies in a folder that all servers of a user share. What is in it counts as long as its process lives, so a
killed server leaves nothing behind. Whoever reserves holds a lock, so that two do not take the same memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from infs.pool.machine import Machine
from infs.store import default_cache

LOCK_TIMEOUT = 2.0  # seconds; it is held for about a millisecond


def reservations_folder() -> Path:
    """The folder for all servers of this user."""
    return default_cache() / "reservations"


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes by device (``host`` for main memory) that process `pid` has for `model`, or is about to have."""

    model: str
    pid: int
    use: dict[str, int]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """All reservations of one pool, and the process that it is in."""

    pid: int
    started: float
    reservations: list[Reservation] = []


class Reservations:
    """The shared folder.

    Args:
        folder: ``None`` shares with nobody.
    """

    def __init__(self, folder: Path | None, machine: Machine, log: logging.Logger) -> None:
        self._folder = folder
        self._machine = machine
        self._log = log
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._started = machine.started(os.getpid()) or 0.0
        self._others: list[Reservation] = []

    @property
    def others(self) -> list[Reservation]:
        """Those of other pools, as last read."""
        return self._others

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Read what the others have, while nobody else reserves anything.

        A folder that cannot be used is a reason to go on alone, not to fail.
        """
        if self._folder is None:
            yield
            return
        from filelock import FileLock

        lock = FileLock(self._folder / "lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_TIMEOUT)
        except (OSError, NotImplementedError) as error:  # a Timeout is an OSError
            self._log.warning("Reservations of other servers cannot be seen: %s", error)
            yield
            return
        try:
            self._others = self._read(self._folder)
            yield
        finally:
            lock.release()

    def write(self, own: Mapping[int, Reservation]) -> None:
        """Write down our own."""
        if self._folder is None:
            return
        path = self._folder / self._name
        with contextlib.suppress(OSError):  # the others will not know; the machine's free memory tells them enough
            if not own:
                path.unlink(missing_ok=True)
                return
            page = Page(pid=os.getpid(), started=self._started, reservations=list(own.values()))
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(page))
            os.replace(new, path)

    def _read(self, folder: Path) -> list[Reservation]:
        found: list[Reservation] = []
        for path in sorted(folder.glob("*.json")):
            if path.name == self._name:
                continue
            try:
                page = msgspec.json.decode(path.read_bytes(), type=Page)
            except (OSError, msgspec.DecodeError):
                continue
            if self._machine.started(page.pid) == page.started:
                found += page.reservations
            else:  # its process is gone
                with contextlib.suppress(OSError):
                    path.unlink()
        return found
