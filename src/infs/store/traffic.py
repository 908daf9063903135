"""What a store downloads at the moment, and how much that was since its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infs.store.progress import Report
from infs.types import Progress


class Traffic:
    """Keeps the last word of each download that runs.

    Attributes:
        bytes: that came over the network.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._running: dict[int, Progress] = {}
        self._next = 0

    @property
    def running(self) -> list[Progress]:
        """The downloads that go on, in the order in which they began."""
        return list(self._running.values())

    @contextmanager
    def counted(self) -> Iterator[Report]:
        """What is to be told of the progress of one download; the first word says what was there before."""
        number, self._next = self._next, self._next + 1

        def report(progress: Progress) -> None:
            before = self._running.get(number)
            if before is not None:
                self.bytes += max(0, progress.done - before.done)
            self._running[number] = progress

        try:
            yield report
        finally:
            self._running.pop(number, None)
