"""A draft model: a small model of the same vocabulary that guesses what the model is going to say.

It has a context of its own, with one sequence for each that it guesses for. What its cells hold follows what the
model accepted: wrong guesses are cut off, and missing tokens are computed when guesses are asked for, some in each
call, so that a long prompt keeps nobody waiting.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infs.batching.base import CacheOp, Chunk, Remove
from infs.batching.prefix import common_prefix
from infs.batching.speculation import Wanted
from infs.engines.llama_cpp.sizing import CATCH_UP
from infs.errors import InfsError

MIN_PROBABILITY = 0.75  # a guess costs a pass of the draft model and a place in the batch: one in four may be wrong
STEADY = 4  # tokens for each sequence up to which a batch takes about as long as with one
SAMPLES = 9  # of the time that a guess takes; their median counts


class ScoringDecoder(Protocol):
    """What of a `Decoder` is used here, and its scores."""

    cells: int
    sequences: int

    def apply(self, ops: Sequence[CacheOp]) -> None:
        """Change who owns which cells."""
        ...

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Compute one batch; for each chunk, the row of its first score."""
        ...

    def scores(self, row: int) -> NDArray[np.float32]:
        """Those of the whole vocabulary, valid until the next `decode`."""
        ...

    def close(self) -> None:
        """Free the context."""
        ...


@dataclass(slots=True, eq=False)
class _Held:
    """What is in the cells of `seq`: ``source[:known]``, then `guessed`. `source` is the sequence's own list."""

    seq: int
    source: list[int]
    known: int = 0
    guessed: list[int] = field(default_factory=list)

    @property
    def cells(self) -> int:
        return self.known + len(self.guessed)

    def agreement(self, tokens: list[int]) -> int:
        """How many tokens `tokens` begins with are in the cells. The list of before, if it grew, is not read again."""
        if tokens is not self.source:
            return common_prefix(self.source[: self.known] + self.guessed, tokens)
        if len(tokens) < self.known:
            return 0
        return self.known + common_prefix(self.guessed, tokens[self.known : self.cells])


@dataclass(slots=True, eq=False)
class _Run:
    """One sequence in one call: its cells, how many tokens they lack, and its guesses once it has caught up."""

    wanted: Wanted
    held: _Held
    missing: int
    guess: list[int] | None = None


class DraftModel:
    """A `Drafter`: the most probable continuation, as long as the draft model is sure. Used by the loop's thread.

    Args:
        vocabulary: only tokens below this number are guessed: those that both models have.
        known: tokens from this number on are unknown to the draft model.
        ends: tokens behind which nothing is guessed.
        min_probability: how probable the draft model must find a token for it to be a guess.
        catch_up: tokens of prompts that a call computes at most; at least two for each sequence of the decoder.
        close: called after the decoder was closed, to free the model.
    """

    def __init__(
        self,
        decoder: ScoringDecoder,
        *,
        vocabulary: int,
        known: int,
        ends: frozenset[int] = frozenset(),
        min_probability: float = MIN_PROBABILITY,
        catch_up: int = CATCH_UP,
        close: Callable[[], None] = lambda: None,
        log: logging.Logger | None = None,
    ) -> None:
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._known = known
        self._ends = ends
        self._min_probability = min_probability
        self._catch_up = catch_up
        self._close = close
        self._log = log or logging.getLogger(__name__)
        self._held: dict[Hashable, _Held] = {}  # the least recently used first
        self._free = list(range(decoder.sequences - 1, -1, -1))
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._failed = False

    @property
    def cost(self) -> float:
        """Seconds that one more guess for every sequence takes, as measured; 0 as long as that is unknown."""
        return sorted(self._seconds)[(len(self._seconds) - 1) // 2] if self._seconds else 0.0

    def propose(self, wanted: Sequence[Wanted]) -> list[list[int] | None]:
        """For each, up to `most` guesses; ``None`` for one that has not caught up yet, or has no room in the cells.

        Keys are different; tokens are not empty.
        """
        if self._failed:
            return [[] for _ in wanted]
        try:
            return self._propose(wanted)
        except InfsError as error:  # guesses are a luxury: nobody's request ends with them
            self._log.warning("The draft model failed and is not used any more: %s", error)
            self._failed = True
            self._held.clear()
            return [[] for _ in wanted]

    def forget(self, key: Hashable) -> None:
        """The sequence is over: its cells are free."""
        held = self._held.pop(key, None)
        if held is not None:
            self._decoder.apply([Remove(held.seq, 0)])
            self._free.append(held.seq)

    def close(self) -> None:
        """Free the context and the model."""
        self._decoder.close()
        self._close()

    # --- one call

    def _propose(self, wanted: Sequence[Wanted]) -> list[list[int] | None]:
        fitting = [each for each in wanted if len(each.tokens) + each.most - 1 <= self._decoder.cells]
        for each in fitting:
            self._cut(each)
        runs = self._admit(fitting)
        chunks, going = self._catching_up(runs)
        if chunks:
            going = self._guess_next(chunks, going)
        while going:
            going = self._guess_next([self._next(run) for run in going], going)
        guesses: dict[Hashable, list[int] | None] = {each.key: [] for each in wanted}  # of those too long: never any
        guesses |= {each.key: None for each in fitting}
        guesses |= {run.wanted.key: run.guess for run in runs}
        return [guesses[each.key] for each in wanted]

    def _cut(self, wanted: Wanted) -> None:
        """Cut off the guesses that were wrong, and the last token in any case: its scores are wanted."""
        held = self._held.get(wanted.key)
        if held is None:
            return
        kept = min(held.agreement(wanted.tokens), len(wanted.tokens) - 1)
        if kept < held.cells:
            self._decoder.apply([Remove(held.seq, kept)])
        held.source, held.known, held.guessed = wanted.tokens, kept, []

    def _admit(self, wanted: list[Wanted]) -> list[_Run]:
        """A run for each that has room in the cells, those first that lack the least.

        Room is made for all that a sequence lacks before anything of it is computed: else two that do not fit
        together would drive each other out in turns.
        """
        lacking = sorted(wanted, key=self._missing)
        runs: list[_Run] = []
        reserved = 0
        for index, each in enumerate(lacking):
            need = self._missing(each) + each.most - 1
            if self._make_room(reserved + need, lacking, index):
                runs.append(self._start(each))
                reserved += need
        return runs

    def _missing(self, wanted: Wanted) -> int:
        held = self._held.get(wanted.key)
        return len(wanted.tokens) - (0 if held is None else held.known)

    def _make_room(self, cells: int, lacking: list[Wanted], index: int) -> bool:
        """Drop others until there is room for number `index`; whether there is. Drops nobody in vain.

        First those that are not asked for, the least recently used first; then those behind, which lack more.
        """
        key, behind = lacking[index].key, [each.key for each in lacking[:index:-1] if each.key in self._held]
        asked = {each.key for each in lacking}
        victims = [*(other for other in self._held if other not in asked), *behind]
        if self._room() + sum([self._held[victim].cells for victim in victims]) < cells:
            return False
        while self._room() < cells or not (self._free or key in self._held):
            if not victims:
                return False  # every sequence id is in use
            self.forget(victims.pop(0))
        return True

    def _room(self) -> int:
        return self._decoder.cells - sum([held.cells for held in self._held.values()])

    def _start(self, wanted: Wanted) -> _Run:
        """It is the most recently used one from now on."""
        held = self._held.pop(wanted.key, None) or _Held(self._free.pop(), wanted.tokens)
        self._held[wanted.key] = held
        return _Run(wanted, held, len(wanted.tokens) - held.known)

    def _catching_up(self, runs: list[_Run]) -> tuple[list[Chunk], list[_Run]]:
        """What is computed first of all: as much of what is lacking as a call may; and who has all of it then."""
        budget = self._catch_up
        chunks, ready = [], []
        for run in runs:
            held, count = run.held, min(run.missing, budget)
            tokens = held.source[held.known : held.known + count]
            if max(tokens, default=0) >= self._known:
                run.guess = []  # it cannot be computed, now or later
                continue
            if count == run.missing:
                run.guess = []
                ready.append(run)
            if count:
                chunks.append(Chunk(held.seq, held.known, tokens, int(count == run.missing)))
            held.known += count
            budget -= count
        return chunks, ready

    def _next(self, run: _Run) -> Chunk:
        """The last guess, to be computed."""
        assert run.guess
        held, token = run.held, run.guess[-1]
        held.guessed.append(token)
        return Chunk(held.seq, held.cells - 1, [token], 1)

    def _guess_next(self, chunks: list[Chunk], going: list[_Run]) -> list[_Run]:
        """Compute `chunks`; those of them with scores are of `going`, in order. Returns who goes on."""
        started = time.perf_counter()
        rows = self._decoder.decode(chunks)
        scored = [row for row, chunk in zip(rows, chunks, strict=True) if chunk.logits]
        going = [run for run, row in zip(going, scored, strict=True) if self._extend(run, row)]
        if sum(len(chunk.tokens) for chunk in chunks) <= STEADY * len(chunks):
            self._seconds.append(time.perf_counter() - started)
        return going

    def _extend(self, run: _Run, row: int) -> bool:
        """Add the most probable token, if it is probable enough; whether another one may follow."""
        assert run.guess is not None
        scores = self._decoder.scores(row)[: self._vocabulary]
        token = int(scores.argmax())
        probability = 1.0 / float(np.exp(scores - scores[token]).sum())
        if not probability >= self._min_probability:  # also if it is not a number
            return False
        run.guess.append(token)
        return len(run.guess) < run.wanted.most and token not in self._ends
