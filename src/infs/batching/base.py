"""What the batching needs from outside: a decoder that computes, and an output that samples and takes tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from infs.errors import InfsError
from infs.types import FinishReason


@dataclass(frozen=True, slots=True)
class Copy:
    """The cells of `source` at positions ``[start, end)`` belong to `target` too. Nothing is moved or computed."""

    source: int
    target: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Remove:
    """The cells at positions ``[start, end)`` no longer belong to `seq`; `end` -1 means all from `start`."""

    seq: int
    start: int
    end: int = -1


@dataclass(frozen=True, slots=True)
class Shift:
    """The cells of `seq` at positions ``[start, end)`` move by `delta` positions; no other seq holds them."""

    seq: int
    start: int
    end: int
    delta: int


@dataclass(frozen=True, slots=True)
class Save:
    """The cells of `seq` at positions ``[start, end)`` are worth writing down before they go.

    `tokens` are all tokens of the seq up to `end`, in the namespace `space`. `whole`: they are of use only together.
    """

    seq: int
    start: int
    end: int
    tokens: list[int]
    space: str = ""
    whole: bool = False


CacheOp = Copy | Remove | Shift
"""What a decoder does with its cells."""

Op = CacheOp | Save
"""What has to happen between two steps, in order."""


@dataclass(slots=True)  # not frozen, which would make it three times as slow to make: there is one for each token
class Chunk:
    """Tokens of one sequence for one step: `tokens` go to positions ``start, start + 1, ...`` of sequence `seq`.

    `logits`: how many of the last tokens want their next-token scores.
    """

    seq: int
    start: int
    tokens: Sequence[int]
    logits: int


class Decoder(Protocol):
    """A model with a cache of `cells` cells for `sequences` sequence ids. Used by one thread."""

    cells: int
    sequences: int

    def apply(self, ops: Sequence[CacheOp]) -> None:
        """Change who owns which cells, in order."""
        ...

    def select(self, group: Hashable) -> None:
        """Compute with the adapters that `group` stands for, from now on; ``None`` stands for the usual ones."""
        ...

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Compute one batch; for each chunk, the row of its first score (rows of one chunk are consecutive).

        Raises:
            InfsError: nothing of the batch counts, and the cache is in an unknown state.
        """
        ...

    def save(self, seq: int, start: int, end: int) -> bytes | bytearray:
        """The cells of `seq` at positions ``[start, end)``, for `restore`; empty where that is impossible."""
        ...

    def restore(self, seq: int, data: bytes | bytearray, start: int, end: int) -> bool:
        """Give `seq` the cells at positions ``[start, end)`` out of what `save` made of the same positions or more.

        False where that is impossible; the cells are as before then.
        """
        ...

    def clear(self) -> None:
        """Forget every cell."""
        ...


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sequence took: `cached` of its `prompt` tokens were not computed, `generated` were produced."""

    prompt: int
    cached: int
    generated: int


class Output(Protocol):
    """Where the tokens of one sequence come from and go to. Called by the loop's thread only."""

    def prompt_scored(self, position: int, row: int) -> None:
        """`row` has the scores that follow the prompt's token at `position` (only where all were asked for)."""
        ...

    def prompt_computed(self, done: int, total: int) -> None:
        """`done` of `total` prompt tokens are in the cache."""
        ...

    def sample(self, row: int) -> int:
        """Choose the next token by the scores in `row`."""
        ...

    def accept(self, token: int) -> FinishReason | None:
        """Take a chosen token; a reason ends the sequence."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next, whatever the scores; each of them goes to `accept` before anything else does."""
        ...

    def expected(self) -> list[int]:
        """Tokens that will be chosen next, but whose scores are wanted: guesses that are certain."""
        ...

    def finished(self, reason: FinishReason, counts: Counts) -> None:
        """The sequence ended well. The last call."""
        ...

    def failed(self, error: InfsError) -> None:
        """The sequence ended badly. The last call."""
        ...
