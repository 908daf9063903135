"""What the next step computes: admission, token budget, room in the cache. Pure: no tensors, no I/O, no clock.

Requests wait in the order of their turn (`order.py`). Each step decodes the tokens that running streams are waiting
for, and spends what is left of the token budget on the prompts of the others, in turn: nobody's first token waits for
everybody's prompt, and nobody's stream stalls behind one long prompt. A request whose beginning is just being computed
for another one waits for that instead of computing it again. When cells run out, kept sequences are evicted, then the
running sequence whose turn came last is put back into the queue; it goes on later with the tokens it has, from the
cache where that still holds them.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from infs.batching.base import Chunk, Counts, Remove
from infs.batching.blocks import block_end, whole
from infs.batching.caches import ContextCache, Memory, Nothing
from infs.batching.order import Order, Turn
from infs.batching.plan import Counters, Limits, Plan
from infs.batching.prefix import common_prefix
from infs.batching.sequence import Sequence
from infs.batching.shifting import Shift

SHARE_AT_LEAST = 16  # tokens in common for which waiting for somebody else's prompt pays
HEADROOM = 16  # cells that every running sequence should be able to grow by when another one starts
SCORED_CHUNK = 64  # tokens of a step whose scores are all wanted: a row of scores is as long as the vocabulary


@dataclass(slots=True)
class Scheduler:
    """The queue, the running sequences and the cache.

    Args:
        limits: `cells` must hold one whole context.
        cache: its seqs must be more than `limits.live`.
        memory: what was written down of cells that are gone.
    """

    limits: Limits
    cache: ContextCache
    memory: Memory = field(default_factory=Nothing)
    counters: Counters = field(default_factory=Counters)
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    pinned: int = 0
    order: Order = field(default_factory=Order)
    _turn_of_prompts: bool = False
    _private: int = 0  # cells of running sequences that are not in the tree
    _served: dict[Hashable, int] = field(default_factory=dict)  # the step in which each group had its turn

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    @property
    def used(self) -> int:
        """Cells in use, those of kept sequences included."""
        return self.cache.cells + self._private

    # --- the moments of a sequence: submitted, planned, stepped, finished

    def submit(self, sequence: Sequence) -> None:
        """Queue `sequence`. Its prompt must be shorter than the context and not empty."""
        assert 0 < len(sequence.tokens) < self.limits.context
        sequence.prompt = len(sequence.tokens)
        sequence.turn = self.order.turn(sequence.priority, sequence.client, sequence.prompt, sequence.max_new)
        self.counters.requests += 1
        self._queue(sequence)

    def plan(self) -> Plan:
        """What to do in the next step; nothing to compute only when nobody is there, or all have to be restored."""
        if self.waiting:
            self._admit()
        self._turn_of_prompts = not self._turn_of_prompts
        spans, streams = self._spans()
        while (missing := sum([n for _, n in spans]) + self._incoming() - self._room()) > 0:
            if self.cache.evict(missing) < missing:
                self._give_way()
                spans, streams = self._spans()
        chunks = [self._chunk(s, n) for s, n in spans]
        ops, self.cache.ops = self.cache.ops, []
        sequences = [s for s, _ in spans]
        group = sequences[0].group if sequences else None
        self.counters.steps += bool(chunks)
        if group is not None or self._served:
            self._served[group] = self.counters.steps
        return Plan(ops, [s for s in self.running if s.restoring], chunks, sequences, group, streams)

    def restored(self, sequence: Sequence, upto: int) -> None:
        """What was written down of `sequence` is in its cells again, up to its token `upto`."""
        sequence.restoring = []
        count = upto - sequence.computed
        if count > 0:
            sequence.computed = upto
            self._private += count
            self.counters.restored_tokens += count
            self._publish(sequence, saved=True)
        if sequence.starts == 1:
            sequence.cached += count
            self.counters.cached_tokens += count

    def computed(self, plan: Plan) -> None:
        """The step of `plan` is done: its tokens are in the cells."""
        for sequence, chunk in zip(plan.sequences, plan.chunks, strict=True):
            count = len(chunk.tokens) - len(sequence.guesses)
            sequence.computed += count
            self._private += count
            if not sequence.streaming:
                self.counters.computed_tokens += count
                self._publish(sequence)  # prompts are shared as soon as they are there

    def sampled(self, sequence: Sequence, token: int) -> bool:
        """`token` follows in `sequence`; false when that was the last one it may have."""
        sequence.tokens.append(token)
        sequence.generated += 1
        self.counters.generated_tokens += 1
        if sequence.max_new is not None and sequence.generated >= sequence.max_new:
            return False
        if len(sequence.tokens) < self.limits.context:
            return True
        if sequence.shift is None:
            return False
        self._shift(sequence, sequence.shift)
        return True

    def checked(self, sequence: Sequence, accepted: int) -> None:
        """The first `accepted` guesses were right, and are among the tokens; the cells of the others are given back."""
        guessed = len(sequence.guesses)
        sequence.guesses = []
        self.counters.guessed_tokens += guessed
        self.counters.accepted_tokens += accepted
        sequence.computed += accepted
        self._private += accepted
        if accepted < guessed:
            self.cache.ops.append(Remove(_seq(sequence), sequence.computed))

    def room_for_guesses(self, sequence: Sequence) -> int:
        """How many guesses could be right and count."""
        room = self.limits.context - len(sequence.tokens) - 2
        if sequence.max_new is not None:
            room = min(room, sequence.max_new - sequence.generated - 1)
        return max(0, room)

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
        self.pinned = self._private = 0
        return lost

    # --- admission

    def _queue(self, sequence: Sequence) -> None:
        bisect.insort(self.waiting, sequence, key=_turn)

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            if self._full and self.running[-1].priority <= sequence.priority:
                break
            if self._must_wait(sequence):
                continue  # somebody else computes its beginning: those behind it lose nothing
            if self.running and not self._fits(sequence):
                break
            if self._full:
                self._preempt(self.running[-1])  # the last one matters less
            if not self.cache.has_seq():
                break
            self._start(sequence)

    @property
    def _full(self) -> bool:
        return len(self.running) >= self.limits.live

    def _must_wait(self, sequence: Sequence) -> bool:
        if sequence.score_from == 0:
            return False
        if sequence.waits_for is not None:
            other, shared = sequence.waits_for
            if other.seq is not None and not other.streaming and other.computed < min(shared, other.prompt):
                return True
            sequence.waits_for = None
        sequence.waits_for = self._shared_work(sequence)
        return sequence.waits_for is not None

    def _shared_work(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """The running sequence that is about to compute most of this one's beginning, and how much of it."""
        best: tuple[Sequence, int] | None = None
        others = [s for s in self.running if s.computed < s.prompt and not s.streaming and s.space == sequence.space]
        known = self.cache.match(sequence.tokens, sequence.space) if others else 0
        for other in others:
            shared = common_prefix(sequence.tokens, other.tokens)
            if not self.cache.cuttable:
                shared = self._shared_state(sequence, other, shared)
            ahead = shared - max(known, other.computed)
            if ahead >= SHARE_AT_LEAST and (best is None or shared > best[1]):
                best = (other, shared)
        return best

    def _shared_state(self, sequence: Sequence, other: Sequence, shared: int) -> int:
        """The last place within the first `shared` tokens at which `other` leaves a state to be shared."""
        limit = min(shared, len(sequence.tokens) - 1)
        places = self.cache.stops(_seq(other))
        return max([place for place in places if place <= limit], default=0)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the prompt has room beside what the running ones are about to need."""
        growth = HEADROOM * (len(self.running) + 1)
        owed = sum(s.pending for s in self.running)
        tokens, room = sequence.tokens, self._room() + self.cache.evictable()
        new = len(tokens) - self.cache.match(tokens, sequence.space)
        return owed + new + growth <= room - self.cache.unlocked(tokens, sequence.space)

    def _start(self, sequence: Sequence) -> None:
        self._place(sequence)
        sequence.starts += 1
        if sequence.starts == 1:
            sequence.cached = sequence.computed
            self.counters.prompt_tokens += sequence.prompt
            self.counters.cached_tokens += sequence.cached
        if self.limits.kept is not None and (excess := self.cache.evictable() - self.limits.kept) > 0:
            self.cache.evict(excess)  # now that its own beginning is safe
        self.order.served(sequence.turn)
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=_turn)

    def _place(self, sequence: Sequence) -> None:
        """Give `sequence` a seq with as much of its beginning as there is."""
        tokens, space = sequence.tokens, sequence.space
        limit = len(tokens) - 1 if sequence.score_from is None else min(sequence.score_from, len(tokens) - 1)
        limit = whole(tokens, limit) if sequence.blocks else limit
        adopted = self.cache.adopt(tokens, sequence.reuse, limit, space) if sequence.reuse and limit else None
        sequence.seq, sequence.computed = adopted or self.cache.acquire(tokens, limit, space)
        sequence.held = self.cache.depth(sequence.seq)
        if adopted is not None:
            self.counters.moved_tokens += sequence.computed - sequence.held
            self._private += sequence.computed - sequence.held
        elif limit:
            sequence.restoring = list(self.memory.find(space, tokens, sequence.computed, limit))

    # --- one step

    def _spans(self) -> tuple[list[tuple[Sequence, int]], int]:
        """Which sequence computes how many of its tokens, those that stream first; and how many those are."""
        running = self._in_turn()
        spans = [(s, len(s.tokens) - s.computed + len(s.guesses)) for s in running if s.streaming]
        streams = len(spans)
        budget = self.limits.step - sum([n for _, n in spans])
        if budget < 0:
            spans, budget = self._squeezed(spans), 0
        if streams == len(running):
            return spans, streams
        if not streams:
            return self._prompt_spans(running, budget), 0
        if not self.limits.apart:
            return spans + self._prompt_spans(running, min(budget, self._beside(running, streams))), streams
        prompts = self._prompt_spans(running, self._beside(running, streams)) if self._turn_of_prompts else []
        return (prompts, 0) if prompts else (spans, streams)

    def _beside(self, running: list[Sequence], streams: int) -> int:
        """Tokens of prompts in a step beside `streams`: more if more wait for their first token than for the next."""
        waiting = len(running) - streams
        return min(self.limits.step, self.limits.beside * max(1, waiting // streams))

    def _prompt_spans(self, running: list[Sequence], budget: int) -> list[tuple[Sequence, int]]:
        """The prompts in turn, until the budget is spent."""
        spans: list[tuple[Sequence, int]] = []
        for sequence in running:
            if not sequence.streaming and not sequence.restoring and budget > 0:
                count = self._prompt_part(sequence, budget, self.limits.step - sum([n for _, n in spans]))
                if sequence.blocks:
                    count = self._whole_part(sequence, count, alone=not spans)
                if count:
                    spans.append((sequence, count))
                    budget -= count
                if self.limits.apart and sum([n for _, n in spans]) >= self.limits.grain:
                    break  # the next one would only make this one's first token wait
        return spans

    def _in_turn(self) -> list[Sequence]:
        """The running sequences of the group whose turn it is."""
        groups = {s.group for s in self.running if not s.restoring}
        if len(groups) < 2:
            return self.running
        group = min(groups, key=lambda group: self._served.get(group, 0))
        return [s for s in self.running if s.group == group]

    def _squeezed(self, spans: list[tuple[Sequence, int]]) -> list[tuple[Sequence, int]]:
        """`spans` without guesses, and with no more than the budget allows: one token for each at least."""
        for sequence, _ in spans:
            sequence.guesses = []
        spare = self.limits.step - len(spans)
        squeezed = []
        for sequence, _ in spans:
            more = min(sequence.pending - 1, max(0, spare))
            spare -= more
            squeezed.append((sequence, 1 + more))
        return squeezed

    def _prompt_part(self, sequence: Sequence, budget: int, most: int) -> int:
        """About `budget` tokens of the prompt; never more than `most`, for which the step has room."""
        count = min(sequence.pending, budget)
        if self.limits.apart and sequence.pending - count < self.limits.grain // 2:
            count = min(sequence.pending, most)  # a small rest would take nearly as long as a large one
        if sequence.scoring and sequence.computed + count > (sequence.score_from or 0):
            count = min(count, SCORED_CHUNK)
        if not self.cache.cuttable:
            ends = self.cache.stops(_seq(sequence))
            count = min([count, *(end - sequence.computed for end in ends if end > sequence.computed)])
        return count

    def _whole_part(self, sequence: Sequence, count: int, *, alone: bool) -> int:
        """Up to `count` tokens that cut no block; a longer block has a step `alone`, as far as prompts go."""
        start, tokens = sequence.computed, sequence.tokens
        end = whole(tokens, start + count)
        return (block_end(tokens, start) if end == start and alone else end) - start

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.computed
        if sequence.streaming and count == 1:
            last = start + 1 == len(sequence.tokens)
            return Chunk(_seq(sequence), start, sequence.tokens[start : start + 1], int(last))
        tokens = sequence.tokens[start : start + count]
        last = start + len(tokens) == len(sequence.tokens)
        if sequence.score_from is not None and not sequence.streaming:
            logits = max(int(last), min(count, start + count - sequence.score_from))
        else:
            logits = 1 + len(sequence.guesses) if last else 0
        return Chunk(_seq(sequence), start, tokens + sequence.guesses if last else tokens, max(0, logits))

    def _room(self) -> int:
        return self.limits.cells - self.used

    def _incoming(self) -> int:
        """Cells that restoring takes, for whole pieces, which may be more than is wanted of them."""
        return sum(sum(piece.length for piece in s.restoring) for s in self.running if s.restoring)

    # --- leaving

    def _publish(self, sequence: Sequence, *, saved: bool = False) -> None:
        seq = _seq(sequence)
        self.cache.extend(seq, sequence.tokens[: sequence.computed], saved=saved)
        held = self.cache.depth(seq)
        self._private -= held - sequence.held
        sequence.held = held

    def _leave(self, sequence: Sequence) -> None:
        """Give the cells to the cache. (The last sampled token has none yet.)"""
        seq = _seq(sequence)
        if sequence.guesses:
            self.checked(sequence, 0)
        self._publish(sequence)
        self._private -= sequence.computed - sequence.held
        if sequence.pin:
            self.pinned += len(self.cache.held(seq))
        else:
            self.cache.release(seq)
        sequence.seq, sequence.computed, sequence.held = None, 0, 0
        sequence.streaming, sequence.restoring = False, []

    def _give_way(self) -> None:
        """Nothing is left to be evicted: first guesses go, then what was to be restored, then the last one running."""
        for sequence in self.running:
            if sequence.guesses:
                sequence.guesses = []
                return
        for sequence in reversed(self.running):
            if sequence.restoring:
                sequence.restoring = []
                return
        self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self.counters.preemptions += 1
        self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._leave(sequence)
        self._queue(sequence)

    def _shift(self, sequence: Sequence, shift: Shift) -> None:
        """Drop the older part; what is left is computed anew, or moved where that is allowed."""
        self.counters.shifts += 1
        if sequence.seq is not None:
            self._requeue(sequence)
        sequence.tokens, sequence.shift = shift.apply(sequence.tokens, self.limits.context)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum for sequences that share one prompt: it counts once, as cached where the first one found it so."""
    parts = list(counts)
    first = parts[0]
    return Counts(prompt=first.prompt, cached=first.cached, generated=sum(c.generated for c in parts))


def _seq(sequence: Sequence) -> int:
    assert sequence.seq is not None, "only running sequences have cells"
    return sequence.seq


def _turn(sequence: Sequence) -> Turn:
    return sequence.turn
