"""How fast a count rises."""

from __future__ import annotations

from collections import deque

WINDOW = 5.0  # seconds
LEAST = 0.5  # seconds
RESOLUTION = 0.1  # seconds


class Pace:
    """The speed of something that is counted, over the last seconds.

    The first count is where it starts: what was there before is no speed. A count that falls starts it anew.

    Args:
        window: seconds that count.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()

    def seen(self, now: float, count: int) -> None:
        """Note that the count is `count` at `now` (seconds, rising)."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        if len(self._seen) > 1 and now - self._seen[-2][0] < RESOLUTION:
            self._seen.pop()
        self._seen.append((now, count))

    def rate(self, now: float) -> float | None:
        """Units per second; ``None`` while too little was seen to say."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()
        if not self._seen or now - self._seen[0][0] < LEAST:
            return None
        since, first = self._seen[0]
        return (self._seen[-1][1] - first) / (now - since)
