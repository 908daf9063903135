"""Which cells of a cache are in use, where sequences share some: counted, so that none is wanted that is not there."""

from __future__ import annotations

from collections.abc import Iterable

from infs.errors import CapacityError


class Cells:
    """Counts cells by the sequences that hold them. A cell is a number here, not its place in the cache.

    Args:
        total: cells that there are; ``None`` for a model whose states have no length.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self._holders: dict[int, int] = {}
        self._next = 0

    @property
    def used(self) -> int:
        """Cells that anybody holds."""
        return len(self._holders)

    def check(self, count: int, given_back: int = 0) -> None:
        """Raise `CapacityError` unless `count` cells are free, once `given_back` others are."""
        if self.total is not None and self.used - given_back + count > self.total:
            raise CapacityError(
                f"{count} more tokens do not fit: {self.used} of the {self.total} cells for sequences are in use. "
                "Trim or delete sequences, or load the model with more low_tokens."
            )

    def take(self, count: int) -> list[int]:
        """`count` cells, each held once."""
        first, self._next = self._next, self._next + count
        found = list(range(first, self._next))
        if self.total is not None:
            self._holders.update(dict.fromkeys(found, 1))
        return found

    def share(self, cells: Iterable[int]) -> None:
        """Somebody else holds `cells` too."""
        if self.total is not None:
            for cell in cells:
                self._holders[cell] += 1

    def give(self, cells: Iterable[int]) -> None:
        """Somebody no longer holds `cells`."""
        if self.total is not None:
            for cell in cells:
                self._holders[cell] -= 1
                if not self._holders[cell]:
                    del self._holders[cell]

    def held_once(self, cells: Iterable[int]) -> int:
        """How many of `cells` would be free if their holder gave them back."""
        return sum(self._holders[cell] == 1 for cell in cells) if self.total is not None else 0
