"""Handles of requests that run: to be read by threads, by coroutines, by several at once, or by nobody."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from threading import Condition, RLock
from typing import Any, Generic

from infs.batching.loop import Loop
from infs.batching.sequence import Sequence as Running
from infs.engines.llama_cpp.answers import Answer, Task
from infs.engines.llama_cpp.output import Piece
from infs.errors import GenerationFailed, InfsError, InvalidRequest, RequestCancelled, RequestTimeout
from infs.llama.background import SLICE
from infs.llama.fed import Fed
from infs.types import Delta, Event, R, Result, Usage


class Handle(Generic[R]):
    """A request that runs, or waits for its turn. Made by `Llama.submit`; may be used by any thread and event loop.

    It keeps what happened, so that everybody who reads it hears everything from the beginning. As a context manager,
    sync or async, it cancels the request at the end of the block, if that still runs.

    Example:
        ```python
        handle = llm.submit("Once upon a time", max_tokens=20)
        for delta in handle:  # or `async for`
            print(delta.text, end="")
        print(handle.result().usage)  # or `await handle`
        ```
    """

    def __init__(
        self, task: Task, loop: Loop, timeout: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._answer = Answer(task)
        self._fed: Fed[Piece, Event] = Fed(self._answer.events)
        self._loop = loop
        self._clock = clock
        self._timeout = timeout
        self._deadline = None if timeout is None else clock() + timeout
        self._sequences: Sequence[Running] = ()
        self._open = set(range(task.prompt.candidates))
        self._pieces: deque[Piece] = deque()
        self._told: list[Event] = []
        self._error: InfsError | None = None
        self._reading = RLock()  # held while pieces become events
        self._changed = Condition()  # something came; never held while anything takes time
        self._waiters: set[asyncio.Future[None]] = set()

    # --- what users call

    def __iter__(self) -> Iterator[Delta]:
        """The deltas as they come; raises what ended the request, if it did not end well."""
        return (event for event in self.events() if isinstance(event, Delta))

    def __aiter__(self) -> AsyncGenerator[Delta]:
        """The same on an event loop."""
        return self._deltas()

    def events(self) -> Generator[Event]:
        """All events as they come: `Progress` of the prompt, `Delta`, and the result as the last one."""
        index, event = 0, None
        while not isinstance(event, Result):
            event = self._wait(index)
            index += 1
            yield event

    async def aevents(self) -> AsyncGenerator[Event]:
        """All events, on an event loop."""
        index, event = 0, None
        while not isinstance(event, Result):
            event = await self._await(index)
            index += 1
            yield event

    def result(self, timeout: float | None = None) -> R:
        """The result, once it is there.

        Args:
            timeout: seconds to wait at most; the request goes on when they are over.

        Raises:
            TimeoutError: it was not there in time.
            InfsError: what ended the request instead.
        """
        until = None if timeout is None else self._clock() + timeout
        index = 0
        while not isinstance(event := self._wait(index, until), Result):
            index = max(index + 1, len(self._told) - 1)
        return event  # type: ignore[return-value]

    def __await__(self) -> Generator[Any, Any, R]:
        return self._aresult().__await__()

    def cancel(self) -> bool:
        """End the request with `RequestCancelled`; false if it had ended already."""
        self._read()
        return self._fail(RequestCancelled("The request was cancelled."))

    def abandon(self) -> None:
        """Have the loop end the request soon. May be called by a finalizer: at any moment, with any lock held."""
        for sequence in self._sequences:
            self._loop.cancel(sequence)

    @property
    def done(self) -> bool:
        """Whether the request has ended, well or not."""
        self._read()
        return self._ended

    @property
    def usage(self) -> Usage | None:
        """The tokens that the request took; ``None`` until it has ended well."""
        self._read()
        last = self._told[-1] if self._told else None
        return getattr(last, "usage", None)

    def __enter__(self) -> Handle[R]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Handle[R]:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cancel()

    # --- from the loop

    def start(self, sequences: Sequence[Running]) -> None:
        """Submit the sequences, whose news come to `put`."""
        self._sequences = sequences
        for sequence in sequences:
            self._loop.submit(sequence)

    def put(self, piece: Piece) -> None:
        """Take news. Called on the thread that runs the loop, so it only leaves them for others."""
        with self._changed:
            self._pieces.append(piece)
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        for future in self._waiters:
            try:
                future.get_loop().call_soon_threadsafe(_set, future)
            except RuntimeError:  # its event loop was closed, and with it everybody who waits there
                continue

    # --- from pieces to events

    @property
    def _ended(self) -> bool:
        return self._error is not None or (bool(self._told) and isinstance(self._told[-1], Result))

    def _read(self) -> None:
        """Make events of all pieces that have come."""
        with self._reading:
            while self._pieces and not self._ended:
                self._take(self._pieces.popleft())
        if self._deadline is not None and not self._ended and self._clock() >= self._deadline:
            self._fail(RequestTimeout(f"The request took longer than its timeout of {self._timeout:g} seconds."))

    def _take(self, piece: Piece) -> None:
        if piece.reason is not None or piece.error is not None:
            self._open.discard(piece.index)
        try:
            if piece.error is not None:
                raise piece.error
            events = self._fed.feed(piece)
            if not self._open:
                events += self._fed.end()
        except Exception as error:
            self._end(GenerationFailed.of(error))
            return
        if piece.index in self._open and not self._answer.wants_more(piece.index):
            self._loop.stop(self._sequences[piece.index])
        with self._changed:
            self._told += events
            self._wake()

    def _fail(self, error: InfsError) -> bool:
        with self._reading:
            if self._ended:
                return False
            self._end(error)
            return True

    def _end(self, error: InfsError) -> None:
        """End in `error`, and cancel what still runs."""
        with self._changed:
            self._error = error
            self._wake()
        for index in self._open:
            if index < len(self._sequences):
                self._loop.cancel(self._sequences[index])

    # --- waiting

    def _look(self, index: int) -> Event | None:
        """Event number `index`; ``None`` if there is none yet."""
        self._read()
        if index < len(self._told):
            return self._told[index]
        if self._error is not None:
            raise self._error
        return None

    def _nothing(self, index: int) -> bool:
        return not self._pieces and len(self._told) <= index and self._error is None

    def _wait(self, index: int, until: float | None = None) -> Event:
        while (event := self._look(index)) is None:
            self._check_waiting()
            with self._changed:
                if self._nothing(index):
                    self._changed.wait(self._left(until))
            if until is not None and self._clock() >= until and self._nothing(index):
                raise TimeoutError("The result was not there in time; the request goes on.")
        return event

    def _check_waiting(self) -> None:
        if self._loop.mine:
            raise InvalidRequest("The thread that runs the loop cannot wait for what the loop has not done yet.")

    def _left(self, until: float | None) -> float:
        ends = [end for end in (until, self._deadline) if end is not None]
        return max(0.0, min([SLICE, *(end - self._clock() for end in ends)]))

    async def _await(self, index: int) -> Event:
        while (event := self._look(index)) is None:
            self._check_waiting()
            future = asyncio.get_running_loop().create_future()
            with self._changed:
                if not self._nothing(index):
                    continue
                self._waiters.add(future)
            try:
                left = None if self._deadline is None else self._left(None)
                await asyncio.wait([future], timeout=left)
            finally:
                with self._changed:
                    self._waiters.discard(future)
        return event

    async def _aresult(self) -> R:
        async for event in self.aevents():
            if isinstance(event, Result):
                return event  # type: ignore[return-value]
        raise AssertionError("the last event is the result")

    async def _deltas(self) -> AsyncGenerator[Delta]:
        async for event in self.aevents():
            if isinstance(event, Delta):
                yield event


class Stream(Iterator[Delta]):
    """The deltas of a request, which is cancelled when nobody reads on: by `close`, or at the end of a ``with``.

    Attributes:
        handle: of the request.
    """

    def __init__(self, handle: Handle[Any]) -> None:
        self.handle = handle
        self._deltas = iter(handle)

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """Cancel the request, if it still runs."""
        self.handle.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.handle.abandon()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
