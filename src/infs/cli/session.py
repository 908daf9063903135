"""A server for a program that reads line by line: its event loop runs on a thread, its events come out of iterators.

So the main thread may wait in ``input()`` while the loop goes on living, and Ctrl-C arrives where the waiting is.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import aclosing
from typing import Any, TypeVar

from infs.server import InferenceServer
from infs.types import ChatCompletionRequest, Event, Message, Request

T = TypeVar("T")
Tell = Callable[[Event], None]

POLL = 0.2  # seconds; on Windows, a wait without an end cannot be interrupted by Ctrl-C


class Session:
    """Runs `server` while it is entered."""

    def __init__(self, server: InferenceServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="infs-session", daemon=True)

    def __enter__(self) -> Session:
        self._thread.start()
        try:
            self._wait(self._server.start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._wait(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(POLL)
            except TimeoutError:
                if future.done():
                    raise

    def load(self, model: str) -> Generator[Event]:
        """Load `model`; what comes out is the progress.

        Raises:
            InfsError: out of the iterator, when it cannot be loaded.
        """
        return self._events(lambda tell: self._load(model, tell))

    def stream(self, request: Request[Any]) -> Generator[Event]:
        """The events of `request`; closing the iterator cancels it. See `infs.runner.Runner.stream`."""
        return self._events(lambda tell: self._stream(request, tell))

    async def _load(self, model: str, tell: Tell) -> None:
        request = ChatCompletionRequest(model=model, messages=[Message(role="user")])
        async with self._server.pool.lease(request, tell):
            pass

    async def _stream(self, request: Request[Any], tell: Tell) -> None:
        async with aclosing(self._server.stream(request)) as events:
            async for event in events:
                tell(event)

    def _events(self, work: Callable[[Tell], Coroutine[Any, Any, None]]) -> Generator[Event]:
        news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(work(news.put), self._loop)
        future.add_done_callback(lambda _: news.put(None))
        try:
            while (event := _next(news)) is not None:
                yield event
            future.result()
        finally:
            future.cancel()


def _next(news: queue.SimpleQueue[Event | None]) -> Event | None:
    while True:
        try:
            return news.get(timeout=POLL)
        except queue.Empty:
            continue
