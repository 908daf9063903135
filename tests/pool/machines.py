"""A machine whose memory is what a test says."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from infs.pool.machine import HostMemory


@dataclass
class FakeMachine:
    """Sizes in bytes. What processes have for themselves is in `processes`; those in `dead` have ended."""

    total: int = 100_000
    available: int = 100_000
    processes: dict[int, int] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)

    def host(self) -> HostMemory:
        return HostMemory(total=self.total, available=self.available)

    def private(self, pid: int) -> int:
        return self.processes.get(pid, 0)

    def started(self, pid: int) -> float | None:
        return None if pid in self.dead else float(pid == os.getpid())
