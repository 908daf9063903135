"""What a step costs, by what was measured."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.batching.costs import FRESH, PRIOR_SLOPE, SAMPLES, StepCosts


def measured(*steps: tuple[int, float]) -> StepCosts:
    costs = StepCosts()
    for tokens, seconds in steps:
        costs.add(tokens, seconds)
    return costs


def test_nothing_is_known_before_anything_was_measured() -> None:
    costs = StepCosts()
    assert costs.age(1) > FRESH
    with pytest.raises(LookupError):
        costs.curve(1, 2)


def test_one_size_gives_a_line_that_rises_a_little() -> None:
    curve = measured((4, 1.0)).curve(2, 6)
    assert curve == pytest.approx([1.0, 1.0, 1.0, 1.0 + PRIOR_SLOPE, 1.0 + 2 * PRIOR_SLOPE])


def test_between_two_sizes_it_is_a_straight_line_and_goes_on_behind() -> None:
    assert measured((1, 1.0), (5, 3.0)).curve(1, 7) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])


def test_behind_the_last_size_it_rises_as_on_the_whole() -> None:
    curve = measured((1, 1.0), (4, 1.0), (5, 2.0)).curve(5, 9)  # the jump at 5 does not go on
    assert curve == pytest.approx([2.0, 2.25, 2.5, 2.75, 3.0])


def test_a_larger_step_never_takes_less() -> None:
    assert measured((1, 2.0), (3, 1.0), (5, 4.0)).curve(1, 5) == pytest.approx([2.0, 2.0, 2.0, 3.0, 4.0])


def test_one_slow_step_changes_nothing() -> None:
    costs = measured((1, 90.0), (1, 1.0), (1, 1.0), (1, 1.0))
    assert costs.curve(1, 1) == [1.0]
    costs.add(1, 50.0)
    assert costs.curve(1, 1) == [1.0]


def test_it_follows_a_machine_that_became_slower() -> None:
    assert measured(*[(1, 1.0)] * SAMPLES, *[(1, 2.0)] * (SAMPLES // 2 + 1)).curve(1, 1) == [2.0]


def test_old_measurements_are_forgotten() -> None:
    costs = measured((5, 100.0), *[(1, 1.0)] * FRESH)
    assert costs.curve(5, 5) == [100.0]
    assert costs.age(5) == FRESH
    assert costs.age(1) == 0
    costs.add(1, 1.0)
    assert costs.curve(5, 5) == pytest.approx([1.0 + 4 * PRIOR_SLOPE])


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_nonsense_is_left_out(seconds: float) -> None:
    assert measured((1, seconds), (0, 1.0)).age(1) > FRESH


@given(
    st.lists(st.tuples(st.integers(1, 600), st.floats(1e-6, 10.0)), min_size=1, max_size=60),
    st.integers(1, 300),
    st.integers(0, 300),
)
def test_a_curve_has_a_value_for_each_size_and_never_falls(
    steps: list[tuple[int, float]], first: int, more: int
) -> None:
    curve = measured(*steps).curve(first, first + more)
    assert len(curve) == more + 1
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(curve))
    assert all(0 < seconds < math.inf for seconds in curve)
