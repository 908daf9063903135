"""Runs the application on a port: ready or a clear error, and an end that lets running requests finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from infs.config import ServerConfig
from infs.errors import ConfigError
from infs.http.hangups import Hangups
from infs.http.service import Service
from infs.http.sse import ABORT
from infs.http.tasks import end

log = logging.getLogger("infs.http")

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they do not meet a closing one
FLUSH_SECONDS = 2  # for the last bytes of answers, whose work has ended by then

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGBREAK") if (number := getattr(signal, name, None)) is not None]


async def serve(app: Starlette, settings: ServerConfig, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve `app` until a signal (SIGINT, SIGTERM; Ctrl+Break on Windows) or a cancellation ends it.

    The first signal starts the drain: new inference requests get 503, ``/health`` says "closing", and what is
    running has `drain_timeout` seconds. A second one ends everything at once, and so does a cancellation. Signals
    are heard in the main thread only. Where there is SIGHUP, it has the server read its configuration again, unless it
    says that the terminal is gone: then it ends the server like the others.

    Args:
        app: made by `create_app`, or an application that has one mounted.
        settings: where it listens, and how long it drains.
        on_ready: called with the URL once connections are accepted.

    Raises:
        ConfigError: the address cannot be listened on.
        InfsError: the inference server could not be started.
    """
    with bind(settings) as listener, _signals() as (first, second), Hangups(_services(app), first):
        server = _Server(app, settings, listener, on_ready)
        work = asyncio.create_task(server.serve_app())
        try:
            await _either(work, first)
            if not work.done() and server.started:
                await server.stop(work, second)
        finally:
            # Also when this is cancelled, or the signal came in the middle of the start.
            if not work.done():
                await end(work)
        if not work.cancelled():
            work.result()


def bind(settings: ServerConfig) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: naming host and port, and what to do.
    """
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        return _listen(family, address)
    except (OSError, UnicodeError) as error:
        what, param = _why(error, host, port)
        raise ConfigError(f"Cannot listen on {host} port {port}: {what}", param=param) from error


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    # Not socket.create_server, which leaves the protocol open: asyncio switches Nagle's algorithm off, which costs
    # 40 ms an answer, for sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _why(error: OSError | UnicodeError, host: str, port: int) -> tuple[str, str]:
    if isinstance(error, UnicodeError | socket.gaierror):
        return "no such host. Set server.host to an address of this machine, such as 127.0.0.1.", "server.host"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address. Set server.host to one that it has.", "server.host"
    if error.errno == errno.EADDRINUSE:
        return (
            "the port is in use. Stop what listens there, or take another port (--port, or server.port in the "
            "configuration; 0 takes a free one).",
            "server.port",
        )
    if error.errno == errno.EACCES:
        return "that is not allowed. Take a port from 1024 up (--port, or server.port).", "server.port"
    return f"{error.strerror or error}.", "server.host"


@contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Events for the first signal that comes and for those after it."""
    first, second = asyncio.Event(), asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield first, second
        return
    loop = asyncio.get_running_loop()

    def heard() -> None:
        (second if first.is_set() else first).set()

    # Not loop.add_signal_handler: Windows has none.
    before = {number: signal.signal(number, lambda *_: _call(loop, heard)) for number in SIGNALS}
    try:
        yield first, second
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(function)


async def _either(task: asyncio.Task[Any], event: asyncio.Event) -> None:
    """Wait until `task` has ended or `event` has happened."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(waiting)


class _Server(uvicorn.Server):
    """Uvicorn, with our own signals and an end in our own order."""

    def __init__(
        self,
        app: Starlette,
        settings: ServerConfig,
        listener: socket.socket,
        on_ready: Callable[[str], None] | None,
    ) -> None:
        self._app = app
        self._services = _services(app)
        self._settings = settings
        self._listener = listener
        self._on_ready = on_ready
        self._state: dict[str, Any] = {}
        # Without a service that can be drained, Uvicorn waits for open connections by itself.
        graceful = FLUSH_SECONDS if self._services else math.ceil(settings.drain_timeout)
        config = uvicorn.Config(
            self._with_abort,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=graceful,
        )
        super().__init__(config)

    async def serve_app(self) -> None:
        """Start the application, serve it, and end it; whatever is still open then is cut."""
        # Its lifespan runs here, not in Uvicorn, which would turn an error into an exit of the process.
        lifespan: AbstractAsyncContextManager[Any] = self._app.router.lifespan_context(self._app)
        async with lifespan as state:
            self._state = dict(state or {})
            try:
                await self.serve(sockets=[self._listener])
            finally:
                await self._cut()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets=sockets)
        self.lifespan.state.update(self._state)
        url = _url(self._listener)
        log.info("Listening on %s", url)
        if self._on_ready is not None:
            self._on_ready(url)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they are ours."""
        yield

    async def stop(self, work: asyncio.Task[None], now: asyncio.Event) -> None:
        """Drain and end `work`, which is `serve_app`; once `now` has happened, without waiting for anything."""
        log.info("Shutting down; requests that are running have %g seconds.", self._settings.drain_timeout)
        draining = asyncio.create_task(self._drain())
        await _either(draining, now)
        await end(draining)
        self.should_exit = True
        self.force_exit = now.is_set()
        await _either(work, now)
        if not work.done():
            self.force_exit = True
            await asyncio.wait((work,), timeout=FLUSH_SECONDS)

    async def _drain(self) -> None:
        limit = self._settings.drain_timeout
        await asyncio.gather(*(service.drain(limit) for service in self._services))

    async def _cut(self) -> None:
        for server in getattr(self, "servers", []):
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := list(self.server_state.tasks):
            await end(*tasks)

    async def _with_abort(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, which is offered to drop the connection: a client that never reads is not closed else."""
        if scope["type"] == "http":
            scope.setdefault("extensions", {})[ABORT] = lambda: self._abort(scope)
        await self._app(scope, receive, send)

    def _abort(self, scope: Scope) -> None:
        for connection in list(self.server_state.connections):
            if getattr(connection, "scope", None) is scope:
                connection.transport.abort()


def _services(app: Any) -> list[Service]:
    """The services behind `app` and what is mounted in it."""
    service = getattr(getattr(app, "state", None), "service", None)
    found = [service] if isinstance(service, Service) else []
    for route in getattr(app, "routes", []):
        if isinstance(route, Mount):
            found += _services(route.app)
    return found


def _url(listener: socket.socket) -> str:
    """Where a client on this machine finds `listener`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
