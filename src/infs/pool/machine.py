"""The memory of this machine: what there is, what is free, and what a process has of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import psutil
from msgspec import Struct

CGROUP = Path("/sys/fs/cgroup")  # of a container: what it may have is less than what the machine has


class HostMemory(Struct, frozen=True, kw_only=True):
    """Bytes of main memory: all of it, and what can still be had without anything being swapped out."""

    total: int
    available: int


class Machine(Protocol):
    """Where the pool learns about memory and processes; tests have one of their own."""

    def host(self) -> HostMemory:
        """The main memory."""
        ...

    def private(self, pid: int) -> int:
        """Bytes that process `pid` has for itself: not those of mapped files, which can be dropped. 0 if it is gone."""
        ...

    def started(self, pid: int) -> float | None:
        """When the process was started, which tells it from a later one of the same number; ``None`` if it is gone."""
        ...


class ThisMachine:
    """The real one."""

    def host(self) -> HostMemory:
        """What the system says, or the container that this runs in."""
        memory = psutil.virtual_memory()
        limit, used = _container()
        if limit is None or limit >= memory.total:
            return HostMemory(total=memory.total, available=memory.available)
        return HostMemory(total=limit, available=max(0, min(memory.available, limit - used)))

    def private(self, pid: int) -> int:
        try:
            memory = psutil.Process(pid).memory_info() if pid > 0 else None
        except psutil.Error:
            return 0
        return 0 if memory is None else int(memory.rss) - int(getattr(memory, "shared", 0))

    def started(self, pid: int) -> float | None:
        try:
            return float(psutil.Process(pid).create_time())
        except psutil.Error:
            return None


def _container() -> tuple[int | None, int]:
    """The most that this container may have, if there is a limit, and what it has that cannot be dropped."""
    if sys.platform != "linux":
        return None, 0
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None, 0
    counts = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    return limit, max(0, used - counts.get("inactive_file", 0) - counts.get("active_file", 0))
