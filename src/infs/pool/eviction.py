"""Which loaded models make room for another one. Pure: no clock, no I/O.

The least recently used idle one goes first, and a busy one never while it runs. When the memory does not hold all
that is wanted at the same time, models take turns: one that was loaded may serve for some time, in proportion to what
loading it took, before it has to let others in; then it takes no new requests, and goes when the last one has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOADS = 4.0  # a turn is so many times as long as loading took
SHORTEST, LONGEST = 0.2, 30.0  # seconds of a turn
LINGER = 8.0  # an idle model is given up within its turn after this part of it, in which nobody wanted it


@dataclass(frozen=True, slots=True)
class Resident:
    """An instance that holds memory.

    Attributes:
        use: bytes by device.
        since: when it was ready.
        used: when it was last used.
        load: seconds that loading it took.
        kept: it must stay.
    """

    number: int
    use: Mapping[str, int]
    since: float
    used: float
    load: float
    busy: bool
    kept: bool = False

    @property
    def turn(self) -> float:
        """Seconds that it may serve before it has to make room."""
        return min(LONGEST, max(SHORTEST, LOADS * self.load))

    def ripe(self, busy: bool) -> float:
        """When it can be asked to go."""
        over = self.since + self.turn
        return over if busy else min(over, self.used + self.turn / LINGER)


@dataclass(slots=True)
class Verdict:
    """What to do: unload these now, let those take no more requests, and look `again` at some time.

    `blocked`: nothing of it would make enough room.
    """

    evict: list[int] = field(default_factory=list)
    drain: list[int] = field(default_factory=list)
    again: float | None = None
    blocked: bool = False


def make_room(short: Mapping[str, int], residents: Sequence[Resident], now: float) -> Verdict:
    """How to get `short` more bytes of each device."""
    able = [r for r in residents if not r.kept and any(r.use.get(place, 0) for place in short)]
    idle = sorted((r for r in able if not r.busy), key=lambda r: (r.ripe(False) > now, r.used))
    busy = sorted((r for r in able if r.busy), key=lambda r: r.since)
    chosen = _cover(short, [*idle, *busy])
    if chosen is None:
        return Verdict(blocked=True)
    verdict = Verdict()
    for resident in chosen:
        if (ripe := resident.ripe(resident.busy)) > now:
            verdict.again = ripe if verdict.again is None else min(verdict.again, ripe)
        elif resident.busy:
            verdict.drain.append(resident.number)
        else:
            verdict.evict.append(resident.number)
    return verdict


def _cover(short: Mapping[str, int], able: Sequence[Resident]) -> list[Resident] | None:
    """The first of `able` that have enough together, without those that are not needed; ``None`` if all have not."""
    chosen: list[Resident] = []
    for resident in able:
        if _enough(short, chosen):
            break
        chosen.append(resident)
    if not _enough(short, chosen):
        return None
    for resident in list(chosen):
        rest = [other for other in chosen if other is not resident]
        if _enough(short, rest):
            chosen = rest
    return chosen


def _enough(short: Mapping[str, int], residents: Sequence[Resident]) -> bool:
    return all(sum(r.use.get(place, 0) for r in residents) >= count for place, count in short.items())
