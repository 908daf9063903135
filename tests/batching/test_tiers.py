"""The tiers of the context cache, against a list of what was put and a search through all of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infs.batching.tiers import Block, BlockId, DiskCache, Piece, Tiers
from infs.batching.tiers.blocks import Tokens, encode, space_id
from infs.batching.tiers.host import HostCache
from infs.batching.tiers.index import Index, Match, cheapest
from infs.batching.tiers.writer import Writer

SPACES = st.sampled_from(["a", "b"])
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=14)
LARGE = 1 << 30


def content(space: str, tokens: Sequence[int], start: int, whole: bool, nonce: int = 0, pad: int = 0) -> bytes:
    """Data that say what they are the data of."""
    return json.dumps([space, list(tokens), start, whole, nonce, "x" * pad]).encode()


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common, one by one."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def reach(stored: Sequence[Sequence[Any]], space: str, wanted: Sequence[int], start: int, limit: int) -> int:
    """Up to where `wanted` is covered by (space, tokens, start, whole), by trying all of them until none helps."""
    best, end = start, min(limit, len(wanted))
    helped = True
    while helped:
        helped = False
        for its_space, tokens, first, whole in stored:
            common = min(shared(tokens, wanted), end)
            if its_space == space and not whole and first <= best < common:
                best, helped = common, True
    wholes = [
        len(tokens)
        for its_space, tokens, _, whole in stored
        if whole and its_space == space and len(tokens) <= end and list(tokens) == list(wanted[: len(tokens)])
    ]
    return max([best, *wholes])


def check(
    pieces: Sequence[Piece], tiers: Tiers, space: str, wanted: Sequence[int], start: int, *, limited: bool = True
) -> None:
    """The pieces follow each other, and their data are those of the tokens that they stand for.

    Where there is little room (`limited`), one may have gone before its turn.
    """
    at = start
    for piece in pieces:
        assert piece.start == at < piece.end <= piece.first + piece.length
        assert piece.first <= piece.start
        at = piece.end
        data = tiers.get(piece)
        if data is None:
            assert limited
            continue
        its_space, tokens, first, whole, _, _ = json.loads(data)
        assert (its_space, first, len(tokens) - first, whole) == (space, piece.first, piece.length, piece.whole)
        assert tokens[: piece.end] == list(wanted[: piece.end])
        assert not piece.whole or (len(pieces) == 1 and piece.end == len(tokens))


class TiersMachine(RuleBasedStateMachine):
    """Puts, lookups, restarts and another instance on the same folder."""

    @initialize(host=st.sampled_from([0, 250, LARGE]), disk=st.sampled_from([None, 900, LARGE]))
    def begin(self, host: int, disk: int | None) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.host, self.disk = host, disk
        self.put_data: dict[tuple[str, tuple[int, ...], int, bool], set[bytes]] = {}
        self.nonce = 0
        self.tiers = self.open()
        self.other = self.open()

    def open(self) -> Tiers:
        disk = DiskCache(self.folder / "cache", self.disk, floor=0) if self.disk else None
        return Tiers(host_bytes=self.host, disk=disk)

    def teardown(self) -> None:
        if hasattr(self, "tiers"):
            self.tiers.close()
            self.other.close()
            shutil.rmtree(self.folder)

    def store(self, tiers: Tiers, space: str, tokens: list[int], start: int, whole: bool, pad: int) -> None:
        self.nonce += 1
        data = content(space, tokens, start, whole, self.nonce, pad)
        self.put_data.setdefault((space, tuple(tokens), start, whole), set()).add(data)
        tiers.put(space, tokens, start, data, whole=whole)
        assert tiers.flush(60)

    @rule(space=SPACES, tokens=TOKENS, at=st.floats(0, 0.99), pad=st.integers(0, 150))
    def put(self, space: str, tokens: list[int], at: float, pad: int) -> None:
        self.store(self.tiers, space, tokens, int(at * len(tokens)), False, pad)

    @rule(space=SPACES, tokens=TOKENS, pad=st.integers(0, 150))
    def put_whole(self, space: str, tokens: list[int], pad: int) -> None:
        self.store(self.tiers, space, tokens, 0, True, pad)

    @precondition(lambda self: self.disk)
    @rule(space=SPACES, tokens=TOKENS, at=st.floats(0, 0.99), whole=st.booleans())
    def put_elsewhere(self, space: str, tokens: list[int], at: float, whole: bool) -> None:
        self.store(self.other, space, tokens, 0 if whole else int(at * len(tokens)), whole, 0)

    @rule(space=SPACES, tokens=TOKENS, at=st.floats(0, 1), cut=st.integers(0, 4))
    def find(self, space: str, tokens: list[int], at: float, cut: int) -> None:
        start, limit = int(at * len(tokens)), len(tokens) - cut + 1
        self.tiers.refresh(space)
        stored = self.stored()
        pieces = self.tiers.find(space, tokens, start, limit)
        end = pieces[-1].end if pieces else start
        assert end == max(start, reach(stored, space, tokens, start, limit))
        assert self.tiers.covered(space, tokens, start) == reach(stored, space, tokens, start, len(tokens))
        check(pieces, self.tiers, space, tokens, start, limited=LARGE not in (self.host, self.disk))

    @rule(space=SPACES, tokens=TOKENS)
    def prefetch(self, space: str, tokens: list[int]) -> None:
        self.tiers.prefetch(space, tokens, 0, len(tokens))
        pieces = self.tiers.find(space, tokens, 0, len(tokens))
        if sum(piece.bytes for piece in pieces) <= self.host:
            assert all(piece.tier == "host" for piece in pieces)

    @rule()
    def restart(self) -> None:
        self.tiers.close()
        self.tiers = self.open()

    def stored(self) -> list[tuple[str, tuple[int, ...], int, bool]]:
        """What must be found: all that was put where there is room for it, else what is really there."""
        if self.disk == LARGE:
            return list(self.put_data)
        there = {id for index in self.tiers._spaces.values() for id in index.blocks}
        return [put for put in self.put_data if self.id(*put) in there]

    @staticmethod
    def id(space: str, tokens: tuple[int, ...], start: int, whole: bool) -> BlockId:
        return Tokens(space_id(space), encode(tokens)).block(start, 0, whole=whole).id

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "tiers"):
            return
        assert self.tiers.flush(60)
        held = self.tiers._host._held
        assert self.tiers.counts()["host"].bytes == sum(len(data) for _, data in held.values()) <= self.host
        assert {id for index in self.tiers._spaces.values() for id in index.blocks} == set(held) | self.tiers._filed
        assert all(index.blocks for index in self.tiers._spaces.values())
        if self.disk:
            assert sum(path.stat().st_size for path in self.folder.rglob("*.*")) <= self.disk
            assert not list(self.folder.rglob("*.tmp"))
            assert self.tiers.counts()["disk"].errors == self.tiers.counts()["disk"].corrupt == 0


TestTiers = TiersMachine.TestCase
TestTiers.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


# --- lookups


@given(
    blocks=st.lists(st.tuples(TOKENS, st.floats(0, 0.99), st.booleans()), max_size=40),
    wanted=TOKENS,
    at=st.floats(0, 1),
    removed=st.lists(st.integers(0, 39), max_size=20),
)
def test_an_index_finds_as_much_as_a_search_through_everything(
    blocks: list[tuple[list[int], float, bool]], wanted: list[int], at: float, removed: list[int]
) -> None:
    space, start = space_id("s"), int(at * len(wanted))
    index, stored = Index(), {}
    for tokens, share, whole in blocks:
        first = 0 if whole else int(share * len(tokens))
        block = Tokens(space, encode(tokens)).block(first, len(tokens), whole=whole)
        index.add(block)
        stored[block.id] = ("s", tokens, first, whole)
    for i in removed:
        if i < len(stored):
            id = list(stored)[i]
            index.remove(id)
            index.remove(id)
            del stored[id]
    query = Tokens(space, encode(wanted))
    found, end = index.matches(query, start)
    cuttable = [put for put in stored.values() if not put[3]]
    assert end == max(start, reach(cuttable, "s", wanted, start, len(wanted)))
    whole_block = index.whole(query, start)
    wholes = [put for put in stored.values() if put[3]]
    longest = max([len(put[1]) for put in wholes if put[1] == wanted[: len(put[1])] and len(put[1]) > start], default=0)
    assert (whole_block.end if whole_block else 0) == longest
    assert set(index.blocks) == set(stored)
    chain = cheapest(found, start, end, lambda block: block.bytes)
    check_chain(chain, start, end)
    assert sum(match.block.bytes for match in chain) == dearest_needed(found, start, end)
    if not stored:
        assert not index._places
        assert not index._wholes
        assert not index._starts
        assert not index._lengths


def check_chain(chain: list[Match], start: int, end: int) -> None:
    at = start
    for block, upto in chain:
        assert block.start <= at < upto
        at = upto
    assert at == end


def dearest_needed(found: list[Match], start: int, end: int) -> float:
    """The least bytes that cover ``[start, end)``, by the shortest path over positions."""
    costs = {start: 0.0}
    for at in range(start, end):
        for block, upto in found:
            if block.start <= at < upto and at in costs:
                for to in range(at + 1, upto + 1):
                    costs[to] = min(costs.get(to, float("inf")), costs[at] + block.bytes)
    return costs[end]


def test_overlapping_blocks_of_two_conversations_chain() -> None:
    tiers = Tiers(host_bytes=LARGE)
    system = list(range(600))
    first, second = [*system, *range(1000, 1100)], [*system, *range(1000, 1050), *range(2000, 2250)]
    tiers.put("s", first, 0, b"1" * 700)
    tiers.put("s", second, 600, b"2" * 300)
    wanted = [*second, 7, 8, 9]
    pieces = tiers.find("s", wanted, 0, len(wanted))
    assert [(p.start, p.end, p.first, p.length) for p in pieces] == [(0, 650, 0, 700), (650, 900, 600, 300)]
    assert [tiers.get(p) for p in pieces] == [b"1" * 700, b"2" * 300]
    inside = tiers.find("s", wanted, 640, len(wanted))
    assert [(p.start, p.end, p.first) for p in inside] == [(640, 900, 600)]
    assert tiers.find("s", wanted, 0, 620)[-1].end == 620
    assert tiers.covered("s", first, 100) == 700
    assert tiers.find("other", wanted, 0, len(wanted)) == []
    for limit in (0, -1, -5):
        assert tiers.find("s", wanted, 0, limit) == []


def test_a_short_chain_is_preferred_to_a_large_block_of_somebody_else() -> None:
    tiers = Tiers(host_bytes=LARGE)
    tokens = list(range(200))
    tiers.put("s", tokens[:100], 0, bytes(100_000))
    tiers.put("s", tokens, 100, bytes(100_000))
    tiers.put("s", [*tokens[:150], *range(900, 1450)], 0, bytes(700_000))
    assert [p.bytes for p in tiers.find("s", tokens, 0, 200)] == [100_000, 100_000]


def test_a_whole_block_and_one_that_can_be_cut_have_the_same_tokens(tmp_path: Path) -> None:
    tiers = Tiers(host_bytes=0, disk=DiskCache(tmp_path, LARGE, floor=0))
    tiers.put("s", [1, 2], 0, b"whole", whole=True)
    tiers.put("s", [1, 2], 0, b"cuttable")
    assert tiers.flush(60)
    (cut,) = tiers.find("s", [1, 3], 0, 2)
    assert tiers.get(cut) == b"cuttable"
    tiers.put("s", [1, 2, 3], 0, b"longer", whole=True)
    assert tiers.flush(60)
    (whole,) = tiers.find("s", [1, 2, 3], 0, 3)
    assert tiers.get(whole) == b"longer"
    assert tiers.counts()["disk"].entries == 3
    tiers.close()


def test_a_whole_block_is_all_or_nothing() -> None:
    tiers = Tiers(host_bytes=LARGE)
    for length in (3, 5, 9):
        tiers.put("s", list(range(length)), 0, b"%d" % length, whole=True)
    wanted = [0, 1, 2, 3, 4, 5, 6]
    (piece,) = tiers.find("s", wanted, 0, len(wanted))
    assert (piece.start, piece.end, piece.first, piece.length, piece.whole) == (0, 5, 0, 5, True)
    assert tiers.get(piece) == b"5"
    (piece,) = tiers.find("s", wanted, 2, 4)
    assert (piece.start, piece.end) == (2, 3)
    assert tiers.find("s", wanted, 5, 7) == []
    assert tiers.covered("s", wanted, 0) == 5


@pytest.mark.parametrize(
    ("tokens", "start", "whole"), [([], 0, False), ([1], 1, False), ([1], -1, False), ([1, 2], 1, True)]
)
def test_blocks_without_tokens_and_whole_ones_from_the_middle_are_refused(
    tokens: list[int], start: int, whole: bool
) -> None:
    with pytest.raises(ValueError, match="block must"):
        Tiers(host_bytes=100).put("s", tokens, start, b"x", whole=whole)


def test_tokens_of_more_than_64_bits_are_refused() -> None:
    with pytest.raises(OverflowError):
        Tiers(host_bytes=100).put("s", [1 << 63], 0, b"x")


def test_a_name_of_a_space_may_be_anything_and_addresses_do_not_depend_on_the_order_of_asking() -> None:
    assert len({space_id(name) for name in ("", "a", "ä", "\udc80", "a" * 10_000)}) == 5
    data = encode(range(50))
    forth, back = Tokens(space_id("s"), data), Tokens(space_id("s"), data)
    asked = [forth.address(i) for i in range(51)]
    assert [back.address(i) for i in range(50, -1, -1)] == asked[::-1]
    assert len(set(asked)) == 51


# --- host memory


def test_the_end_of_a_chain_goes_before_its_beginning() -> None:
    tiers = Tiers(host_bytes=40)
    tokens = list(range(40))
    for start in (0, 10, 20, 30):
        tiers.put("s", tokens[: start + 10], start, bytes(10))
    tiers.find("s", tokens, 0, 40)
    tiers.put("t", [1], 0, bytes(15))
    assert tiers.covered("s", tokens, 0) == 20
    counts = tiers.counts()["host"]
    assert (counts.entries, counts.bytes, counts.evicted, counts.stored) == (3, 35, 2, 5)


def test_what_is_larger_than_all_room_is_not_kept() -> None:
    tiers = Tiers(host_bytes=10)
    tiers.put("s", [1], 0, bytes(10))
    tiers.put("s", [2], 0, bytes(11))
    assert tiers.covered("s", [1], 0) == 1
    assert tiers.covered("s", [2], 0) == 0
    assert tiers.counts()["host"].dropped == 1
    cache, block = HostCache(10), Tokens(space_id("s"), encode([1])).block(0, 5)
    assert cache.add(block, bytes(5)) == []
    assert cache.add(block, bytes(11)) == [block]
    assert block.id not in cache
    assert cache.bytes == 0
    cache.use(block.id)
    cache.remove(block.id)


def test_memory_that_is_wanted_elsewhere_is_given_back() -> None:
    tiers = Tiers(host_bytes=100)
    for number in range(5):
        tiers.put("s", [number], 0, bytes(10))
    tiers.shrink(25)
    counts = tiers.counts()["host"]
    assert (counts.entries, counts.bytes, counts.evicted) == (2, 20, 3)
    assert [tiers.covered("s", [number], 0) for number in range(5)] == [0, 0, 0, 1, 1], "the oldest went"
    tiers.put("s", [9], 0, bytes(10))
    assert tiers.counts()["host"].bytes == 20


def test_a_view_is_copied_and_bytes_are_not() -> None:
    tiers = Tiers(host_bytes=LARGE)
    view, kept = bytearray(b"view"), b"bytes"
    tiers.put("s", [1], 0, memoryview(view))
    tiers.put("s", [2], 0, kept)
    view[:] = b"gone"
    assert tiers.get(tiers.find("s", [1], 0, 1)[0]) == b"view"
    assert tiers.get(tiers.find("s", [2], 0, 1)[0]) is kept


def test_the_same_block_again_replaces_its_data() -> None:
    tiers = Tiers(host_bytes=LARGE)
    tiers.put("s", [1, 2], 0, b"old")
    tiers.put("s", [1, 2], 0, b"newer")
    (piece,) = tiers.find("s", [1, 2], 0, 2)
    assert piece.bytes == 5
    assert tiers.get(piece) == b"newer"
    assert tiers.counts()["host"].bytes == 5


def test_counts_tell_hits_misses_and_restored_tokens(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, LARGE, floor=0)
    tiers = Tiers(host_bytes=10, disk=disk)
    tiers.put("s", [1, 2, 3], 0, bytes(10))
    assert tiers.flush(60)
    (piece,) = tiers.find("s", [1, 2, 9], 0, 3)
    assert tiers.get(piece) == bytes(10)
    tiers.put("s", [7], 0, bytes(9))
    (later,) = tiers.find("s", [1, 2, 9], 0, 3)
    assert (piece.tier, later.tier) == ("host", "disk")
    assert tiers.get(later) == bytes(10)
    assert tiers.flush(60)
    host, below = tiers.counts()["host"], tiers.counts()["disk"]
    assert (host.hits, host.misses, host.restored, host.evicted) == (1, 1, 2, 2)
    assert (below.hits, below.misses, below.restored, below.stored) == (1, 0, 2, 2)
    tiers.close()


# --- the thread that writes


def block(number: int, start: int = 0) -> Block:
    return Tokens(space_id("s"), encode([*range(start), number])).block(start, 10)


def test_the_oldest_waiting_is_dropped_and_nobody_waits_for_the_disk() -> None:
    go, written = threading.Event(), list[BlockId]()

    def write(what: Block, _data: object, _last: bool) -> None:
        assert go.wait(60)
        written.append(what.id)

    writer = Writer(write, lambda id: None, 30)
    blocks = [block(i) for i in range(10)]
    writer.add(blocks[0], bytes(10))
    while writer._waiting:  # until it is being written
        pass
    dropped = [writer.add(what, bytes(10)) for what in blocks[1:]]
    assert dropped == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert writer.add(blocks[9], bytes(10)) == 0
    assert not writer.flush(0.01)
    go.set()
    assert writer.flush(60)
    assert written == [what.id for what in (blocks[0], *blocks[7:])]
    writer.close()
    writer.close()
    assert writer.add(blocks[0], bytes(10)) == 1


def test_while_it_is_held_only_what_would_be_lost_is_written() -> None:
    written = list[BlockId]()
    writer = Writer(lambda what, data, last: written.append(what.id), lambda id: None, 40)
    writer.hold(True)
    blocks = [block(i) for i in range(6)]
    for what in blocks[:4]:
        writer.add(what, bytes(10))
    while writer._bytes > 20 or writer._busy:
        pass
    assert written == [what.id for what in blocks[:2]]
    writer.hold(False)
    assert writer.flush(60)
    assert written == [what.id for what in blocks[:4]]
    writer.hold(True)
    writer.add(blocks[4], bytes(10))
    assert writer.flush(60), "whoever waits for the disk ends the hold"
    assert written == [what.id for what in blocks[:5]]
    writer.hold(True)
    writer.add(blocks[5], bytes(10))
    writer.close()
    assert len(written) == 5


def test_one_that_is_larger_than_may_wait_waits_alone() -> None:
    written = list[BlockId]()
    writer = Writer(lambda what, data, last: written.append(what.id), lambda id: None, 5)
    writer.add(block(1), bytes(10))
    assert writer.flush(60)
    assert written == [block(1).id]
    writer.close()


def test_a_failure_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    written = list[BlockId]()

    def write(what: Block, _data: object, _last: bool) -> None:
        if what.start == 1:
            raise RuntimeError("broken")
        written.append(what.id)

    writer = Writer(write, lambda id: None, 100)
    for start in range(3):
        writer.add(block(5, start), bytes(1))
    assert writer.flush(60)
    assert written == [block(5, 0).id, block(5, 2).id]
    assert "was not written" in caplog.text
    writer.close()


def test_beginnings_are_marked_as_used_after_ends() -> None:
    go, used = threading.Event(), list[BlockId]()
    writer = Writer(lambda what, data, last: [go.wait(60)].clear(), used.append, 100)
    writer.add(block(5), bytes(1))
    while writer._waiting:
        pass
    for start in (1, 3, 2):
        writer.used(block(5, start).id, start)
    go.set()
    assert writer.flush(60)
    assert used == [block(5, start).id for start in (3, 2, 1)]
    writer.close()
    writer.used(block(5).id, 0)
    assert writer.flush(0)


# --- threads


def test_several_that_want_the_same_blocks_read_them_once(tmp_path: Path) -> None:
    first = Tiers(host_bytes=0, disk=DiskCache(tmp_path, LARGE, floor=0))
    tokens = list(range(200))
    for start in range(200):
        first.put("s", tokens[: start + 1], start, bytes(1000))
    assert first.flush(60)
    tiers = Tiers(host_bytes=LARGE, disk=DiskCache(tmp_path, LARGE, floor=0))
    together = threading.Barrier(8)

    def fetch() -> None:
        together.wait(60)
        tiers.prefetch("s", tokens, 0, 200)
        assert [piece.tier for piece in tiers.find("s", tokens, 0, 200)] == ["host"] * 200

    run_all([fetch] * 8)
    assert tiers.counts()["disk"].hits == 200
    first.close()
    tiers.close()


def test_what_two_instances_write_is_within_the_limit_when_both_are_done(tmp_path: Path) -> None:
    both = [Tiers(host_bytes=0, disk=DiskCache(tmp_path, 50_000, floor=0)) for _ in range(2)]
    for tiers in both:
        tiers.refresh("s")
    size = 0
    while size < 48_500:
        both[0].put("s", [size], 0, bytes(800))
        assert both[0].flush(60)
        size = both[0].counts()["disk"].bytes
    both[1].put("s", [7, 7], 0, bytes(2000))  # within the limit, as far as the second one knows
    assert both[1].flush(60)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.kv")) <= 50_000
    assert both[1].covered("s", [7, 7], 0) == 2
    for tiers in both:
        tiers.close()


def test_threads_that_store_and_look_up_get_what_was_put(tmp_path: Path) -> None:
    tiers = Tiers(host_bytes=3000, disk=DiskCache(tmp_path, 30_000, floor=0), pending_bytes=2000)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(150):
            space, tokens = random.choice("ab"), [random.randrange(2) for _ in range(random.randint(1, 12))]
            start = random.randrange(len(tokens))
            tiers.put(space, tokens, start, content(space, tokens, start, False, seed, random.randrange(200)))
            if random.random() < 0.1:
                tiers.prefetch(space, tokens, 0, len(tokens))
            check(tiers.find(space, tokens, 0, len(tokens)), tiers, space, tokens, 0)

    run_all([lambda seed=seed: work(seed) for seed in range(4)])
    assert tiers.flush(60)
    counts = tiers.counts()
    assert counts["host"].bytes <= 3000
    assert counts["disk"].bytes <= 30_000
    assert counts["disk"].errors == counts["disk"].corrupt == 0
    held = set(tiers._host._held) | tiers._filed
    assert {id for index in tiers._spaces.values() for id in index.blocks} == held
    tiers.close()


def run_all(jobs: Sequence[Any]) -> None:
    """Run each job on a thread of its own; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(job: Any) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failures:
        raise failures[0]
