"""The scheduler and the prefix cache, against a model that is a hash of what each sequence sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.batching.base import Counts
from infs.batching.caches import ContextCache, Nothing
from infs.batching.loop import Loop
from infs.batching.memory import ColdMemory
from infs.batching.plan import Limits
from infs.batching.prefix import PrefixCache, common_prefix
from infs.batching.scheduler import Scheduler, total
from infs.batching.sequence import Sequence
from infs.batching.shifting import Shift, shifted
from infs.batching.speculation import Speculator, Wanted
from infs.batching.state import StateCache
from infs.batching.tiers import Tiers
from infs.errors import GenerationFailed, RequestCancelled, ServerClosed
from infs.testing import FakeDecoder, FakeOutput, next_token


@dataclass
class Bench:
    """A loop that is stepped by hand."""

    cells: int = 256
    context: int = 64
    live: int = 4
    step: int = 16
    seqs: int = 8
    cuttable: bool = True
    fail_at: int | None = None
    host: int | None = None
    guesser: Speculator | None = None
    loop: Loop = field(init=False)
    decoder: FakeDecoder = field(init=False)

    def __post_init__(self) -> None:
        self.decoder = FakeDecoder(self.cells, self.seqs, fail_at=self.fail_at, cuttable=self.cuttable)
        limits = Limits(cells=self.cells, context=self.context, live=self.live, step=self.step)
        kind: type[PrefixCache | StateCache] = PrefixCache if self.cuttable else StateCache
        memory = None if self.host is None else ColdMemory(Tiers(host_bytes=self.host), "fake ")
        cache: ContextCache = kind(self.seqs, saves=memory is not None)  # type: ignore[assignment]
        self.scheduler = Scheduler(limits, cache, memory or Nothing())
        self.loop = Loop(self.decoder, self.scheduler, memory=memory, guesser=self.guesser)

    def submit(self, prompt: list[int], max_new: int | None = 8, **options: Any) -> Sequence:
        output = FakeOutput(self.decoder, **{k: options.pop(k) for k in ("rule", "certain") if k in options})
        blocks = min(prompt) < 0
        sequence = Sequence(tokens=list(prompt), output=output, max_new=max_new, blocks=blocks, **options)
        self.loop.submit(sequence)
        self.loop.read()
        return sequence

    def step_once(self) -> None:
        self.loop.safe_step()
        self.check()

    def check(self) -> None:
        self.scheduler.cache.check_integrity()
        assert self.decoder.used <= self.scheduler.used + sum(1 for _ in self.scheduler.cache.ops) * self.cells
        if self.scheduler.cache.ops:
            return
        for sequence in self.scheduler.running:
            assert sequence.seq is not None
            assert self.decoder.seen(sequence.seq) == sequence.tokens[: sequence.computed]
        if self.cuttable:
            assert self.decoder.used == self.scheduler.used
        else:
            assert self.decoder.used <= self.scheduler.used, "states are shared, and counted for each"

    def run(self) -> None:
        self.run_until(lambda: not self.scheduler.busy)

    def run_until(self, done: Callable[[], bool], *, most: int = 10_000) -> None:
        for _ in range(most):
            if done():
                return
            self.step_once()
        raise AssertionError("it never ends")


def out(sequence: Sequence) -> FakeOutput:
    assert isinstance(sequence.output, FakeOutput)
    return sequence.output


def plain(
    prompt: list[int],
    max_new: int | None,
    context: int,
    keep: int | None = None,
    rule: Callable[[list[int]], list[int]] = lambda said: [],
) -> list[int]:
    """What a sequence says when it is alone: the obviously right model."""
    tokens = list(prompt)
    said: list[int] = []
    owed = rule(said)
    while max_new is None or len(said) < max_new:
        ruled = bool(owed)
        token = owed.pop(0) if owed else next_token(tokens)
        tokens.append(token)
        said.append(token)
        if len(tokens) >= context:
            if keep is None:
                break
            tokens = shifted(tokens, keep, context)
        owed = owed if ruled else rule(said)
    return said


def test_one_sequence_says_what_it_says_alone() -> None:
    bench = Bench()
    sequence = bench.submit([1, 2, 3])
    bench.run()
    assert out(sequence).tokens == plain([1, 2, 3], 8, 64)
    assert (out(sequence).reason, out(sequence).counts) == ("length", Counts(prompt=3, cached=0, generated=8))


def test_a_stop_token_ends_a_sequence() -> None:
    bench = Bench()
    sequence = bench.submit([5], max_new=None)
    out(sequence).stop = plain([5], 4, 64)[2]
    bench.run()
    assert out(sequence).reason == "stop"
    assert len(out(sequence).tokens) == 3


def test_a_second_turn_computes_only_its_new_tokens() -> None:
    bench = Bench()
    first = bench.submit([1, 2, 3, 4])
    bench.run()
    before = bench.decoder.computed
    history = [1, 2, 3, 4, *out(first).tokens]
    second = bench.submit([*history, 7, 8, 9], max_new=1)
    bench.run()
    # The last token of the first turn was sampled and never computed.
    assert bench.decoder.computed - before == 1 + 3
    assert out(second).counts == Counts(prompt=len(history) + 3, cached=len(history) - 1, generated=1)
    assert out(second).tokens == plain([*history, 7, 8, 9], 1, 64)


def test_choices_share_one_prompt() -> None:
    bench = Bench(step=64)
    sequences = [bench.submit(list(range(30)), max_new=2) for _ in range(4)]
    bench.run()
    assert bench.scheduler.counters.computed_tokens == 30 + 3, "the others compute the last token again"
    assert all(out(s).tokens == plain(list(range(30)), 2, 64) for s in sequences)
    counts = [c for s in sequences if (c := out(s).counts) is not None]
    assert total(counts) == Counts(prompt=30, cached=0, generated=8)


def test_requests_with_a_common_beginning_compute_it_once() -> None:
    bench = Bench(cells=1000, context=200, step=20)
    sequences = [bench.submit([*range(100), 500 + i], max_new=2) for i in range(4)]
    bench.run()
    assert bench.scheduler.counters.computed_tokens == 100 + 4
    assert all(out(s).tokens == plain([*range(100), 500 + i], 2, 200) for i, s in enumerate(sequences))


def test_the_first_of_many_prompts_is_answered_before_the_last_is_read() -> None:
    bench = Bench(cells=1000, context=100, live=8, seqs=12, step=32)
    sequences = [bench.submit([i * 100 + j for j in range(32)], max_new=20) for i in range(8)]
    bench.step_once()
    assert [len(out(s).tokens) for s in sequences] == [1, 0, 0, 0, 0, 0, 0, 0]
    bench.run()
    assert all(out(s).reason == "length" for s in sequences)


def test_a_long_prompt_does_not_stall_a_running_stream() -> None:
    bench = Bench(cells=1000, context=500, step=10)
    stream = bench.submit([1], max_new=100)
    bench.step_once()
    bench.submit([900 + i for i in range(90)], max_new=1)
    for expected in range(2, 12):
        bench.step_once()
        assert len(out(stream).tokens) == expected, "one token in every step"


def test_prompts_and_streams_take_turns_where_they_are_apart() -> None:
    bench = Bench(cells=1000, context=500, step=10)
    bench.scheduler.limits.apart = True
    stream = bench.submit([1], max_new=100)
    bench.step_once()
    prompt = bench.submit([900 + i for i in range(90)], max_new=1)
    for _ in range(16):
        bench.step_once()
    assert len(out(stream).tokens) in (8, 9, 10)
    assert prompt.computed in (70, 80, 90)
    assert out(stream).tokens == plain([1], len(out(stream).tokens), 500)


def test_cancelling_frees_the_sequence_within_one_step() -> None:
    bench = Bench()
    sequence = bench.submit([1, 2, 3], max_new=None)
    bench.step_once()
    bench.loop.cancel(sequence)
    bench.loop.read()
    assert isinstance(out(sequence).error, RequestCancelled)
    assert not bench.scheduler.busy
    bench.loop.cancel(sequence)
    bench.loop.read()


def test_a_sequence_that_has_said_enough_is_finished_within_one_step() -> None:
    bench = Bench()
    sequence = bench.submit([1, 2, 3], max_new=None)
    bench.step_once()
    bench.step_once()
    bench.loop.stop(sequence)
    bench.loop.read()
    assert (out(sequence).reason, len(out(sequence).tokens)) == ("stop", 2)
    assert not bench.scheduler.busy
    bench.loop.stop(sequence)
    bench.loop.read()


def test_when_cells_run_out_the_youngest_goes_on_later() -> None:
    bench = Bench(cells=64, context=64, live=4, step=16)
    sequences = [bench.submit([i], max_new=40) for i in range(4)]
    bench.run()
    assert bench.scheduler.counters.preemptions > 0
    assert [out(s).tokens for s in sequences] == [plain([i], 40, 64) for i in range(4)]


def test_the_context_ends_a_sequence_or_is_shifted() -> None:
    bench = Bench(context=32)
    ended = bench.submit([1, 2, 3], max_new=None)
    going_on = bench.submit([1, 2, 3], max_new=100, shift=Shift(2))
    bench.run()
    assert out(ended).reason == "length"
    assert out(ended).tokens == plain([1, 2, 3], None, 32)
    assert len(out(going_on).tokens) == 100
    assert out(going_on).tokens == plain([1, 2, 3], 100, 32, keep=2)
    assert bench.scheduler.counters.shifts > 2


def test_a_pinned_prefix_outlives_pressure() -> None:
    bench = Bench(cells=100, context=40)
    bench.submit(list(range(20)), max_new=0, pin=True)
    bench.run()
    for i in range(20):
        bench.submit([500 + i * 20 + j for j in range(20)], max_new=10)
        bench.run()
    assert bench.scheduler.cache.match(list(range(20))) == 20
    again = bench.submit([*range(20), 77], max_new=1)
    bench.run()
    assert out(again).counts == Counts(prompt=21, cached=20, generated=1)


def test_a_state_that_cannot_be_cut_is_shared_where_it_was_left() -> None:
    bench = Bench(cuttable=False)
    first = bench.submit([1, 2, 3])
    bench.run()
    again = bench.submit([1, 2, 3])
    bench.run()
    assert out(again).counts == Counts(prompt=3, cached=2, generated=8)
    assert out(again).tokens == out(first).tokens
    history = [1, 2, 3, *out(first).tokens]
    turn = bench.submit([*history, 4], max_new=2)
    bench.run()
    assert out(turn).counts == Counts(prompt=12, cached=10, generated=2)
    assert out(turn).tokens == plain([*history, 4], 2, 64)


def test_where_two_prompts_part_a_state_is_left_for_the_third() -> None:
    bench = Bench(cells=4000, context=200, cuttable=False)
    for i, cached in enumerate([0, 0, 100]):
        sequence = bench.submit([*range(100), 500 + i, 600, 700], max_new=1)
        bench.run()
        assert out(sequence).counts == Counts(prompt=103, cached=cached, generated=1)


def test_choices_of_a_state_compute_the_prompt_once() -> None:
    bench = Bench(cells=4000, context=200, cuttable=False)
    sequences = [bench.submit(list(range(100)), max_new=3) for _ in range(4)]
    bench.run()
    assert bench.scheduler.counters.computed_tokens == 100 + 3
    assert all(out(s).tokens == plain(list(range(100)), 3, 200) for s in sequences)


def test_every_position_of_a_scored_prompt_is_scored_once() -> None:
    bench = Bench(cells=400, context=200, step=50)
    bench.submit(list(range(100)), max_new=1)
    scored = bench.submit(list(range(100)), max_new=3, score_from=0)
    bench.run()
    assert sorted(set(out(scored).scored)) == list(range(100))
    assert out(scored).tokens == plain(list(range(100)), 3, 200)


def test_only_the_end_of_a_prompt_is_scored_where_that_is_enough() -> None:
    bench = Bench(cells=400, context=200, step=50)
    bench.submit(list(range(90)), max_new=1)
    bench.run()
    before = bench.decoder.computed
    scored = bench.submit(list(range(100)), max_new=0, score_from=89)
    bench.run()
    assert out(scored).scored == list(range(89, 100))
    assert bench.decoder.computed - before == 11


def test_progress_of_a_prompt_is_told() -> None:
    bench = Bench(step=16)
    sequence = bench.submit(list(range(40)), max_new=1)
    bench.run()
    assert out(sequence).progress == [16, 32, 40]


def test_an_output_that_raises_ends_only_its_own_sequence() -> None:
    bench = Bench()
    bad, good = bench.submit([1]), bench.submit([2])
    out(bad).fail_at = 3
    bench.run()
    assert isinstance(out(bad).error, GenerationFailed)
    assert out(good).tokens == plain([2], 8, 64)


def test_a_failing_decoder_ends_who_was_there_and_serves_who_comes() -> None:
    bench = Bench(fail_at=3)
    lost = [bench.submit([i]) for i in range(6)]
    bench.run()
    assert all(isinstance(out(s).error, GenerationFailed) for s in lost)
    later = bench.submit([3])
    bench.run()
    assert out(later).tokens == plain([3], 8, 64)


def test_a_closed_loop_ends_everything() -> None:
    decoder = FakeDecoder(cells=256, sequences=8)
    scheduler = Scheduler(Limits(cells=256, context=64, live=2, step=16), PrefixCache(8))
    loop = Loop(decoder, scheduler)
    sequences = [Sequence(tokens=[i], output=FakeOutput(decoder), shift=Shift(0)) for i in range(5)]
    loop.start()
    for sequence in sequences:
        loop.submit(sequence)
    loop.close()
    late = Sequence(tokens=[1], output=FakeOutput(decoder))
    loop.submit(late)
    assert all(isinstance(out(s).error, ServerClosed) for s in [*sequences, late])


def test_a_conversation_that_was_evicted_is_restored_and_not_computed() -> None:
    bench = Bench(cells=64, context=64, host=1 << 20)
    first = bench.submit(list(range(30)))
    bench.run()
    for i in range(4):
        bench.submit([100 * i + 100 + j for j in range(40)])
        bench.run()
    assert bench.scheduler.cache.match(list(range(30))) == 0
    history = [*range(30), *out(first).tokens]
    before = bench.decoder.computed
    turn = bench.submit([*history, 7, 8])
    bench.run()
    assert out(turn).tokens == plain([*history, 7, 8], 8, 64)
    assert out(turn).counts == Counts(prompt=40, cached=37, generated=8)
    assert bench.decoder.computed - before == 3 + 7


def test_what_was_restored_is_not_written_down_again() -> None:
    bench = Bench(cells=64, context=64, host=1 << 20)
    for _ in range(3):
        for i in range(3):
            bench.submit([100 * i + j for j in range(50)], max_new=1)
            bench.run()
    assert bench.decoder.saved <= 3 * 52


def test_a_shortened_conversation_is_moved_where_that_is_allowed() -> None:
    bench = Bench(cells=200, context=100)
    system, old, later = list(range(10)), list(range(100, 130)), list(range(200, 230))
    bench.submit([*system, *old, *later], max_new=1, reuse=8)
    bench.run()
    before = bench.decoder.computed
    exact = bench.submit([*system, *later, 300], max_new=1)
    bench.run()
    assert bench.decoder.computed - before == 31
    bench.submit([*system, *old, *later, 400], max_new=1, space="moving", reuse=8)
    bench.run()
    before = bench.decoder.computed
    moved = bench.submit([*system, *later, 300], max_new=1, space="moving", reuse=8)
    bench.run()
    assert bench.decoder.computed - before == 1
    assert bench.scheduler.counters.moved_tokens == 30
    assert out(moved).tokens == out(exact).tokens


def test_tenants_share_nothing() -> None:
    bench = Bench()
    for space in ("a", "b", "a"):
        sequence = bench.submit([1, 2, 3, 4], max_new=2, space=space)
        bench.run()
    assert out(sequence).counts == Counts(prompt=4, cached=3, generated=2)
    assert bench.scheduler.counters.cached_tokens == 3


def test_groups_are_never_in_one_batch_and_none_waits_for_ever() -> None:
    bench = Bench()
    sequences = [bench.submit([i], max_new=10, group=i % 2, space=str(i % 2)) for i in range(4)]
    groups = []
    while bench.scheduler.busy:
        plan_groups = {s.group for s in bench.scheduler.running}
        bench.step_once()
        groups.append((bench.decoder.group, plan_groups))
    assert {group for group, _ in groups} == {0, 1}
    assert all(out(s).tokens == plain([i], 10, 64) for i, s in enumerate(sequences))


def test_a_lower_number_goes_first_and_takes_the_place_of_a_higher_one() -> None:
    bench = Bench(live=1)
    slow = bench.submit([1], max_new=20, priority=5)
    bench.step_once()
    fast = bench.submit([2], max_new=2)
    while not out(fast).ended:
        bench.step_once()
    assert not out(slow).ended
    bench.run()
    assert out(slow).tokens == plain([1], 20, 64)


def test_a_client_with_one_request_does_not_wait_for_all_of_another() -> None:
    bench = Bench(live=1)
    many = [bench.submit([i], max_new=2, client="many") for i in range(10)]
    one = bench.submit([77], max_new=2, client="one")
    bench.run_until(lambda: out(one).ended)
    assert sum(out(s).ended for s in many) <= 2


def every_third(said: list[int]) -> list[int]:
    """A rule of a grammar: after a token that three divides, up to four certain ones follow."""
    return [] if said and said[-1] % 3 else [(sum(said) + i) % 50 * 3 + 1 for i in range(len(said) % 5)]


@pytest.mark.parametrize("certain", [False, True])
def test_forced_tokens_are_computed_in_one_piece(certain: bool) -> None:
    bench = Bench(cells=400, context=200)
    sequence = bench.submit([1, 2], max_new=60, rule=every_third, certain=certain)
    bench.run()
    assert out(sequence).tokens == plain([1, 2], 60, 200, rule=every_third)
    assert bench.scheduler.counters.steps < 60
    assert out(sequence).counts == Counts(prompt=2, cached=0, generated=60)


class Oracle:
    """Guesses right as often as it is told to."""

    def __init__(self, wrong_after: int) -> None:
        self.wrong_after = wrong_after
        self.cost = 0.0

    def propose(self, wanted: Any) -> list[list[int] | None]:
        result: list[list[int] | None] = []
        for each in wanted:
            tokens = list(each.tokens)
            for place in range(each.most):
                tokens.append(next_token(tokens) if place < self.wrong_after else 1001)
            result.append(tokens[len(each.tokens) :])
        return result

    def forget(self, key: object) -> None:
        pass


def test_a_block_longer_than_a_step_is_computed_whole() -> None:
    bench = Bench(step=16)
    prompt = [1, 2, *range(-100, -140, -1), 3]
    text = bench.submit([5] * 20, max_new=3)
    sequence = bench.submit(prompt, max_new=3)
    done: list[int] = []

    def streams() -> bool:
        done.append(sequence.computed)
        return sequence.streaming

    bench.run_until(streams)
    assert sorted(set(done)) == [0, 2, 42, 43]
    bench.run()
    assert out(sequence).tokens == plain(prompt, 3, 64)
    assert out(text).tokens == plain([5] * 20, 3, 64)


def test_blocks_are_shared_and_given_up_whole() -> None:
    bench = Bench(cells=64, context=64)
    block = list(range(-100, -120, -1))
    bench.submit([1, 2, *block, 3], max_new=1)
    bench.run()
    again = bench.submit([1, 2, *block, 4], max_new=1)
    bench.run()
    assert out(again).counts == Counts(prompt=23, cached=22, generated=1)
    bench.submit([7] * 45, max_new=1)
    bench.run()
    assert bench.scheduler.cache.match([1, 2, *block]) == 2
    assert bench.scheduler.cache.evicted == 1 + 1 + 20


def test_a_shift_cuts_no_block() -> None:
    block = list(range(-100, -110, -1))
    for keep in range(2, 8):
        tokens, _ = Shift(keep).apply([1, 2, 3, *block, *range(20), *block, 5, 6, 7], 40)
        runs = [token for token in tokens if token < 0]
        assert runs in ([], block, [*block, *block])
        assert tokens[:2] == [1, 2]
        assert tokens[-1] == 7


def test_blocks_are_not_guessed() -> None:
    guesser = Speculator(mode="always", most=4, match=2, draft=Oracle(4))
    first, second = (
        guesser.plan([Wanted("a", [1, 2, -100, -101, 1, 2], 4, b)], batch=1, budget=9) for b in (False, True)
    )
    assert (first, second) == ([[-100, -101, 1, 2]], [[]])
    assert guesser.plan([Wanted("b", [9, 8, 7], 4, True)], batch=1, budget=9) == [[]]


@pytest.mark.parametrize("right", [0, 2, 8])
def test_guesses_change_nothing_but_the_number_of_steps(right: int) -> None:
    bench = Bench(guesser=Speculator(mode="always", most=4, match=3, draft=Oracle(right)))
    sequences = [bench.submit([i], max_new=40) for i in range(3)]
    bench.run()
    assert all(out(s).tokens == plain([i], 40, 64) for i, s in enumerate(sequences))
    assert bench.scheduler.counters.accepted_tokens == {0: 0, 2: 78, 8: 93}[right]


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=24)

BLOCKS = [list(range(-100 * number, -100 * number - size, -1)) for number, size in enumerate((1, 2, 4, 9), 1)]
parts = st.lists(st.integers(0, 2).map(lambda token: [token]) | st.sampled_from(BLOCKS), max_size=8)
media = parts.map(lambda parts: [*itertools.chain(*parts), 1]).filter(lambda tokens: len(tokens) < 32)


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            tokens | media,
            st.integers(0, 12),
            st.fixed_dictionaries(
                {},
                optional={
                    "shift": st.sampled_from([Shift(0), Shift(3), Shift(1, (4, 9, 15))]),
                    "priority": st.integers(-1, 1),
                    "client": st.sampled_from(["a", "b"]),
                    "space": st.sampled_from(["x", "y"]),
                    "group": st.sampled_from([1, 2]),
                    "reuse": st.integers(2, 6),
                    "rule": st.just(every_third),
                    "certain": st.booleans(),
                },
            ),
        ),
        st.tuples(st.just("step"), st.just([]), st.integers(1, 6), st.just({})),
        st.tuples(st.just("cancel"), st.just([]), st.integers(0, 5), st.just({})),
    ),
    max_size=40,
)


def expected(prompt: list[int], sequence: Sequence, shift: Shift | None, context: int) -> list[int]:
    """What `sequence` says alone."""
    said: list[int] = []
    tokens, rule = list(prompt), out(sequence).rule
    owed = rule(said)
    while sequence.max_new is None or len(said) < sequence.max_new:
        ruled = bool(owed)
        token = owed.pop(0) if owed else next_token(tokens)
        tokens.append(token)
        said.append(token)
        if len(tokens) >= context:
            if shift is None:
                break
            tokens, shift = shift.apply(tokens, context)
        owed = owed if ruled else rule(said)
    return said


@settings(max_examples=600, deadline=None)
@given(
    actions=actions,
    cells=st.integers(32, 80),
    live=st.integers(1, 5),
    spare=st.integers(1, 5),
    step=st.integers(1, 20),
    beside=st.integers(1, 20),
    apart=st.booleans(),
    kept=st.sampled_from([None, 0, 20]),
    cuttable=st.booleans(),
    host=st.sampled_from([None, 0, 300, 1 << 20]),
    guesses=st.sampled_from([None, 0, 1, 3]),
)
def test_any_history_gives_the_tokens_of_plain_runs(
    actions: list[tuple[str, list[int], int, dict[str, Any]]],
    cells: int,
    live: int,
    spare: int,
    step: int,
    beside: int,
    apart: bool,
    kept: int | None,
    cuttable: bool,
    host: int | None,
    guesses: int | None,
) -> None:
    """Prompts of few different tokens share beginnings often; few cells make eviction and preemption common."""
    guesser = None if guesses is None else Speculator(mode="always", most=4, match=2, draft=Oracle(guesses))
    bench = Bench(
        cells=cells,
        context=32,
        live=live,
        seqs=live + spare,
        step=max(step, live),
        cuttable=cuttable,
        host=host,
        guesser=guesser,
    )
    bench.scheduler.limits.beside = beside
    bench.scheduler.limits.apart = apart
    bench.scheduler.limits.kept = kept
    sequences: list[tuple[Sequence, list[int], Shift | None]] = []
    for name, prompt, number, options in actions:
        if name == "submit":
            space = f"{options.get('space', '')} {options.get('group', '')}"
            options = {**options, "space": space}
            sequences.append((bench.submit(prompt, max_new=number, **options), prompt, options.get("shift")))
        elif name == "cancel" and sequences:
            bench.loop.cancel(sequences[number % len(sequences)][0])
            bench.loop.read()
            bench.check()
        else:
            for _ in range(number):
                bench.step_once()
    bench.run()
    for sequence, prompt, shift in sequences:
        if out(sequence).error is None:
            assert out(sequence).tokens == expected(prompt, sequence, shift, 32)
        else:
            assert isinstance(out(sequence).error, RequestCancelled)


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    slow = 0
    while slow < min(len(a), len(b)) and a[slow] == b[slow]:
        slow += 1
    assert common_prefix(a, b) == slow


@given(st.integers(2, 64), st.integers(0, 80), st.integers(1, 200))
def test_shifted_leaves_room_and_keeps_the_ends(context: int, keep: int, length: int) -> None:
    result = shifted(list(range(length)), keep, context)
    assert 0 < len(result) < context or length < context
    assert result[-1] == length - 1
    head = min(keep, (context - 1) // 2, length)
    assert result[:head] == list(range(head))


def test_no_seq_left_is_an_error() -> None:
    cache = PrefixCache(1)
    cache.acquire([1, 2], 1)
    with pytest.raises(LookupError):
        cache.acquire([3], 0)
    cache.check_integrity()
