"""How many prompt tokens a step may take: as many as keep running streams flowing. Pure: the loop has the clock."""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST = 32  # prompt tokens of a step in any case, so that prompts get on
GRAIN = 32  # sizes are multiples of this: kernels like round numbers, and measurements repeat
UNHURRIED = 4.0  # target latencies that a step may take while nobody is streaming
FADE = 0.7  # what a measurement still weighs when the next one comes


@dataclass(slots=True)
class Pacing:
    """Chooses the size of steps by what steps of such sizes took.

    Args:
        target: seconds between two tokens of a stream that reading prompts may take.
        largest: tokens of the largest step.

    Attributes:
        beside: prompt tokens of a step in which streams are running.
        alone: tokens of a step without streams.
    """

    target: float
    largest: int
    beside: int = field(init=False)
    alone: int = field(init=False)
    _rate: float | None = None  # seconds of a prompt token, where the size of steps is near the one in use

    def __post_init__(self) -> None:
        self.beside = self.alone = self.largest

    def took(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` tokens, prompts mostly, took so long."""
        if tokens < LEAST or seconds <= 0.0:
            return
        rate = seconds / tokens
        self._rate = rate if self._rate is None else self._rate * FADE + rate * (1 - FADE)
        self.beside = self._size(self.target)
        self.alone = self._size(self.target * UNHURRIED)

    def _size(self, seconds: float) -> int:
        assert self._rate is not None
        size = int(seconds / self._rate) // GRAIN * GRAIN
        return min(self.largest, max(LEAST, size))
