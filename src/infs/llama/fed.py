"""Asynchronous generators that are run by hand, an item at a time, on whichever thread has the item."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_END: Any = object()


class _Next(Generic[In]):
    """Awaited for the next item."""

    def __await__(self) -> Generator[None, In, In]:
        item = yield
        return item


class Fed(Generic[In, Out]):
    """What an asynchronous generator makes of items that are fed to it: no event loop, no thread, no waiting.

    It must wait for nothing but its items. Used by one thread at a time.

    Args:
        make: makes the generator, of the iterator that it reads its items from.
    """

    def __init__(self, make: Callable[[AsyncGenerator[In]], AsyncGenerator[Out]]) -> None:
        with _on_its_own():
            self._made = make(_items())
            self._step = self._made.__anext__()
            first = self._go(partial(self._step.send, None))
        self._first = first

    def feed(self, item: In) -> list[Out]:
        """What comes of `item`; raises what the generator raises."""
        before, self._first = self._first, []
        return before + self._go(partial(self._step.send, item))

    def end(self) -> list[Out]:
        """What comes when there are no more items."""
        return self.feed(_END)

    def _go(self, resume: Callable[[], Any]) -> list[Out]:
        """Run until the next item is wanted, or to the end."""
        found: list[Out] = []
        while True:
            try:
                resume()
                return found
            except StopIteration as made:
                found.append(made.value)
            except StopAsyncIteration:
                return found
            self._step = self._made.__anext__()
            resume = partial(self._step.send, None)


async def _items() -> AsyncGenerator[Any]:
    while (item := await _Next[Any]()) is not _END:
        yield item


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Generators that are begun here are not those of an event loop that happens to run in this thread.

    One that is dropped before its end is just forgotten: closing it would be wrong, since it waits for another one.
    """
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, lambda generator: None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*before)
