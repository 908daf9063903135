"""The inference server as the routes see it: started when needed, given up with its client, drained at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from infs.config import ModelConfig, ServerConfig
from infs.errors import InfsError, RequestCancelled, ServerClosed
from infs.http.tasks import end
from infs.runner import Runner
from infs.status import Exposition

T = TypeVar("T")

DEFAULTS = ServerConfig()


class Server(Runner, Protocol):
    """What the edge needs of `infs.server.InferenceServer`."""

    async def start(self) -> None:
        """Get ready; calling it again does nothing."""
        ...

    async def close(self, drain: float = 0.0) -> None:
        """Refuse new requests, give running ones `drain` seconds, end everything."""
        ...

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """The models by id."""
        ...

    @property
    def created(self) -> int:
        """Unix time of the start."""
        ...

    @property
    def started(self) -> bool:
        """It was started, and not closed since."""
        ...

    @property
    def closing(self) -> bool:
        """It refuses new requests."""
        ...

    async def status(self) -> Any:
        """How it is, as plain data."""
        ...

    async def metrics(self, accept: str = "") -> Exposition:
        """What Prometheus reads, in the format that `accept`, the header of that name, prefers."""
        ...

    async def unload(self, model: str, *, now: bool = False) -> int:
        """End the instances of `model`, once their requests have ended or `now`; gives how many there were."""
        ...

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again: ids under ``added``, ``changed``, ``removed`` and ``unchanged``, and under
        ``restart`` the keys that need one.

        Raises:
            ConfigError: what is wrong with it; then nothing has changed.
        """
        ...


class ClientGone(RequestCancelled):
    """The client closed its connection, or stopped reading."""


class Service:
    """Runs work for HTTP clients on `server`.

    The routes may be mounted where nobody runs our lifespan, so the first request starts the server.
    """

    def __init__(self, server: Server, settings: ServerConfig) -> None:
        self.server = server
        self.settings = settings
        self._draining = False
        self._starting: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._reloads: set[asyncio.Task[Any]] = set()
        self._one_reload = asyncio.Lock()

    @property
    def closing(self) -> bool:
        """New work is refused."""
        return self._draining or self.server.closing

    async def start(self) -> None:
        """Start the server unless it is. A caller that is cancelled leaves the start to the others."""
        if self.server.started or self.closing:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self.server.start())
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Close the server, also in the middle of its start."""
        if self._starting is not None:
            await end(self._starting)
        await end(*self._reloads)
        await self.server.close()

    async def run(self, receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which is cancelled as soon as the client is gone.

        `receive` is the channel of the HTTP request, whose body has been read.

        Raises:
            ClientGone: it went away first.
            ServerClosed: the server is, or came to be, shutting down.
        """
        if self.closing:
            raise ServerClosed("The server is shutting down; it takes no new requests.")
        task = asyncio.create_task(self._started(work))
        gone = asyncio.create_task(_disconnected(receive))
        self._running.add(task)
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone("The client closed the connection.")
            if task.cancelled():
                raise self._cancelled()
            return task.result()
        finally:
            await end(task, gone)
            self._running.discard(task)

    def _cancelled(self) -> InfsError:
        if self._draining:
            return ServerClosed("The server was shut down before this request was done.")
        return RequestCancelled("The request was cancelled.")

    async def _started(self, work: Callable[[], Awaitable[T]]) -> T:
        await self.start()
        return await work()

    async def reload(self) -> dict[str, Any]:
        """Have the server read its configuration again, one time after the other; see `Server.reload`.

        What was begun comes to its end, whatever becomes of the one who asked.
        """
        if self.closing:
            raise ServerClosed("The server is shutting down; it reads no configuration any more.")
        task = asyncio.create_task(self._reload_in_turn())
        self._reloads.add(task)
        task.add_done_callback(self._reloaded)
        return await asyncio.shield(task)

    async def _reload_in_turn(self) -> dict[str, Any]:
        async with self._one_reload:
            await self.start()
            return await self.server.reload()

    def _reloaded(self, task: asyncio.Task[Any]) -> None:
        self._reloads.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be there any more to hear of it

    async def drain(self, timeout: float) -> None:
        """Refuse new work, wait `timeout` seconds for what is running, then end it."""
        self._draining = True
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=timeout)
        finally:
            for task in self._running:
                task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
