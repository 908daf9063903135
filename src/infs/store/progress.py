"""Progress of a download, at a rate that people can read."""

from __future__ import annotations

import time
from collections.abc import Callable

from infs.store.pace import Pace
from infs.types import Progress

Report = Callable[[Progress], None]
INTERVAL = 0.1


class Meter:
    """Turns byte counts into `Progress` events, at most ten a second; the first and the last always come.

    The first count is what was there before, so it is no part of the speed.

    Args:
        report: gets the events.
        name: of the file, for people.
        clock: seconds, rising.
    """

    def __init__(self, report: Report, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self.name = name
        self._clock = clock
        self._next = float("-inf")
        self._pace = Pace()
        self.counting: Report | None = None  # is told of the download itself, not of what else takes time

    def show(self, done: int, total: int | None, *, doing: str = "", always: bool = False) -> None:
        """Say that `done` of `total` bytes are there; `doing` says what takes time, when it is not the download."""
        now = self._clock()
        if not always and now < self._next:
            return
        self._next = now + INTERVAL
        self._pace.seen(now, done)
        rate = self._pace.rate(now)
        progress = Progress(
            stage="download",
            done=done,
            total=total,
            unit="bytes",
            detail=f"{self.name}: {doing}" if doing else self.name,
            rate=rate,
            remaining=_remaining(done, total, rate),
        )
        if self.counting is not None and not doing:
            self.counting(progress)
        self._report(progress)


def _remaining(done: int, total: int | None, rate: float | None) -> float | None:
    """Seconds until `total`; ``None`` where nobody can say."""
    return max(0, total - done) / rate if total is not None and rate else None


def size_text(size: int) -> str:
    """`size` in bytes as people write it: ``"1.5 GB"``."""
    value = float(size)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
