"""Who makes room for whom: the rules, without a clock."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infs.pool.eviction import Resident, make_room

GB = 10**9


def resident(number: int, size: int = 2, **options: Any) -> Resident:
    """One that was loaded long ago, in a second, and is idle."""
    settings: dict[str, Any] = {"since": 0.0, "used": 0.0, "load": 1.0, "busy": False, **options}
    return Resident(number=number, use={"host": size * GB}, **settings)


def test_the_least_recently_used_idle_one_goes_first() -> None:
    verdict = make_room({"host": GB}, [resident(1, used=50), resident(2, used=40), resident(3, used=60)], now=100)
    assert verdict.evict == [2]


def test_a_busy_one_is_not_unloaded_but_drained_when_its_turn_is_over() -> None:
    busy = resident(1, busy=True, since=98)
    early = make_room({"host": GB}, [busy], now=100)
    assert (early.evict, early.drain, early.again) == ([], [], 102)
    late = make_room({"host": GB}, [busy], now=102)
    assert (late.evict, late.drain, late.again) == ([], [1], None)


def test_an_idle_one_goes_before_a_busy_one() -> None:
    verdict = make_room({"host": GB}, [resident(1, busy=True), resident(2, used=99)], now=100)
    assert (verdict.evict, verdict.drain) == ([2], [])


def test_no_more_go_than_have_to() -> None:
    residents = [resident(1, 1, used=10), resident(2, 1, used=20), resident(3, 4, used=30)]
    assert make_room({"host": 3 * GB}, residents, now=100).evict == [3]


def test_who_was_just_loaded_may_wait_a_moment_for_more_requests() -> None:
    fresh = resident(1, since=99.9, used=99.9)
    verdict = make_room({"host": GB}, [fresh], now=100)
    assert verdict.evict == []
    assert verdict.again is not None
    assert 100 < verdict.again < 101, "an eighth of its turn, not all of it"
    assert make_room({"host": GB}, [fresh], now=verdict.again).evict == [1]


def test_what_is_kept_stays_and_nobody_goes_for_nothing() -> None:
    verdict = make_room({"host": 3 * GB}, [resident(1, kept=True), resident(2)], now=100)
    assert verdict.blocked
    assert verdict.evict == []


def test_devices_are_told_apart() -> None:
    on_gpu = Resident(number=1, use={"cuda:0": GB}, since=0, used=0, load=1, busy=False)
    assert make_room({"cuda:0": GB}, [resident(2), on_gpu], now=100).evict == [1]
    assert make_room({"cuda:1": GB}, [resident(2), on_gpu], now=100).blocked


RESIDENTS = st.lists(
    st.builds(
        lambda size, since, used, busy, kept: {"size": size, "since": since, "used": used, "busy": busy, "kept": kept},
        st.integers(1, 8),
        st.floats(0, 100),
        st.floats(0, 100),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
)


@given(RESIDENTS, st.integers(1, 20))
def test_room_is_made_whenever_it_can_be(drawn: list[dict[str, Any]], short: int) -> None:
    residents = [resident(number, **options) for number, options in enumerate(drawn)]
    verdict = make_room({"host": short * GB}, residents, now=100)
    able = [r for r in residents if not r.kept]
    assert verdict.blocked == (sum(r.use["host"] for r in able) < short * GB)
    gone = [r for r in residents if r.number in verdict.evict]
    assert not any(r.busy or r.kept for r in gone)
    assert all(r.busy and not r.kept for r in residents if r.number in verdict.drain)
    if not verdict.blocked:
        assert verdict.evict or verdict.drain or verdict.again is not None, "otherwise nobody would look again"
