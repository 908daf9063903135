"""A server for a program that reads line by line, which can also be told to load a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

from infs.server import InferenceServer
from infs.sync import SyncServer
from infs.tasks import end
from infs.types import ChatCompletionRequest, Event, Message, Progress


class Session(SyncServer):
    """`SyncServer` of an `InferenceServer`."""

    def __init__(self, server: InferenceServer) -> None:
        super().__init__(server)
        self._pool = server.pool

    def load(self, model: str) -> Generator[Event]:
        """Load `model`; what comes out is the progress.

        Raises:
            InfsError: out of the iterator, when it cannot be loaded.
        """
        yield from self._thread.iterate(lambda: self._load(model))

    async def _load(self, model: str) -> AsyncGenerator[Progress]:
        news: asyncio.Queue[Progress | None] = asyncio.Queue()
        task = asyncio.create_task(self._have_place(model, news))
        task.add_done_callback(lambda _: news.put_nowait(None))
        try:
            while (progress := await news.get()) is not None:
                yield progress
            await task
        finally:
            await end(task)

    async def _have_place(self, model: str, news: asyncio.Queue[Progress | None]) -> None:
        request = ChatCompletionRequest(model=model, messages=[Message(role="user")])
        async with self._pool.lease(request, news.put_nowait):
            pass
