"""What a step is, what bounds it, and what is counted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from infs.batching.base import Chunk, Op
from infs.batching.sequence import Sequence


@dataclass(slots=True)
class Plan:
    """One step: `ops` first, then `restores`, then `chunks`, which belong to `sequences` in the same order."""

    ops: list[Op]
    restores: list[Sequence]
    chunks: list[Chunk]
    sequences: list[Sequence]
    group: Hashable = None
    streams: int = 0


@dataclass(slots=True)
class Counters:
    """What was done since the start, in tokens unless the name says otherwise."""

    requests: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    restored_tokens: int = 0
    moved_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    shifts: int = 0


@dataclass(slots=True)
class Limits:
    """`context`: tokens of the longest sequence; `live`: sequences that run at once; `step`: tokens of one step.

    Attributes:
        beside: tokens of prompts in a step while streams are running; `step` by default.
        apart: prompts and streams are computed in turns, not in one batch.
        grain: tokens of prompts of which a step should have a multiple, or at least as many.
        kept: cells that sequences on which nothing runs may go on to hold when another one starts; ``None`` for as many
            as are not wanted otherwise. Every token attends to all cells, if only to find that most are not its own.
    """

    cells: int
    context: int
    live: int
    step: int
    beside: int = 0
    apart: bool = False
    grain: int = 1
    kept: int | None = None

    def __post_init__(self) -> None:
        self.beside = self.beside or self.step
