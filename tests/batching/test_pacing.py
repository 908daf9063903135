"""The size of steps, by what steps took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.batching.pacing import Pacing


def paced(*steps: tuple[int, float], target: float = 0.1, largest: int = 512, grain: int = 32) -> Pacing:
    pacing = Pacing(target, largest, grain)
    for tokens, seconds in steps:
        pacing.took(tokens, seconds)
    return pacing


def test_before_anything_is_measured_steps_are_as_large_as_they_can_be() -> None:
    assert (paced().beside, paced().alone) == (512, 512)


def test_a_step_beside_streams_takes_as_long_as_is_wanted() -> None:
    pacing = paced((128, 0.128))  # a millisecond each
    assert (pacing.beside, pacing.alone) == (96, 384)


def test_sizes_are_multiples_of_the_grain_and_at_least_that() -> None:
    assert paced((128, 0.128), grain=64).beside == 64
    assert paced((64, 6.4), grain=64).beside == 64
    assert paced((64, 6.4), grain=64).alone == 64


def test_a_machine_that_is_fast_takes_the_largest_steps() -> None:
    assert paced((512, 0.001)).beside == 512


@pytest.mark.parametrize("step", [(31, 9.0), (64, 0.0), (64, -1.0)])
def test_what_tells_nothing_about_the_speed_of_prompts_is_left_out(step: tuple[int, float]) -> None:
    assert paced(step).beside == 512


def test_a_short_prompt_on_a_kernel_that_wants_many_tokens_does_not_shrink_the_steps() -> None:
    """It takes as long as a whole tile: sizes that follow it would be ever slower by the token."""
    assert paced((128, 0.128), (40, 0.3), target=0.2, grain=64) == paced((128, 0.128), target=0.2, grain=64)


def test_a_machine_that_was_slow_for_a_while_is_fast_again() -> None:
    pacing = paced((128, 0.128))
    for _ in range(3):
        pacing.took(96, 9.6)
    assert pacing.beside == 32
    for _ in range(30):
        pacing.took(32, 0.032)
    assert pacing.beside == 96


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0.0, 100.0))), st.sampled_from([1, 32, 64]))
def test_sizes_are_always_possible(steps: list[tuple[int, float]], grain: int) -> None:
    pacing = paced(*steps, grain=grain)
    for size in (pacing.beside, pacing.alone):
        assert size == 512 or (size % grain == 0 and grain <= size < 512)
    assert pacing.beside <= pacing.alone
