"""Restoring against computing, by measured times."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.batching.tiers import BlockId, Costs, Piece, Tier


def piece(tokens: int, size: int, tier: Tier = "host") -> Piece:
    return Piece(BlockId("s", "n"), 0, tokens, 0, tokens, size, tier, False)


def measured(per_token: float, base: float, per_byte: float, tier: Tier = "host") -> Costs:
    costs = Costs()
    costs.computed(100, per_token * 100)
    for size in (1000, 5000, 20_000, 3000):
        costs.restored(tier, size, base + per_byte * size)
    return costs


def test_before_anything_is_measured_everything_is_restored() -> None:
    pieces = [piece(1, 1 << 30), piece(1, 1 << 30)]
    costs = Costs()
    assert costs.worth(pieces[:1]) == 1
    costs.computed(100, 1e-9)
    assert costs.worth(pieces) == 2
    assert costs.computing(5) == pytest.approx(5e-11)
    assert costs.restoring(pieces[0]) is None
    assert costs.worth([]) == 0


def test_a_tier_is_measured_although_another_is_known() -> None:
    costs = measured(1e-9, 1.0, 1.0)
    assert costs.worth([piece(1, 1000, "disk")]) == 1
    assert costs.worth([piece(1, 1000, "host")]) == 0


@given(
    base=st.floats(0, 1),
    per_byte=st.floats(1e-12, 1e-6),
    size=st.integers(0, 1 << 30),
    per_token=st.floats(1e-6, 1),
    tokens=st.integers(1, 10_000),
)
def test_a_linear_cost_is_found_and_decides(
    base: float, per_byte: float, size: int, per_token: float, tokens: int
) -> None:
    costs, one = measured(per_token, base, per_byte), piece(tokens, size)
    expected, computing = base + per_byte * size, per_token * tokens
    restoring = costs.restoring(one)
    assert restoring == pytest.approx(expected, rel=0.02, abs=1e-6 + base * 1e-6 * size)
    assert restoring is not None
    loses = restoring - computing
    assert costs.worth([one]) == (loses <= computing / 32)


def test_only_the_pieces_that_pay_are_restored() -> None:
    costs = measured(0.001, 0.0, 1e-6)  # 1000 bytes take as long as a token
    assert costs.worth([piece(100, 1000), piece(100, 1000), piece(1, 50_000)]) == 2
    assert costs.worth([piece(1, 50_000), piece(100, 1000)]) == 2  # the second makes up for the first
    assert costs.worth([piece(1, 90_000), piece(10, 50_000), piece(1, 1000)]) == 0


def test_a_rejected_tier_is_tried_again_at_little_cost() -> None:
    costs = measured(0.001, 0.0, 1e-5)
    tried, computing, lost = 0, 0.0, 0.0
    for _ in range(1000):
        if costs.worth([piece(100, 100_000)]):
            tried += 1
            lost += 1.0 - 0.1
            costs.restored("host", 100_000, 1.0)
        else:
            computing += 0.1
    assert tried > 1
    assert lost <= (computing + 0.1 * tried) / 32


def test_one_odd_measurement_does_not_decide_for_ever() -> None:
    costs = Costs()
    costs.computed(100, 0.1)
    costs.restored("disk", 1000, 1e6)
    calls = 0
    while not costs.worth([piece(100, 1000, "disk")]):
        calls += 1
    assert 0 < calls <= 1024
    for _ in range(600):
        costs.restored("disk", 1000, 0.001)
    assert costs.worth([piece(100, 1000, "disk")]) == 1


def test_a_change_of_speed_is_followed() -> None:
    costs = measured(0.001, 0.0, 1e-6)
    for _ in range(200):
        costs.computed(100, 100 * 0.01)
    assert costs.computing(1) == pytest.approx(0.01, rel=0.01)


@given(samples=st.lists(st.tuples(st.integers(0, 1 << 40), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_whatever_was_measured_estimates_are_sane(samples: list[tuple[int, float]]) -> None:
    costs = Costs()
    for size, seconds in samples:
        costs.restored("disk", size, seconds)
    for size in (0, 1, 1000, 1 << 40):
        estimate = costs.restoring(piece(1, size, "disk"))
        assert estimate is not None
        assert math.isfinite(estimate)
        assert estimate >= 0
