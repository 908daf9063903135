"""An event loop on a thread of its own, for coroutines that callers of every kind wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from infs.llama.gate import closed

T = TypeVar("T")

SLICE = 1.0  # seconds after which a wait begins anew: on Windows nothing interrupts one without an end


class Background:
    """Runs coroutines. Thread-safe. Its thread starts with the first one.

    The loop is not one of the callers': theirs may be closed while something is computed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._events: asyncio.AbstractEventLoop | None = None
        self._helpers = ThreadPoolExecutor(2, thread_name_prefix="infs-background")
        self._thread: threading.Thread | None = None
        self._running: set[Future[Any]] = set()

    def submit(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin with a coroutine. Cancelling the future cancels it.

        Raises:
            ServerClosed: the model was closed.
        """
        with self._lock:
            if self._closed:
                raise closed()
            if self._events is None:
                self._events = self._start()
            future = asyncio.run_coroutine_threadsafe(begin(), self._events)
            self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _start(self) -> asyncio.AbstractEventLoop:
        events = asyncio.new_event_loop()
        events.set_default_executor(self._helpers)
        self._thread = threading.Thread(target=events.run_forever, name="infs-background", daemon=True)
        self._thread.start()
        return events

    def close(self) -> None:
        """End the thread when all coroutines have ended; there can be no other ones."""
        with self._lock:
            self._closed = True
        wait(list(self._running))
        if self._events is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(self._events.shutdown_asyncgens(), self._events).result()
            self._events.call_soon_threadsafe(self._events.stop)
            self._thread.join()
            self._events.close()
        self._helpers.shutdown()


def result_of(future: Future[T]) -> T:
    """The result of `future`, which is cancelled if the wait is interrupted, as by Ctrl+C."""
    try:
        while not future.done():
            wait([future], SLICE)
        return future.result()
    finally:
        future.cancel()
