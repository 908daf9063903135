"""Which blocks there are in a space, and how they chain up to cover a wanted sequence. Pure: no data, no files."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import NamedTuple

from infs.batching.prefix import common_prefix
from infs.batching.tiers.blocks import TOKEN, Block, BlockId, Tokens

_NEAR = 4  # blocks looked at on either side: the nearest shares most, the next may do for fewer bytes
_run = attrgetter("run")


class Match(NamedTuple):
    """`block` begins like the wanted sequence, up to position `end` of it."""

    block: Block
    end: int


class _Place:
    """The blocks that begin at one position: by address, in the order of their tokens."""

    __slots__ = ("firsts", "longest", "runs")

    def __init__(self) -> None:
        self.runs: dict[bytes, list[Block]] = {}
        self.firsts: Counter[bytes] = Counter()
        self.longest = 0

    def add(self, block: Block) -> None:
        insort(self.runs.setdefault(block.address, []), block, key=_run)
        self.firsts[block.run[:TOKEN]] += 1
        self.longest = max(self.longest, block.length)

    def remove(self, block: Block) -> None:
        blocks = self.runs[block.address]
        del blocks[bisect_left(blocks, block.run, key=_run)]
        if not blocks:
            del self.runs[block.address]
        first = block.run[:TOKEN]
        self.firsts[first] -= 1
        if not self.firsts[first]:
            del self.firsts[first]
        if block.length == self.longest:
            self.longest = max((other.length for group in self.runs.values() for other in group), default=0)

    def near(self, address: bytes, wanted: bytes) -> Iterator[tuple[Block, int]]:
        """Blocks that share their beginning with `wanted`, and how many tokens; the one that shares most is there.

        In sorted order, what shares most with `wanted` stands next to where `wanted` would stand.
        """
        blocks = self.runs.get(address, [])
        at = bisect_left(blocks, wanted, key=_run)
        for side in (range(at - 1, max(-1, at - 1 - _NEAR), -1), range(at, min(len(blocks), at + _NEAR))):
            for i in side:
                shared = common_prefix(blocks[i].run, wanted) // TOKEN
                if not shared:
                    break
                yield blocks[i], shared


class Index:
    """The blocks of one space."""

    def __init__(self) -> None:
        self.blocks: dict[BlockId, Block] = {}
        self._places: dict[int, _Place] = {}
        self._starts: list[int] = []  # the keys of `_places` in order
        self._wholes: dict[int, dict[bytes, Block]] = {}  # by length, then by the address behind the last token
        self._lengths: list[int] = []  # the keys of `_wholes` in order

    def add(self, block: Block) -> None:
        """Add `block`; one with the same id, whose data were of another size, goes."""
        if self.blocks.get(block.id) == block:
            return
        self.remove(block.id)
        self.blocks[block.id] = block
        if block.whole:
            if block.length not in self._wholes:
                self._wholes[block.length] = {}
                insort(self._lengths, block.length)
            self._wholes[block.length][_behind(block)] = block
            return
        if block.start not in self._places:
            self._places[block.start] = _Place()
            insort(self._starts, block.start)
        self._places[block.start].add(block)

    def remove(self, id: BlockId) -> None:
        """Forget a block, if it is there."""
        block = self.blocks.pop(id, None)
        if block is None:
            return
        if block.whole:
            del self._wholes[block.length][_behind(block)]
            if not self._wholes[block.length]:
                del self._wholes[block.length]
                del self._lengths[bisect_left(self._lengths, block.length)]
            return
        place = self._places[block.start]
        place.remove(block)
        if not place.runs:
            del self._places[block.start]
            del self._starts[bisect_left(self._starts, block.start)]

    def matches(self, wanted: Tokens, start: int) -> tuple[list[Match], int]:
        """Blocks that hold some of the tokens from `start` on, and the position up to which they leave no gap."""
        found: list[Match] = []
        reach = start
        for at in self._starts:
            if at > reach or at >= len(wanted):
                break
            place = self._places[at]
            end = at + place.longest
            if end <= start or wanted.run(at, at + 1) not in place.firsts:
                continue  # most places end here, before anything is hashed
            for block, shared in place.near(wanted.address(at), wanted.run(at, end)):
                if at + shared > start:
                    found.append(Match(block, at + shared))
                    reach = max(reach, at + shared)
        return found, reach

    def whole(self, wanted: Tokens, start: int) -> Block | None:
        """The longest whole block beyond `start` whose tokens are all wanted."""
        best: Block | None = None
        for length in self._lengths[bisect_left(self._lengths, start + 1) :]:
            if length > len(wanted):
                break
            best = self._wholes[length].get(wanted.address(length), best)
        return best


def _behind(block: Block) -> bytes:
    """The address behind the last token of a whole block."""
    return Tokens(block.id.space, block.run).address(block.length)


def cheapest(found: list[Match], start: int, reach: int, cost: Callable[[Block], float]) -> list[Match]:
    """The chain of `found` that covers ``[start, reach)`` at the least cost in total; `Index.matches` made them all.

    Each block of the chain reaches further than the one before, which reaches at least to where it begins.
    """
    order = sorted(found, key=attrgetter("end"))
    chains: list[tuple[float, int]] = []  # for each of `order`, the cost of a chain that ends there, and the one before
    for i, match in enumerate(order):
        before = (0.0, -1) if match.block.start <= start else (float("inf"), -1)
        j = i - 1
        while before[0] and j >= 0 and order[j].end >= match.block.start:
            before = min(before, (chains[j][0], j))
            j -= 1
        chains.append((before[0] + cost(match.block), before[1]))
    last = min((i for i, match in enumerate(order) if match.end == reach), key=chains.__getitem__, default=-1)
    chain: list[Match] = []
    while last >= 0:
        chain.append(order[last])
        last = chains[last][1]
    return chain[::-1]
