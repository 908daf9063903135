"""A sequence on its way through the scheduler."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from infs.batching.base import Counts, Output
from infs.batching.order import Turn
from infs.batching.shifting import Shift
from infs.batching.tiers import Piece

FIRST = (-1001, 0.0, 0)  # before any turn


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence on its way. `tokens` are those of the prompt and those produced; `computed` are in the cells.

    Attributes:
        max_new: tokens that may be produced; ``None`` leaves only the context as a limit.
        shift: when the context is full, drop what this says and go on; ``None`` ends the sequence instead.
        score_from: scores are wanted after every token of the prompt from this one on; ``None`` wants none of them.
        pin: what was computed stays in the cache for good.
        priority, client: decide whose turn it is; see `Order`.
        space: what is cached is shared within a space only.
        group: only sequences of one group can be in one batch (they want the same adapters).
        reuse: runs of at least so many cached tokens may be moved when earlier ones were dropped; 0 moves none.
        speculate: tokens may be guessed.
        request, index: what it is called where somebody looks: its request, and which choice of it.
        blocks: some of its tokens belong together, as `blocks` has it; it ends in one that does not.
        guesses: tokens that may follow, to be checked in the next step.
        streaming: its prompt is computed, and somebody reads what it says.
        held: tokens that it holds in the tree of the cache.
        starts: how often it was taken out of the queue.
    """

    tokens: list[int]
    output: Output
    max_new: int | None = None
    shift: Shift | None = None
    score_from: int | None = None
    pin: bool = False
    priority: int = 0
    client: str = ""
    space: str = ""
    group: Hashable = None
    reuse: int = 0
    speculate: bool = True
    blocks: bool = False
    request: int = 0
    index: int = 0
    turn: Turn = FIRST
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    computed: int = 0
    held: int = 0
    starts: int = 0
    seq: int | None = None
    streaming: bool = False
    guesses: list[int] = field(default_factory=list)
    restoring: list[Piece] = field(default_factory=list)
    waits_for: tuple[Sequence, int] | None = None

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.computed

    @property
    def scoring(self) -> bool:
        """Whether scores of the prompt's tokens are wanted."""
        return self.score_from is not None and not self.streaming

    @property
    def counts(self) -> Counts:
        """What it took so far."""
        # What was produced before a worker died may be in the cache too.
        return Counts(prompt=self.prompt, cached=min(self.cached, self.prompt), generated=self.generated)
