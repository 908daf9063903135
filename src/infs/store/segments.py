"""Which parts of a file are there, which are on their way, and which is to be fetched next."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from infs.store.pace import Pace

PATIENCE = 1.0  # seconds
WINDOW = 2.0  # seconds

# The first byte, and the one behind the last.
Range = tuple[int, int]


class Ranges:
    """A set of bytes of a file, as ranges in order that neither overlap nor touch."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for first, end in ranges:
            self.add(first, end)

    def add(self, first: int, end: int) -> None:
        """Have the bytes from `first` up to `end`, without it."""
        if first >= end:
            return
        start = bisect_left(self._ranges, first, key=lambda each: each[1])
        stop = start
        while stop < len(self._ranges) and self._ranges[stop][0] <= end:
            first, end = min(first, self._ranges[stop][0]), max(end, self._ranges[stop][1])
            stop += 1
        self._ranges[start:stop] = [(first, end)]

    def gap(self, total: int) -> Range | None:
        """The first range below `total` that is missing."""
        first, end = 0, total
        for start, stop in self._ranges:
            if start > first:
                end = min(start, total)
                break
            first = stop
        return (first, end) if first < end else None

    def below(self, end: int) -> Ranges:
        """What of it lies below `end`."""
        return Ranges((first, min(stop, end)) for first, stop in self._ranges)

    @property
    def beginning(self) -> int:
        """How many bytes are there without a gap, from the first one on."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    @property
    def size(self) -> int:
        """How many bytes there are in all."""
        return sum(end - first for first, end in self._ranges)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]


class Piece:
    """A range that one connection fetches: `at` is the next byte to come, `end` the one behind the last.

    Attributes:
        helps: the piece of a slow connection whose end this one is; that is cut as soon as something comes here.
        stop: called when nothing of the piece is left because others were quicker.
    """

    stop: Callable[[], None]

    def __init__(self, first: int, end: int, now: float, helps: Piece | None = None) -> None:
        self.first = first
        self.at = first
        self.end = end
        self.helps = helps
        self.started = now
        self.stop = lambda: None
        self._pace = Pace(WINDOW)
        self._pace.seen(now, first)

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self.end - self.at

    def received(self, count: int, now: float) -> None:
        """Note that `count` more bytes are here."""
        self.at += count
        self._pace.seen(now, self.at)
        if self.helps is not None:
            helped, self.helps = self.helps, None
            helped.end = max(helped.at, min(helped.end, self.first))
            if helped.left == 0:
                helped.stop()

    def rate(self, now: float) -> float | None:
        """Bytes per second lately; ``None`` when it has just begun."""
        return self._pace.rate(now) if now - self.started >= PATIENCE else None


class Pieces:
    """Hands out what is missing of a file to several connections, in order.

    When nothing is left to hand out, who asks gets the end of the piece that would take longest: so a connection that
    is slow, or has stopped, holds nothing up. It keeps its piece until the other end has really sent something
    for the new one, since both may just wait for a server that takes its time.

    Args:
        total: bytes of the file.
        done: what is there; whoever writes adds to it.
        size: bytes of a piece.
        clock: seconds, rising.
    """

    def __init__(self, total: int, done: Ranges, size: int, clock: Callable[[], float]) -> None:
        self._total = total
        self._done = done
        self._size = size
        self._clock = clock
        self._active: list[Piece] = []
        # Bytes per second of the fastest piece so far.
        self._best = 0.0

    @property
    def complete(self) -> bool:
        """Whether all is there."""
        return self._done.gap(self._total) is None

    def take(self) -> Piece | None:
        """What to fetch next, from now on the caller's; ``None`` when all is in good hands."""
        taken = Ranges([*self._done, *((each.first, each.end) for each in self._active)])
        gap = taken.gap(self._total)
        if gap is None:
            return self._help()
        return self._start(Piece(gap[0], min(gap[1], gap[0] + self._size), self._clock()))

    def received(self, piece: Piece, count: int) -> None:
        """Note that `count` more bytes of `piece` are here."""
        piece.received(count, self._clock())

    def release(self, piece: Piece) -> None:
        """Note that nobody fetches `piece` any more; what is missing of it is handed out again."""
        self._active.remove(piece)
        for each in self._active:
            if each.helps is piece:
                each.helps = None
        seconds = self._clock() - piece.started
        if piece.left <= 0 and seconds > 0:
            self._best = max(self._best, (piece.end - piece.first) / seconds)

    def _start(self, piece: Piece) -> Piece:
        self._active.append(piece)
        return piece

    def _help(self) -> Piece | None:
        now = self._clock()
        helped = [each.helps for each in self._active if each.helps is not None]
        slow = [
            (_seconds(each, rate), each, rate)
            for each in self._active
            if each.left > 0 and each not in helped and (rate := each.rate(now)) is not None
        ]
        seconds, piece, rate = max(slow, key=lambda each: each[0], default=(0.0, None, 0.0))
        if piece is None or seconds <= PATIENCE:
            return None
        # Both should be done at the same time.
        share = rate / (rate + max(rate, self._best)) if rate else 0.0
        first = piece.at + int(piece.left * share)
        return self._start(Piece(first, piece.end, now, helps=piece))


def _seconds(piece: Piece, rate: float) -> float:
    """How long `piece` will take."""
    return piece.left / rate if rate else float("inf")
