"""The scheduler and the prefix cache, against a model that is a hash of what each sequence sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.batching.base import Counts
from infs.batching.loop import Loop
from infs.batching.prefix import PrefixCache, common_prefix
from infs.batching.scheduler import Limits, Scheduler, Sequence, shifted, total
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
    reuse: bool = True
    fail_at: int | None = None
    loop: Loop = field(init=False)
    decoder: FakeDecoder = field(init=False)

    def __post_init__(self) -> None:
        self.decoder = FakeDecoder(self.cells, self.seqs, fail_at=self.fail_at)
        limits = Limits(cells=self.cells, context=self.context, live=self.live, step=self.step)
        self.scheduler = Scheduler(limits, PrefixCache(self.seqs), reuse=self.reuse)
        self.loop = Loop(self.decoder, self.scheduler)

    def submit(self, prompt: list[int], max_new: int | None = 8, **options: bool | int | None) -> Sequence:
        output = FakeOutput(self.decoder)
        sequence = Sequence(tokens=list(prompt), output=output, max_new=max_new, **options)  # type: ignore[arg-type]
        self.loop.submit(sequence)
        self.loop._read_mail()
        return sequence

    def step_once(self) -> None:
        try:
            self.loop.step()
        except RuntimeError as error:
            self.loop._lose_all(error)
        self.check()

    def check(self) -> None:
        self.scheduler.cache.check_integrity()
        assert self.decoder.used <= self.scheduler.used + sum(1 for _ in self.scheduler.cache.ops) * self.cells
        for sequence in self.scheduler.running:
            assert sequence.seq is not None
            if not self.scheduler.cache.ops:
                assert self.decoder.seen(sequence.seq) == sequence.tokens[: sequence.computed]
        if not self.scheduler.cache.ops:
            assert self.decoder.used == self.scheduler.used

    def run(self, *, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.scheduler.busy:
                return
            self.step_once()
        raise AssertionError("it never ends")


def out(sequence: Sequence) -> FakeOutput:
    assert isinstance(sequence.output, FakeOutput)
    return sequence.output


def plain(prompt: list[int], max_new: int | None, context: int, keep: int | None = None) -> list[int]:
    """What a sequence says when it is alone: the obviously right model."""
    tokens = list(prompt)
    said: list[int] = []
    while max_new is None or len(said) < max_new:
        token = next_token(tokens)
        tokens.append(token)
        said.append(token)
        if len(tokens) >= context:
            if keep is None:
                break
            tokens = shifted(tokens, keep, context)
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


def test_cancelling_frees_the_sequence_within_one_step() -> None:
    bench = Bench()
    sequence = bench.submit([1, 2, 3], max_new=None)
    bench.step_once()
    bench.loop.cancel(sequence)
    bench.loop._read_mail()
    assert isinstance(out(sequence).error, RequestCancelled)
    assert not bench.scheduler.busy
    bench.loop.cancel(sequence)
    bench.loop._read_mail()


def test_a_sequence_that_has_said_enough_is_finished_within_one_step() -> None:
    bench = Bench()
    sequence = bench.submit([1, 2, 3], max_new=None)
    bench.step_once()
    bench.step_once()
    bench.loop.stop(sequence)
    bench.loop._read_mail()
    assert (out(sequence).reason, len(out(sequence).tokens)) == ("stop", 2)
    assert not bench.scheduler.busy
    bench.loop.stop(sequence)
    bench.loop._read_mail()


def test_when_cells_run_out_the_youngest_goes_on_later() -> None:
    bench = Bench(cells=64, context=64, live=4, step=16)
    sequences = [bench.submit([i], max_new=40) for i in range(4)]
    bench.run()
    assert bench.scheduler.counters.preemptions > 0
    assert [out(s).tokens for s in sequences] == [plain([i], 40, 64) for i in range(4)]


def test_the_context_ends_a_sequence_or_is_shifted() -> None:
    bench = Bench(context=32)
    ended = bench.submit([1, 2, 3], max_new=None)
    going_on = bench.submit([1, 2, 3], max_new=100, shift_keep=2)
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


def test_a_model_whose_state_cannot_be_cut_shares_nothing_and_is_right() -> None:
    bench = Bench(reuse=False)
    first = bench.submit([1, 2, 3])
    bench.run()
    second = bench.submit([1, 2, 3])
    bench.run()
    assert out(second).counts == Counts(prompt=3, cached=0, generated=8)
    assert out(second).tokens == out(first).tokens
    assert bench.decoder.used == 0 or bench.scheduler.cache.ops


def test_every_position_of_a_scored_prompt_is_scored_once() -> None:
    bench = Bench(cells=400, context=200, step=50)
    bench.submit(list(range(100)), max_new=1)
    scored = bench.submit(list(range(100)), max_new=3, score_prompt=True)
    bench.run()
    assert sorted(set(out(scored).scored)) == list(range(100))
    assert out(scored).tokens == plain(list(range(100)), 3, 200)


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
    sequences = [Sequence(tokens=[i], output=FakeOutput(decoder), shift_keep=0) for i in range(5)]
    loop.start()
    for sequence in sequences:
        loop.submit(sequence)
    loop.close()
    late = Sequence(tokens=[1], output=FakeOutput(decoder))
    loop.submit(late)
    assert all(isinstance(out(s).error, ServerClosed) for s in [*sequences, late])


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=24)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), tokens, st.integers(0, 12), st.sampled_from([None, 0, 3])),
        st.tuples(st.just("step"), st.just([]), st.integers(1, 6), st.none()),
        st.tuples(st.just("cancel"), st.just([]), st.integers(0, 5), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(
    actions=actions,
    cells=st.integers(32, 80),
    live=st.integers(1, 5),
    spare=st.integers(1, 5),
    step=st.integers(1, 20),
)
def test_any_history_gives_the_tokens_of_plain_runs(
    actions: list[tuple[str, list[int], int, int | None]], cells: int, live: int, spare: int, step: int
) -> None:
    """Prompts of few different tokens share beginnings often; few cells make eviction and preemption common."""
    bench = Bench(cells=cells, context=32, live=live, seqs=live + spare, step=max(step, live))
    sequences: list[tuple[Sequence, list[int]]] = []
    for name, prompt, number, keep in actions:
        if name == "submit":
            sequences.append((bench.submit(prompt, max_new=number, shift_keep=keep), prompt))
        elif name == "cancel" and sequences:
            bench.loop.cancel(sequences[number % len(sequences)][0])
            bench.loop._read_mail()
            bench.check()
        else:
            for _ in range(number):
                bench.step_once()
    bench.run()
    for sequence, prompt in sequences:
        if out(sequence).error is None:
            assert out(sequence).tokens == plain(prompt, sequence.max_new, 32, sequence.shift_keep)
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
