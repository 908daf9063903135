"""Shortening a sequence that has outgrown its context."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from infs.batching.blocks import block_end, whole


@dataclass(frozen=True, slots=True)
class Shift:
    """What may be left out: the oldest tokens behind the first `keep`, up to one of `places` if there are any.

    Attributes:
        places: where messages begin, in tokens, rising; what is left begins with a whole message where possible.
    """

    keep: int = 0
    places: tuple[int, ...] = ()

    def apply(self, tokens: list[int], context: int) -> tuple[list[int], Shift]:
        """`tokens` without enough of the oldest to leave half of the rest of `context` free; and what holds for it.

        No block is cut, if `tokens` end in none.
        """
        keep, cut = self.cut(len(tokens), context)
        keep = whole(tokens, keep)
        if (start := whole(tokens, cut)) < cut:
            cut = block_end(tokens, start)
        gone = cut - keep
        later = tuple(place - gone for place in self.places if place > cut)
        return tokens[:keep] + tokens[cut:], Shift(keep, later)

    def cut(self, length: int, context: int) -> tuple[int, int]:
        """How many tokens stay at the beginning, and at which one it goes on, for `length` tokens."""
        keep = min(self.keep, (context - 1) // 2)
        room = max(1, (context - keep) // 2)
        least = max(keep, length - room)
        return keep, self._whole(least, length)

    def _whole(self, least: int, length: int) -> int:
        """`least`, or the next place where a message begins, as long as the end of the text stays."""
        index = bisect.bisect_left(self.places, least)
        found = self.places[index] if index < len(self.places) else length
        return found if found < length else least


def shifted(tokens: list[int], keep: int, context: int, places: Sequence[int] = ()) -> list[int]:
    """`tokens`, shortened once."""
    return Shift(keep, tuple(places)).apply(tokens, context)[0]
