"""Tokens that belong together are not cut in two."""

from __future__ import annotations

import random

import pytest

from infs.batching.blocks import block_end, whole

TOKENS = [5, 6, -10, -11, -12, 7, -40, -41, -90, -91, 8]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 6), (7, 6), (8, 8), (9, 8), (10, 10), (11, 11), (12, 12)],
)
def test_a_cut_is_before_a_block_or_behind_it(count: int, expected: int) -> None:
    assert whole(TOKENS, count) == expected


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 5), (5, 6), (6, 8), (8, 10), (10, 11)])
def test_blocks_end(start: int, end: int) -> None:
    assert block_end(TOKENS, start) == end


def test_blocks_make_up_all_tokens() -> None:
    draw = random.Random(1)
    for _ in range(50):
        tokens: list[int] = []
        for _ in range(draw.randrange(8)):
            first = draw.randrange(10**9)
            tokens += [-1 - first - cell for cell in range(draw.randrange(1, 5))] if draw.random() < 0.5 else [first]
        ends, at = [0], 0
        while at < len(tokens):
            at = block_end(tokens, at)
            ends.append(at)
        assert ends[-1] == len(tokens)
        for count in range(len(tokens) + 1):
            assert whole(tokens, count) == max(end for end in ends if end <= count)
