"""How long a step takes, by the number of its tokens: learnt from the steps that were taken."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field

SAMPLES = 9  # of each size; their median is not impressed by a step that warmed something up or was interrupted
FRESH = 2048  # steps after which a size that was not measured again is forgotten: contexts and machines change
PRIOR_SLOPE = 0.05  # of a step's time, for each token more, as long as only one size was measured


@dataclass(slots=True)
class _Size:
    """Measurements of steps with about the same number of tokens; `at` is the number of the last step."""

    tokens: float
    at: int
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def median(self) -> float:
        """The lower one, so that of two the smaller counts."""
        return sorted(self.seconds)[(len(self.seconds) - 1) // 2]


class StepCosts:
    """Seconds of a step with so many tokens: measured sizes, and straight lines between them."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._steps = 0

    def add(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` tokens took so long. Values that make no sense are left out."""
        if tokens < 1 or not 0.0 < seconds < math.inf:
            return
        self._steps += 1
        size = self._sizes.get(key := _bucket(tokens))
        if size is None:
            size = self._sizes[key] = _Size(tokens, self._steps)
        size.tokens += (tokens - size.tokens) / (1 + len(size.seconds))
        size.seconds.append(seconds)
        size.at = self._steps

    def age(self, tokens: int) -> int:
        """Steps since one with about `tokens` tokens was measured; more than `FRESH` if it never was."""
        size = self._sizes.get(_bucket(tokens))
        return FRESH + 1 if size is None else self._steps - size.at

    def curve(self, first: int, last: int) -> list[float]:
        """Seconds of steps with `first`, `first` + 1, ..., `last` tokens; never falling.

        Below the smallest size that was measured it is flat; above the largest it rises as it does on the whole.

        Raises:
            LookupError: nothing was measured yet.
        """
        points = self._points()
        if not points:
            raise LookupError("no step was measured yet")
        curve: list[float] = []
        (x, y), rest = points[0], points[1:]
        for x2, y2 in [*rest, _beyond(points, last)]:
            slope = (y2 - y) / (x2 - x)
            upto = min(last, math.floor(x2))
            curve += [y + slope * max(0.0, n - x) for n in range(first + len(curve), upto + 1)]
            x, y = x2, y2
        return curve

    def _points(self) -> list[tuple[float, float]]:
        """The sizes that count, with their seconds, in order; a smaller step does not take longer than a larger."""
        sizes = sorted((s for s in self._sizes.values() if self._steps - s.at <= FRESH), key=lambda s: s.tokens)
        seconds = itertools.accumulate((s.median() for s in sizes), max)
        return [(s.tokens, y) for s, y in zip(sizes, seconds, strict=True)]


def _bucket(tokens: int) -> int:
    """Sizes that are measured as one: each up to seven has its own, then there are four for each doubling."""
    shift = max(0, tokens.bit_length() - 3)
    return shift * 8 + (tokens >> shift)


def _beyond(points: list[tuple[float, float]], last: int) -> tuple[float, float]:
    """A point behind the last one and behind `last`, on the line from the first to the last."""
    (x1, y1), (x2, y2) = points[0], points[-1]
    slope = (y2 - y1) / (x2 - x1) if len(points) > 1 else PRIOR_SLOPE * y1
    x = max(x2, last) + 1
    return x, y2 + slope * (x - x2)
