"""Asynchronous generators that are fed by hand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from infs.llama.fed import Fed


async def sums(numbers: AsyncGenerator[int]) -> AsyncGenerator[int | str]:
    """What every number makes of the sum, if that is even; the last event tells the end."""
    total = 0
    async with aclosing(numbers):
        async for number in numbers:
            total += number
            if number < 0:
                raise ValueError("negative")
            if total % 2 == 0:
                yield total
                yield -total
    yield "end"


def test_items_in_events_out() -> None:
    fed: Fed[int, int | str] = Fed(sums)
    assert [fed.feed(number) for number in (1, 1, 2, 1)] == [[], [2, -2], [4, -4], []]
    assert fed.end() == ["end"]


def test_what_comes_before_the_first_item_comes_with_it() -> None:
    async def eager(items: AsyncGenerator[int]) -> AsyncGenerator[int]:
        yield 0
        async for item in items:
            yield item

    fed: Fed[int, int] = Fed(eager)
    assert fed.feed(5) == [0, 5]
    assert fed.end() == []


def test_an_error_comes_out() -> None:
    fed: Fed[int, int | str] = Fed(sums)
    with pytest.raises(ValueError, match="negative"):
        fed.feed(-1)


async def test_it_is_none_of_the_event_loops_generators() -> None:
    fed: Fed[int, int | str] = Fed(sums)
    assert fed.feed(2) == [2, -2]
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert fed.feed(2) == [4, -4]
    assert await asyncio.to_thread(fed.feed, 2) == [6, -6]
    del fed
    gc.collect()
