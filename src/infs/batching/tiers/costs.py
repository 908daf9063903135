"""When to restore and when to compute again, by measured times. Pure: the callers have the clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from infs.batching.tiers.blocks import Piece, Tier

_FORGET = 0.95  # what a measurement still weighs when the next one comes
_TRIAL_SHARE = 1 / 32  # of the time that computing takes, what may be lost by trying a rejected tier again
_TRIAL_LATEST = 1024  # rejections after which one is tried again in any case, lest one odd measurement decide for ever


@dataclass(slots=True)
class _Line:
    """``seconds = base + slope * amount``, by least squares over what was measured, the old weighing less."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self.weight = self.weight * _FORGET + 1.0
        self.x = self.x * _FORGET + amount
        self.y = self.y * _FORGET + seconds
        self.xx = self.xx * _FORGET + amount * amount
        self.xy = self.xy * _FORGET + amount * seconds

    def at(self, amount: float) -> float:
        """The seconds to expect for `amount`."""
        base, slope = self._fit()
        return base + slope * amount

    def _fit(self) -> tuple[float, float]:
        """Neither is below 0: a restore cannot get faster by being larger, nor take less than no time."""
        spread = self.weight * self.xx - self.x * self.x
        if spread > 1e-6 * self.weight * self.xx:
            slope = (self.weight * self.xy - self.x * self.y) / spread
            base = (self.y - slope * self.x) / self.weight
            if slope < 0:
                return self.y / self.weight, 0.0
            if base >= 0:
                return base, slope
        return (0.0, self.xy / self.xx) if self.xx else (self.y / self.weight, 0.0)


@dataclass(slots=True)
class _Rejected:
    """What was computed although it could have been restored, since the last try."""

    times: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Costs:
    """Measured times of computing tokens and of restoring blocks."""

    _tokens: float = 0.0
    _seconds: float = 0.0
    _lines: dict[Tier, _Line] = field(default_factory=lambda: {"host": _Line(), "disk": _Line()})
    _rejected: dict[Tier, _Rejected] = field(default_factory=lambda: {"host": _Rejected(), "disk": _Rejected()})

    def computed(self, tokens: int, seconds: float) -> None:
        """`tokens` of prompts were computed in `seconds`."""
        self._tokens = self._tokens * _FORGET + tokens
        self._seconds = self._seconds * _FORGET + seconds

    def restored(self, tier: Tier, size: int, seconds: float) -> None:
        """A block with `size` bytes of data was brought from `tier` into the cells in `seconds`, reading included."""
        self._lines[tier].add(size, seconds)

    def computing(self, tokens: int) -> float | None:
        """The seconds to expect for computing `tokens`; None before anything was measured."""
        return self._seconds / self._tokens * tokens if self._tokens else None

    def restoring(self, piece: Piece) -> float | None:
        """The seconds to expect for restoring a piece; None before anything was measured."""
        line = self._lines[piece.tier]
        return line.at(piece.bytes) if line.weight else None

    def worth(self, pieces: Sequence[Piece]) -> int:
        """How many of `pieces`, in the order of `Tiers.find`, to restore: those that save the most time; 0 for none.

        What was not measured yet is taken to be worth it: that is how it is measured. Once in a while a tier that was
        rejected is tried, so that it gets another chance: call it once for each decision.
        """
        best, best_saved, saved = 0, 0.0, 0.0
        for i, piece in enumerate(pieces):
            computing, restoring = self.computing(piece.end - piece.start), self.restoring(piece)
            if computing is None or restoring is None:
                best, best_saved = i + 1, saved
                continue
            saved += computing - restoring
            if saved > best_saved:
                best, best_saved = i + 1, saved
        return best if best or not pieces else self._trial(pieces[0], -self._saving(pieces[0]))

    def _saving(self, piece: Piece) -> float:
        return (self.computing(piece.end - piece.start) or 0.0) - (self.restoring(piece) or 0.0)

    def _trial(self, piece: Piece, lost: float) -> int:
        """1 if a rejected piece is to be restored all the same, which loses `lost` seconds, else 0."""
        rejected = self._rejected[piece.tier]
        rejected.times += 1
        rejected.seconds += self.computing(piece.end - piece.start) or 0.0
        if lost > rejected.seconds * _TRIAL_SHARE and rejected.times < _TRIAL_LATEST:
            return 0
        self._rejected[piece.tier] = _Rejected()
        return 1
