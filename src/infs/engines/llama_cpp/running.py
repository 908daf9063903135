"""Generations on an event loop: the pieces of a request as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from infs.batching.base import Counts
from infs.batching.sequence import Sequence
from infs.engines.llama_cpp.generation import Deliver, Generator, Posted, Prompt
from infs.engines.llama_cpp.output import Piece

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import MediaChunk


class Inbox:
    """The news of one request, from the loop's thread to the event loop."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()
        self._events, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def put(self, piece: Piece) -> None:
        """Called on the event loop, which is cheaper, or on any other thread."""
        self._pieces.append(piece)
        if threading.get_ident() == self._thread:
            self._news.set()
        else:
            self._events.call_soon_threadsafe(self._news.set)

    async def get(self) -> Piece:
        """The next piece."""
        while not self._pieces:
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()


def waker() -> Callable[[Posted], None]:
    """What a `Generator` used on the running event loop is given to wake it: once a step, with all that it brought."""
    events = asyncio.get_running_loop()
    return lambda posted: _wake(events, posted)


def _wake(events: asyncio.AbstractEventLoop, posted: Posted) -> None:
    events.call_soon_threadsafe(_deliver, posted)


def _deliver(posted: Posted) -> None:
    for deliver, piece in posted:
        deliver(piece)


def run(
    generator: Generator, prompt: Prompt, wants_more: Callable[[int], bool] = lambda index: True
) -> AsyncGenerator[Piece]:
    """The pieces of all candidates of `prompt`; see `run_all`."""
    return run_all(generator, lambda deliver: generator.sequences(prompt, deliver), wants_more)


async def run_all(
    generator: Generator,
    make: Callable[[Deliver], list[Sequence]],
    wants_more: Callable[[int], bool] = lambda index: True,
) -> AsyncGenerator[Piece]:
    """The pieces of all candidates as they come, each with a last one; closing the iterator cancels them.

    Args:
        make: makes the candidates' sequences, whose pieces are numbered as they are; on a thread of its own.
        wants_more: asked after each piece of a candidate; the one that gets no for an answer is ended.

    Raises:
        ContextLengthExceeded: the prompt does not fit, and may not be shifted.
        InvalidRequest: a setting names something that the model does not have.
    """
    inbox = Inbox()
    sequences = await asyncio.to_thread(make, inbox.put)
    open_ones = set(range(len(sequences)))
    for sequence in sequences:
        generator.loop.submit(sequence)
    try:
        while open_ones:
            piece = await inbox.get()
            if piece.reason is not None or piece.error is not None:
                open_ones.discard(piece.index)
            if piece.error is not None:
                raise piece.error
            yield piece
            if piece.index in open_ones and not wants_more(piece.index):
                generator.loop.stop(sequences[piece.index])
    finally:
        for index in open_ones:
            generator.loop.cancel(sequences[index])


async def pin(generator: Generator, tokens: list[int], media: tuple[MediaChunk, ...] = ()) -> Counts:
    """Compute `tokens` and keep them in the cache for good.

    Raises:
        ContextLengthExceeded: they do not fit into the context.
    """
    inbox = Inbox()
    generator.loop.submit(await asyncio.to_thread(generator.pinned, tokens, inbox.put, media))
    while True:
        piece = await inbox.get()
        if piece.error is not None:
            raise piece.error
        if piece.counts is not None:
            return piece.counts
