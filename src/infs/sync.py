"""`SyncServer`: a server for programs without an event loop."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import Any, Protocol, Self

from infs.bridge import LoopThread
from infs.runner import Conveniences, Runner
from infs.status import ServerStatus
from infs.types import Event, R, Request


class AsyncServer(Runner, Protocol):
    """What `SyncServer` needs of a server."""

    async def start(self) -> None: ...
    async def close(self, drain: float = 0.0) -> None: ...
    async def status(self) -> ServerStatus: ...
    async def unload(self, model: str, *, now: bool = False) -> int: ...


class SyncServer(Conveniences):
    """A server that runs on an event loop in a thread of its own; every method waits until it is done.

    Any number of threads may use it at the same time. It may also be used where an event loop runs, which then stands
    still as long as a method waits; on the server's own loop (in an async handler of a tool, in an engine) it raises
    `Unsupported` instead of waiting for itself. `KeyboardInterrupt`, or any other exception in the waiting thread,
    cancels the request and leaves the server as it was. All methods raise `ServerClosed` once it is closed.

    A context manager: it starts and closes the server. One that is forgotten is closed when nothing refers to it any
    more, and at the end of the program. It does not survive ``fork``.

    Args:
        server: not started, and used by nobody else.

    Example:
        ```python
        with InferenceServer.sync({"demo": demo_model()}) as server:
            result = server.chat_completion(model="demo", messages=[Message(role="user", content="Hello!")])
            print(result.text)
        ```
    """

    def __init__(self, server: AsyncServer) -> None:
        self._server = server
        self._thread = LoopThread("infs-sync", server.close)
        weakref.finalize(self, self._thread.stop_soon).atexit = False  # then the thread looks after itself

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Prepare what the configuration wants prepared. Requests need not wait for it; a second call does nothing."""
        self._thread.call(self._server.start)

    def close(self, drain: float = 0.0) -> None:
        """Refuse new requests, give running ones `drain` seconds, then end everything. A second call does nothing.

        Interrupted, it goes on ending in the background.
        """
        self._thread.stop(drain)

    def run(self, request: Request[R]) -> R:
        """The result of `request`.

        Raises:
            InfsError: when there is none.
        """
        return self._thread.call(lambda: self._server.run(request))

    def stream(self, request: Request[Any]) -> Generator[Event]:
        """The events of `request` as they happen; the last one is its `Result`.

        Nothing happens before the first one is asked for, and the request gets only a little ahead of a slow reader.
        Closing the generator, which leaving a ``for`` loop over it does, cancels the request.

        Raises:
            InfsError: out of the generator, instead of a result.
        """
        yield from self._thread.iterate(lambda: self._server.stream(request))

    def status(self) -> ServerStatus:
        """What there is to know."""
        return self._thread.call(self._server.status)

    def unload(self, model: str, *, now: bool = False) -> int:
        """Unload a model; see `InferenceServer.unload`."""
        return self._thread.call(lambda: self._server.unload(model, now=now))
