"""An event loop on a thread of its own, and what other threads have it do.

Those threads wait in small steps: on Windows, a wait without an end cannot be interrupted by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future, wait
from contextlib import aclosing, suppress
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from infs.errors import ServerClosed, Unsupported

T = TypeVar("T")

POLL = 0.2  # seconds
AHEAD = 64  # items of an iterator that may wait for whoever reads it
EXIT_TIMEOUT = 10.0  # seconds that ending may hold up the end of the interpreter


class _End(Enum):
    END = 0


class LoopThread:
    """An event loop on a thread, which starts with the first work, and ends with `stop` or with the interpreter.

    All methods may be called from any thread but the loop's own.

    Args:
        name: of the thread.
        finish: run on the loop as its last work, with the argument of `stop`.
    """

    def __init__(self, name: str, finish: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._finish = finish
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._stopping = self._ended = False
        self._error: Exception | None = None

    # --- work

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`. An exception in the waiting thread, such as `KeyboardInterrupt`, cancels it.

        Raises:
            ServerClosed: the loop has ended, before or while it worked.
            Unsupported: called from the loop's own thread.
        """
        future = self._submit(work)
        try:
            while not wait([future], POLL).done:
                continue
            return _outcome(future)
        finally:
            future.cancel()

    def iterate(self, work: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
        """What `work` yields. At most `AHEAD` items wait to be read; closing the iterator cancels the work.

        Raises:
            ServerClosed, Unsupported: as in `call`.
        """
        channel = _Channel[T]()
        future = self._submit(lambda: channel.fill(work()))
        future.add_done_callback(channel.end)
        try:
            yield from channel.items()
            _outcome(future)
        finally:
            future.cancel()

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        self._check_thread()
        with self._lock:
            if self._ended:
                raise ServerClosed("The server is closed.")
            if self._running is None:
                self._running = self._start()
            return asyncio.run_coroutine_threadsafe(work(), self._running.loop)

    def _check_thread(self) -> None:
        if self._running is not None and threading.current_thread() is self._running.thread:
            raise Unsupported(
                "This was called on the event loop that would have to do the work, so it would wait for itself; "
                "async code there uses the asynchronous server."
            )

    def _start(self) -> _Running:
        loop = asyncio.new_event_loop()
        asked_to_stop: asyncio.Future[float] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, asked_to_stop), name=self._name, daemon=True)
        thread.start()
        atexit.register(self._stop_at_exit)
        return _Running(loop, thread, asked_to_stop)

    # --- the end

    def stop(self, argument: float = 0.0) -> None:
        """Run `finish`, cancel what still runs, and end. A second call waits for the first one.

        An exception in the waiting thread ends the waiting, not the ending.
        """
        self._check_thread()
        self.stop_soon(argument)
        while self._running is not None and self._running.thread.is_alive():
            self._running.thread.join(POLL)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop_soon(self, argument: float = 0.0) -> None:
        """As `stop`, without waiting; from any thread."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            if self._running is not None:
                self._running.loop.call_soon_threadsafe(self._running.asked_to_stop.set_result, argument)
            else:
                self._ended = True

    def _stop_at_exit(self) -> None:
        self.stop_soon()
        if self._running is not None:
            self._running.thread.join(EXIT_TIMEOUT)

    # --- the thread

    def _run(self, loop: asyncio.AbstractEventLoop, asked_to_stop: asyncio.Future[float]) -> None:
        try:
            loop.run_until_complete(self._live(asked_to_stop))
            loop.run_until_complete(loop.shutdown_asyncgens())
            with suppress(RuntimeError):  # at the interpreter's end it may start no thread to wait for others
                loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
            atexit.unregister(self._stop_at_exit)

    async def _live(self, asked_to_stop: asyncio.Future[float]) -> None:
        try:
            await self._finish(await asked_to_stop)
        except Exception as error:
            self._error = error
        with self._lock:
            self._ended = True
        await asyncio.sleep(0)  # what was submitted just before becomes tasks
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class _Running(NamedTuple):
    """A loop, its thread, and what ends both."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    asked_to_stop: asyncio.Future[float]


class _Channel(Generic[T]):
    """Items from the loop to one thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._items: queue.SimpleQueue[T | Literal[_End.END]] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(AHEAD)

    async def fill(self, source: AsyncGenerator[T]) -> None:
        """Put in what `source` yields, as there is room."""
        self._loop = asyncio.get_running_loop()
        async with aclosing(source):
            async for item in source:
                await self._room.acquire()
                self._items.put(item)

    def end(self, _: object) -> None:
        """Nothing comes any more."""
        self._items.put(_End.END)

    def items(self) -> Generator[T]:
        """What was put in, up to the end."""
        taken = 0
        while (item := self._next()) is not _End.END:
            yield item
            taken += 1
            if taken == AHEAD // 2:  # the loop is woken up once for many
                self._make_room(taken)
                taken = 0

    def _next(self) -> T | Literal[_End.END]:
        while True:
            with suppress(queue.Empty):
                return self._items.get(timeout=POLL)

    def _make_room(self, count: int) -> None:
        def release() -> None:
            for _ in range(count):
                self._room.release()

        assert self._loop is not None  # it has filled in what was taken
        with suppress(RuntimeError):  # it has ended, and fills nothing any more
            self._loop.call_soon_threadsafe(release)


def _outcome(future: Future[T]) -> T:
    """The result of `future`, which is done."""
    try:
        return future.result()
    except CancelledError as error:
        raise ServerClosed("The server was closed while the request ran.") from error
