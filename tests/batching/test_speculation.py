"""Which sequence gets how many guesses: on synthetic models whose costs and whose agreement are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.batching.speculation import LAST_PROBE, REFRESH, Mode, Share, Speculator, Wanted

REPEATED = [1, 2, 3, 4]


@dataclass
class FakeDraft:
    """Guesses 7 as often as it is asked to, or what `answer` says; remembers what it was asked."""

    cost: float = 0.0
    answer: Callable[[Wanted], list[int] | None] = lambda wanted: [7] * wanted.most
    asked: list[list[tuple[Hashable, int]]] = field(default_factory=list)
    forgotten: list[Hashable] = field(default_factory=list)

    def propose(self, wanted: Sequence[Wanted]) -> list[list[int] | None]:
        self.asked.append([(each.key, each.most) for each in wanted])
        return [self.answer(each) for each in wanted]

    def forget(self, key: Hashable) -> None:
        self.forgotten.append(key)


def wanted(key: Hashable, tokens: list[int] | None = None, most: int = 16) -> Wanted:
    """A sequence; by default one whose end occurred before, so that there are guesses."""
    return Wanted(key, REPEATED * 3 if tokens is None else tokens, most)


def speculator(mode: Mode = "auto", most: int = 16, draft: FakeDraft | None = None) -> Speculator:
    return Speculator(mode=mode, most=most, match=3, draft=draft)


@dataclass
class Simulation:
    """Steps of `size` sequences whose guesses are right with probability `right`, on a machine with such costs."""

    cost: Callable[[int], float]
    right: float
    size: int = 1
    mode: Mode = "auto"
    seed: int = 0
    draft: FakeDraft | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.speculator = speculator(self.mode, draft=self.draft)
        self.texts = [[] if self.draft else list(REPEATED * 3) for _ in range(self.size)]
        self.tokens, self.guessed, self.seconds = 0, 0, 0.0

    def run(self, steps: int) -> Simulation:
        """Some steps more, counted anew."""
        self.tokens, self.guessed, self.seconds = 0, 0, 0.0
        for _ in range(steps):
            self.step()
        return self

    def step(self) -> None:
        asked = [Wanted(index, text, 16) for index, text in enumerate(self.texts)]
        guesses = self.speculator.plan(asked, batch=self.size, budget=512)
        for index, guess in enumerate(guesses):
            self.check(index, len(guess))
        count = self.size + sum(map(len, guesses))
        drafted = max(map(len, guesses)) if self.draft else 0
        self.seconds += self.cost(count) + drafted * (self.draft.cost if self.draft else 0.0)
        self.speculator.step_took(count, self.cost(count))

    def check(self, index: int, guessed: int) -> None:
        accepted = 0
        while accepted < guessed and self.random.random() < self.right:
            accepted += 1
        self.speculator.checked(index, guessed, accepted)
        self.tokens += 1 + accepted
        self.guessed += guessed
        if not self.draft:
            self.texts[index] += [REPEATED[(len(self.texts[index]) + i) % 4] for i in range(1 + accepted)]

    @property
    def speed(self) -> float:
        """Tokens per second, against the same without guesses."""
        return self.tokens / self.seconds * self.cost(self.size) / self.size

    def best(self) -> float:
        """The speed with the best fixed number of guesses for everybody."""
        return max(self.expected(count) for count in range(17))

    def expected(self, count: int) -> float:
        gain = sum(self.right**depth for depth in range(count + 1))
        return gain * self.cost(self.size) / self.cost(self.size * (1 + count))


def free(tokens: int) -> float:
    """A machine that waits for its memory: more tokens cost next to nothing."""
    return 1.0 + 0.01 * tokens


def linear(tokens: int) -> float:
    """A machine that computes all the time: a token costs what a step costs."""
    return float(tokens)


def stairs(tokens: int) -> float:
    """Up to eight tokens are free, then the next eight, and so on."""
    return 1.0 + 0.6 * ((tokens - 1) // 8)


# --- auto: by measurement


@pytest.mark.parametrize("size", [1, 8, 64])
def test_it_stays_off_where_it_cannot_pay(size: int) -> None:
    simulation = Simulation(linear, right=0.9, size=size)
    simulation.run(200)
    assert simulation.run(1000).speed > 0.98


@pytest.mark.parametrize("size", [1, 8])
def test_it_stays_off_where_guesses_are_wrong(size: int) -> None:
    simulation = Simulation(lambda n: 1.0 + 0.1 * n, right=0.02, size=size)
    simulation.run(200)
    assert simulation.run(2000).speed > 0.98
    assert simulation.guessed > 0  # now and then it looks whether they still are


@pytest.mark.parametrize("cost", [free, stairs])
@pytest.mark.parametrize("right", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("size", [1, 8])
def test_it_is_about_as_fast_as_the_best_fixed_number(cost: Callable[[int], float], right: float, size: int) -> None:
    shares = []
    for seed in range(4):  # where it is at the edge of a stair, luck decides when that is seen
        simulation = Simulation(cost, right=right, size=size, seed=seed).run(300)
        best = simulation.best()
        shares.append(simulation.run(1000).speed / (1 + 0.8 * (best - 1)))
    assert sum(shares) / len(shares) > 0.97


def test_what_pays_alone_may_not_pay_beside_others() -> None:
    alone = Simulation(lambda n: max(1.0, n / 8), right=0.7, size=1).run(500).run(500)
    beside = Simulation(lambda n: max(1.0, n / 8), right=0.7, size=8).run(500).run(500)
    assert alone.speed > 2.0
    assert beside.speed > 0.98
    assert beside.guessed / 8 < alone.guessed / 10


def test_it_comes_back_when_guesses_become_right_and_goes_when_they_become_wrong() -> None:
    simulation = Simulation(lambda n: 1.0 + 0.1 * n, right=0.0).run(1000)
    assert simulation.run(LAST_PROBE).guessed < LAST_PROBE / 10
    simulation.right = 0.95
    simulation.run(3 * LAST_PROBE)
    assert simulation.run(200).speed > 2.0
    simulation.right = 0.0
    simulation.run(50)
    assert simulation.run(500).speed > 0.97


def test_it_grows_with_success_and_shrinks_without() -> None:
    simulation = Simulation(lambda n: 1.0 + 0.05 * n, right=1.0)
    simulation.run(1)
    early = simulation.run(1).guessed
    simulation.run(100)
    late = simulation.run(1).guessed
    assert 0 < early < late <= 16
    simulation.right = 0.3
    simulation.run(30)
    assert simulation.run(100).guessed / 100 < late / 2


def test_it_notices_that_guesses_stopped_to_pay() -> None:
    simulation = Simulation(free, right=0.7).run(500)
    assert simulation.run(100).speed > 1.5
    simulation.cost = linear
    simulation.run(3 * REFRESH)
    assert simulation.run(1000).speed > 0.97


def test_without_measurements_there_are_no_guesses() -> None:
    planner = speculator()
    assert planner.plan([wanted("a")], batch=1, budget=100) == [[]]
    planner.step_took(1, 1.0)
    guesses = planner.plan([wanted("a")], batch=1, budget=100)[0]
    assert guesses == (REPEATED * 4)[: len(guesses)]
    assert 1 <= len(guesses) < 16
    assert planner.plan([wanted("a")], batch=300, budget=100) == [[]]  # what such a step takes is unknown


def test_one_whose_guesses_are_right_gets_more_than_one_whose_are_wrong() -> None:
    planner = speculator()
    for _ in range(20):
        planner.step_took(2, 1.0)
        planner.step_took(20, 1.5)
        guesses = planner.plan([wanted("good"), wanted("bad")], batch=2, budget=100)
        planner.checked("good", len(guesses[0]), len(guesses[0]))
        planner.checked("bad", len(guesses[1]), 0)
    good, bad = planner.plan([wanted("good"), wanted("bad")], batch=2, budget=100)
    assert len(good) > 8
    assert len(bad) < 3


# --- always and off


def test_always_takes_all_there_is_whatever_it_costs() -> None:
    simulation = Simulation(linear, right=0.0, mode="always").run(50)
    assert simulation.guessed == 50 * 16


def test_off_guesses_nothing() -> None:
    draft = FakeDraft()
    planner = speculator("off", draft=draft)
    planner.step_took(1, 1.0)
    assert planner.plan([wanted("a"), wanted("b", [])], batch=2, budget=100) == [[], []]
    assert draft.asked == []


def test_a_small_budget_is_shared() -> None:
    guesses = speculator("always").plan([wanted(key) for key in "abc"], batch=3, budget=7)
    assert [len(guess) for guess in guesses] == [3, 2, 2]


# --- bounds


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(["auto", "always", "off"]),
    most=st.integers(1, 20),
    drafting=st.booleans(),
    rounds=st.lists(
        st.tuples(
            st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=6),
            st.integers(0, 30),
            st.floats(0.001, 10.0),
            st.integers(0, 20),
        ),
        max_size=25,
    ),
)
def test_never_more_than_there_is_room_for(
    mode: Mode, most: int, drafting: bool, rounds: list[tuple[list[tuple[bool, int]], int, float, int]]
) -> None:
    planner = speculator(mode, most, FakeDraft(cost=0.1) if drafting else None)
    for sequences, budget, seconds, right in rounds:
        asked = [wanted(key, None if known else [key], limit) for key, (known, limit) in enumerate(sequences)]
        guesses = planner.plan(asked, batch=len(asked), budget=budget)
        assert len(guesses) == len(asked)
        assert sum(map(len, guesses)) <= budget
        for each, guess in zip(asked, guesses, strict=True):
            assert len(guess) <= min(each.most, most)
            assert drafting or len(each.tokens) > 1 or not guess
            planner.checked(each.key, len(guess), min(right, len(guess)))
        planner.step_took(len(asked) + sum(map(len, guesses)), seconds)


# --- a draft model


def test_a_draft_model_is_asked_where_nothing_is_found() -> None:
    draft = FakeDraft()
    planner = speculator("always", most=4, draft=draft)
    guesses = planner.plan([wanted("a"), wanted("b", [5, 6])], batch=2, budget=100)
    assert guesses == [REPEATED, [7, 7, 7, 7]]
    assert draft.asked == [[("b", 4)]]


def test_a_draft_model_is_asked_where_what_is_found_is_wrong() -> None:
    draft = FakeDraft()
    planner = speculator("always", most=4, draft=draft)
    for _ in range(3):
        planner.plan([wanted("a")], batch=1, budget=100)
        planner.checked("a", 4, 0)
    assert planner.plan([wanted("a")], batch=1, budget=100) == [[7, 7, 7, 7]]


def test_a_draft_model_that_is_too_slow_is_hardly_asked() -> None:
    for cost, least, most in ((0.05, 1.5, 9.9), (0.9, 0.95, 1.1)):
        simulation = Simulation(free, right=0.8, draft=FakeDraft(cost=cost)).run(300)
        assert least < simulation.run(1000).speed < most


def test_a_draft_model_that_is_never_sure_is_hardly_asked() -> None:
    draft = FakeDraft(cost=0.2, answer=lambda wanted: [])
    simulation = Simulation(free, right=0.8, draft=draft).run(300)
    asked = len(draft.asked)
    simulation.run(1000)
    assert 0 < len(draft.asked) - asked < 50


def test_one_that_is_not_ready_is_asked_again() -> None:
    draft = FakeDraft(answer=lambda wanted: None)
    planner = speculator(draft=draft)
    for _ in range(100):
        planner.step_took(1, 1.0)
        assert planner.plan([wanted("a", [5])], batch=1, budget=100) == [[]]
    assert len(draft.asked) == 100


def test_a_shorter_answer_than_was_asked_for_counts_as_a_wrong_guess() -> None:
    draft = FakeDraft(answer=lambda wanted: [7])
    planner = speculator(draft=draft)
    for _ in range(30):
        planner.step_took(1, 1.0)
        planner.step_took(10, 1.1)
        planner.checked("a", len(planner.plan([wanted("a", [5])], batch=1, budget=100)[0]), 1)
    assert 1 <= draft.asked[-1][0][1] <= 6


# --- keeping count


def test_what_is_over_is_forgotten_and_may_come_again() -> None:
    draft = FakeDraft()
    planner = speculator("always", draft=draft)
    planner.plan([wanted("a")], batch=1, budget=100)
    planner.forget("a")
    planner.forget("nobody")
    assert draft.forgotten == ["a", "nobody"]
    planner.checked("a", 3, 1)
    assert len(planner.plan([wanted("a")], batch=1, budget=100)[0]) == 16


def test_a_share_follows_what_was_seen_last() -> None:
    share = Share(keep=0.9, most=100.0)
    assert share.estimate(0.5) == 0.5
    for _ in range(50):
        share.count(4, 4)
    assert share.estimate(0.5) > 0.93
    for _ in range(20):
        share.count(0, 1)
    assert share.estimate(0.5) < 0.5
