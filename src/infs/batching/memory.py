"""The tiers below the live cells, as the loop uses them: what is worth restoring, and how long everything takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from infs.batching.base import Save
from infs.batching.tiers import Costs, Data, Piece, TierCounts, Tiers

WORTH_ASKING = 16  # tokens for which restoring can pay


class ColdMemory:
    """Host memory and disk, for cells that were given up.

    Args:
        tiers: where they are.
        prefix: put before the space of every sequence: what must be equal for cells to be of use at all.
        clock: seconds, for what restoring costs.
    """

    def __init__(self, tiers: Tiers, prefix: str, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._tiers = tiers
        self._prefix = prefix
        self._clock = clock
        self.costs = Costs()

    # --- on the loop's thread

    def find(self, space: str, tokens: Sequence[int], start: int, limit: int) -> list[Piece]:
        """What is worth restoring of `tokens` from `start` on, at most up to `limit`, without a gap."""
        if limit - start < WORTH_ASKING:
            return []
        pieces = self._tiers.find(self._prefix + space, tokens, start, limit)
        if not pieces or pieces[-1].end - start < WORTH_ASKING:
            return []
        return pieces[: self.costs.worth(pieces)]

    def put(self, save: Save, data: Data) -> None:
        """Take what was serialised for `save`; nothing if that was impossible."""
        if data:
            self._tiers.put(self._prefix + save.space, save.tokens, save.start, data, whole=save.whole)

    def restore(self, piece: Piece, into: Callable[[Data], bool]) -> bool:
        """Have `into` take the data of `piece`; false if they are gone, or were not taken."""
        begin = self._clock()
        data = self._tiers.get(piece)
        if data is None or not into(data):
            return False
        self.costs.restored(piece.tier, piece.bytes, self._clock() - begin)
        return True

    def hold(self, held: bool) -> None:
        """The machine is computing, or (false) has time to write to disk."""
        self._tiers.hold(held)

    # --- on helper threads

    def prefetch(self, space: str, tokens: Sequence[int], known: Callable[[], int]) -> None:
        """Bring what is on disk of `tokens` into host memory, before the loop asks for it.

        Args:
            known: how many of them are in the cells; asked only if it matters.
        """
        space = self._prefix + space
        limit = len(tokens) - 1
        if limit < WORTH_ASKING:
            return
        self._tiers.refresh(space)
        if any(piece.tier == "disk" for piece in self._tiers.find(space, tokens, 0, limit)):
            self._tiers.prefetch(space, tokens, min(known(), limit), limit)

    def counts(self) -> dict[str, TierCounts]:
        """How the tiers are doing."""
        return {str(tier): counts for tier, counts in self._tiers.counts().items()}

    def shrink(self, host_bytes: int) -> None:
        """Have host memory hold no more than so many bytes from now on."""
        self._tiers.shrink(host_bytes)

    def close(self, timeout: float) -> None:
        """Write what is not yet on disk, for `timeout` seconds at most."""
        self._tiers.flush(timeout)
        self._tiers.close()
