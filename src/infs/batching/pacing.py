"""How many prompt tokens a step may take: as many as keep running streams flowing. Pure: the loop has the clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from infs.batching.plan import Limits

UNHURRIED = 4.0  # target latencies that a step may take while nobody is streaming
FADE = 0.7  # what a measurement still weighs when the next one comes


@dataclass(slots=True)
class Pacing:
    """Chooses the size of steps by what steps of such sizes took.

    Args:
        target: seconds between two tokens of a stream that reading prompts may take.
        largest: tokens of the largest step.
        grain: sizes are multiples of this, and at least this, so that prompts get on: kernels like round numbers, and
            measurements repeat.
        rate: seconds of a prompt token, where steps have about the size in use; ``None`` as long as that is unknown.

    Attributes:
        beside: prompt tokens of a step in which streams are running.
        alone: tokens of a step without streams.
    """

    target: float
    largest: int
    grain: int = 32
    rate: float | None = None
    beside: int = field(init=False)
    alone: int = field(init=False)

    def __post_init__(self) -> None:
        self.beside = self.alone = self.largest
        if self.rate is not None:
            self._choose(self.rate)

    def took(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` tokens, prompts mostly, took so long."""
        rate = seconds / tokens
        if tokens < self.grain or rate <= 0.0:
            return
        self.rate = rate if self.rate is None else self.rate * FADE + rate * (1 - FADE)
        self._choose(self.rate)

    def apply(self, limits: Limits) -> None:
        """Have steps be of the sizes that were chosen."""
        limits.step, limits.beside = max(self.alone, limits.live), self.beside

    def _choose(self, rate: float) -> None:
        self.beside = self._size(self.target / rate)
        self.alone = self._size(self.target * UNHURRIED / rate)

    def _size(self, tokens: float) -> int:
        if tokens >= self.largest:
            return self.largest
        return min(self.largest, max(self.grain, int(tokens) // self.grain * self.grain))
