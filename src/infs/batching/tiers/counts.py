"""What the tiers count."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct


class TierCounts(Struct, frozen=True, kw_only=True):
    """How one tier is doing. All but `entries` and `bytes` only grow.

    Attributes:
        entries: blocks that are there now; on disk, those of the spaces that were looked at.
        bytes: what they take; on disk, files of all spaces and processes when last looked.
        hits: blocks that were read from here.
        misses: blocks that were asked for and are not here (any more).
        stored: blocks that were put here.
        evicted: blocks that went to make room for others.
        dropped: blocks that were not stored: too large, no room, or more waiting to be written than may wait.
        restored: tokens that did not have to be computed, because a block from here has them.
        corrupt: files that were damaged or not ours, and were deleted.
        errors: failures of the file system.
    """

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    dropped: int = 0
    restored: int = 0
    corrupt: int = 0
    errors: int = 0


@dataclass(slots=True)
class Tally:
    """The growing ones, while they are counted."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    dropped: int = 0
    restored: int = 0
    corrupt: int = 0
    errors: int = 0

    def counts(self, entries: int, size: int) -> TierCounts:
        """These, with what is there now."""
        return TierCounts(
            entries=entries,
            bytes=size,
            hits=self.hits,
            misses=self.misses,
            stored=self.stored,
            evicted=self.evicted,
            dropped=self.dropped,
            restored=self.restored,
            corrupt=self.corrupt,
            errors=self.errors,
        )
