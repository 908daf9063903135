"""What the next step computes: admission, token budget, room in the cache. Pure: no tensors, no I/O, no clock.

Requests wait in the order of their arrival. Each step decodes one token of every running sequence that has its
prompt, and spends what is left of the token budget on the prompts of the others, oldest first: nobody's first
token waits for everybody's prompt, and nobody's stream stalls behind one long prompt. A request whose beginning
is just being computed for another one waits for that instead of computing it again. When cells run out, kept
sequences are evicted, then the youngest running sequence is put back into the queue; it goes on later with the
tokens it has, from the cache where that still holds them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

from infs.batching.base import CacheOp, Chunk, Counts, Output
from infs.batching.prefix import PrefixCache, common_prefix

SHARE_AT_LEAST = 16  # tokens in common for which waiting for somebody else's prompt pays
HEADROOM = 16  # cells that every running sequence should be able to grow by when another one starts
SCORED_CHUNK = 64  # tokens of a step whose scores are all wanted: a row of scores is as long as the vocabulary


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence on its way. `tokens` are those of the prompt and those sampled; `computed` are in the cells.

    Attributes:
        max_new: tokens that may be sampled; ``None`` leaves only the context as a limit.
        shift_keep: when the context is full, drop the older half of what follows these leading tokens and go on;
            ``None`` ends the sequence instead.
        score_prompt: scores are wanted after every token of the prompt.
        pin: what was computed stays in the cache for good.
    """

    tokens: list[int]
    output: Output
    max_new: int | None = None
    shift_keep: int | None = None
    score_prompt: bool = False
    pin: bool = False
    arrival: int = 0
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    computed: int = 0
    seq: int | None = None
    waits_for: tuple[Sequence, int] | None = None

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.computed

    @property
    def scoring(self) -> bool:
        """Whether the scores of all computed tokens are wanted."""
        return self.score_prompt and not self.generated

    @property
    def counts(self) -> Counts:
        """What it took so far."""
        return Counts(prompt=self.prompt, cached=self.cached, generated=self.generated)


@dataclass(slots=True)
class Plan:
    """One step: `ops` first, then `chunks`, which belong to `sequences` in the same order."""

    ops: list[CacheOp]
    chunks: list[Chunk]
    sequences: list[Sequence]


@dataclass(slots=True)
class Counters:
    """What was done since the start, in tokens unless the name says otherwise."""

    requests: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    shifts: int = 0


@dataclass(slots=True)
class Limits:
    """`context`: tokens of the longest sequence; `live`: sequences that run at once; `step`: tokens of one step."""

    cells: int
    context: int
    live: int
    step: int


@dataclass(slots=True)
class Scheduler:
    """The queue, the running sequences and the cache.

    Args:
        limits: `cells` must hold one whole context.
        cache: its seqs must be more than `limits.live`.
        reuse: whether a beginning that is in the cells may be used again. (A recurrent model's state cannot be cut
            at a token, so it may not.)
    """

    limits: Limits
    cache: PrefixCache
    reuse: bool = True
    counters: Counters = field(default_factory=Counters)
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    pinned: int = 0
    _arrivals: int = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    @property
    def used(self) -> int:
        """Cells in use, those of kept sequences included."""
        return self.cache.cells + sum(s.computed - self.cache.depth(_seq(s)) for s in self.running)

    # --- the four moments of a sequence: submitted, planned, stepped, finished

    def submit(self, sequence: Sequence) -> None:
        """Queue `sequence`. Its prompt must be shorter than the context and not empty."""
        assert 0 < len(sequence.tokens) < self.limits.context
        self._arrivals += 1
        sequence.arrival = self._arrivals
        sequence.prompt = len(sequence.tokens)
        self.counters.requests += 1
        self.waiting.append(sequence)

    def plan(self) -> Plan:
        """What to do in the next step; nothing at all (no chunks) only when nobody is there."""
        self._admit()
        spans = self._spans()
        while (missing := sum(n for _, n in spans) - self._room()) > 0:
            if self.cache.evict(missing) < missing:
                self._preempt(max(self.running, key=lambda s: s.arrival))
                spans = self._spans()
        chunks = [self._chunk(s, n) for s, n in spans]
        ops, self.cache.ops = self.cache.ops, []
        self.counters.steps += bool(chunks)
        return Plan(ops=ops, chunks=chunks, sequences=[s for s, _ in spans])

    def computed(self, plan: Plan) -> None:
        """The step of `plan` is done: its tokens are in the cells."""
        for sequence, chunk in zip(plan.sequences, plan.chunks, strict=True):
            count = len(chunk.tokens)
            sequence.computed += count
            if chunk.start < sequence.prompt or count > 1:
                self.counters.computed_tokens += count
            if sequence.computed <= sequence.prompt:  # prompts are shared as soon as they are there
                self._publish(sequence)

    def sampled(self, sequence: Sequence, token: int) -> bool:
        """`token` follows in `sequence`; false when that was the last one it may have."""
        sequence.tokens.append(token)
        sequence.generated += 1
        self.counters.generated_tokens += 1
        if sequence.max_new is not None and sequence.generated >= sequence.max_new:
            return False
        if len(sequence.tokens) < self.limits.context:
            return True
        if sequence.shift_keep is None:
            return False
        self._shift(sequence, sequence.shift_keep)
        return True

    def finish(self, sequence: Sequence) -> None:
        """`sequence` is over, whether it ran or waited; what it computed is kept for those that follow."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._leave(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def reset(self) -> list[Sequence]:
        """Forget everything, and say whom: after a failure of the decoder, whose cells must be cleared too."""
        lost = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self.cache.clear()
        self.pinned = 0
        return lost

    # --- admission

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            if len(self.running) >= self.limits.live or not self.cache.has_seq():
                break
            if self._must_wait(sequence):
                continue  # somebody else computes its beginning: those behind it lose nothing
            if self.running and not self._fits(sequence):
                break
            self._start(sequence)

    def _must_wait(self, sequence: Sequence) -> bool:
        if not self.reuse or sequence.score_prompt:
            return False
        if sequence.waits_for is not None:
            other, shared = sequence.waits_for
            if other in self.running and other.computed < min(shared, other.prompt):
                return True
            sequence.waits_for = None
        sequence.waits_for = self._shared_work(sequence)
        return sequence.waits_for is not None

    def _shared_work(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """The running sequence that is about to compute most of this one's beginning, and how much of it."""
        best: tuple[Sequence, int] | None = None
        known = self.cache.match(sequence.tokens)
        for other in self.running:
            if other.computed >= other.prompt:
                continue
            shared = common_prefix(sequence.tokens, other.tokens)
            ahead = shared - max(known, other.computed)
            if ahead >= SHARE_AT_LEAST and (best is None or shared > best[1]):
                best = (other, shared)
        return best

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the prompt has room beside what the running ones are about to need."""
        growth = HEADROOM * (len(self.running) + 1)
        owed = sum(s.pending for s in self.running)
        tokens, room = sequence.tokens, self._room() + self.cache.evictable()
        if not self.reuse:
            return owed + len(tokens) + growth <= room
        new = len(tokens) - self.cache.match(tokens)
        return owed + new + growth <= room - self.cache.unlocked(tokens)

    def _start(self, sequence: Sequence) -> None:
        limit = len(sequence.tokens) - 1 if self.reuse and not sequence.score_prompt else 0
        sequence.seq, sequence.computed = self.cache.acquire(sequence.tokens, limit)
        if not sequence.generated:
            sequence.cached = sequence.computed
            self.counters.prompt_tokens += sequence.prompt
            self.counters.cached_tokens += sequence.cached
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=lambda s: s.arrival)

    # --- one step

    def _spans(self) -> list[tuple[Sequence, int]]:
        """Which sequence computes how many of its tokens: one for those that generate, then prompts in order."""
        spans = [(s, 1) for s in self.running if s.pending == 1]
        budget = self.limits.step - len(spans)
        for sequence in self.running:
            if sequence.pending > 1 and budget > 0:
                count = min(sequence.pending, budget)
                if sequence.scoring:
                    count = min(count, SCORED_CHUNK)
                spans.append((sequence, count))
                budget -= count
        return spans

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.computed
        tokens = sequence.tokens[start : start + count]
        last = start + count == len(sequence.tokens)
        logits = count if sequence.scoring else int(last)
        return Chunk(_seq(sequence), start, tokens, logits)

    def _room(self) -> int:
        return self.limits.cells - self.used

    # --- leaving

    def _publish(self, sequence: Sequence) -> None:
        if self.reuse:
            self.cache.extend(_seq(sequence), sequence.tokens[: sequence.computed])

    def _leave(self, sequence: Sequence) -> None:
        """Give the cells to the cache. (The last sampled token has none yet.)"""
        seq = _seq(sequence)
        if self.reuse:
            self._publish(sequence)
        if sequence.pin and self.reuse:
            self.pinned += len(self.cache.held(seq))
        else:
            self.cache.release(seq)
        sequence.seq, sequence.computed = None, 0

    def _preempt(self, sequence: Sequence) -> None:
        self.counters.preemptions += 1
        self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._leave(sequence)
        bisect.insort(self.waiting, sequence, key=lambda s: s.arrival)

    def _shift(self, sequence: Sequence, keep: int) -> None:
        """Drop the older half behind `keep` tokens; what is left is computed anew, so it is exact."""
        self.counters.shifts += 1
        self._requeue(sequence)
        sequence.tokens = shifted(sequence.tokens, keep, self.limits.context)


def shifted(tokens: list[int], keep: int, context: int) -> list[int]:
    """`tokens` without enough of the oldest behind the first `keep` to leave half of the rest of `context` free."""
    keep = min(keep, (context - 1) // 2)
    room = max(1, (context - keep) // 2)
    return tokens[:keep] + tokens[max(keep, len(tokens) - room) :]


def total(counts: Iterable[Counts]) -> Counts:
    """The sum for sequences that share one prompt: it counts once, as cached where the first one found it so."""
    parts = list(counts)
    first = parts[0]
    return Counts(prompt=first.prompt, cached=first.cached, generated=sum(c.generated for c in parts))


def _seq(sequence: Sequence) -> int:
    assert sequence.seq is not None, "only running sequences have cells"
    return sequence.seq
