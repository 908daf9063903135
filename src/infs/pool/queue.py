"""Who waits for a place in a model's instances, in the order in which they get one.

The order is that of the scheduler inside an instance: by priority, then in equal shares for all clients, then by
arrival. What a request takes is not known here, where there is no tokenizer, so its size stands in for that.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from infs.batching.order import Order, Turn, expected
from infs.errors import InfsError
from infs.pool.instance import Instance
from infs.types import GENERATION_OPTIONS, UNSET, GenerationRequest, Progress, Request

BYTES = 4  # of text that make a token, about
MEDIA = 512.0  # tokens of an image or a piece of audio, about
PRIORITIES = 2001  # that there are
SETTINGS = frozenset((*Request.__struct_fields__, *GENERATION_OPTIONS))  # fields that nothing is read of


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits for a place.

    Attributes:
        cost: tokens that it takes, about.
        nested: it is made on behalf of a request that has a place.
        again: its request had a place, whose worker died.
        alone: it wants to share an instance with nobody.
        turn: its place in the order; the queue sets it.
    """

    priority: int
    client: str
    cost: float
    chain: list[bytes]
    future: asyncio.Future[Instance]
    progress: Callable[[Progress], None]
    nested: bool = False
    again: bool = False
    alone: bool = False
    turn: Turn = (0, 0.0, 0)

    @property
    def rank(self) -> int:
        """Its priority, below all others if it is nested or had a place before."""
        return self.priority - PRIORITIES * (self.nested or self.again)

    def refuse(self, error: InfsError) -> None:
        """It gets no place, unless it was cancelled and waits for none any more."""
        if not self.future.done():
            self.future.set_exception(error)


class Queue:
    """The waiters of one model, the next one first."""

    def __init__(self) -> None:
        self._order = Order()
        self._waiting: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiting)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiting

    @property
    def first(self) -> Waiter:
        """The one whose turn it is; there must be one."""
        return self._waiting[0]

    @property
    def last(self) -> Waiter:
        """The one that all others go before; there must be one."""
        return self._waiting[-1]

    def add(self, waiter: Waiter) -> None:
        """Give `waiter` its turn, behind those with the same one."""
        waiter.turn = self._order.join(waiter.rank, waiter.client, waiter.cost)
        bisect.insort(self._waiting, waiter, key=_turn)

    def take(self) -> Waiter:
        """The first one, who is served now."""
        waiter = self._waiting.pop(0)
        self._order.served(waiter.turn)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """`waiter` is not served: what its client asked for later comes earlier by what it would have taken."""
        self._waiting.remove(waiter)
        self._order.leave(waiter.client, waiter.cost)
        later = [w for w in self._waiting if w.client == waiter.client and w.turn[2] > waiter.turn[2]]
        for other in later:
            other.turn = self._order.closer(other.turn, waiter.cost)
        if later:
            self._waiting.sort(key=_turn)

    def clear(self) -> list[Waiter]:
        """Remove all, who are not served, and tell who they were."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            self._order.leave(waiter.client, waiter.cost)
        return waiting


def cost_of(request: Request[Any]) -> float:
    """Tokens that `request`, of any task, takes: about those that are read, and those that may be written."""
    read = max(1.0, sum(_size(getattr(request, name)) for name in request.__struct_fields__ if name not in SETTINGS))
    if not isinstance(request, GenerationRequest):
        return read
    candidates = max(count for count in (1, request.n, request.best_of) if count is not UNSET)
    return read + candidates * expected(None if request.max_tokens is UNSET else request.max_tokens)


def _size(value: Any) -> float:
    """About how many tokens the texts, tokens and media in `value` are."""
    size, left = 0.0, [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            size += len(one.encode(errors="surrogatepass")) / BYTES
        elif isinstance(one, bytes):
            size += MEDIA
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            if one and isinstance(one[0], int):
                size += len(one)
            else:
                left += one
        elif isinstance(one, msgspec.Struct):
            left += [getattr(one, name) for name in one.__struct_fields__]
    return size


def _turn(waiter: Waiter) -> Turn:
    return waiter.turn
