"""A real HTTP server on a free port, over the fake inference server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette

from infs.config import ServerConfig
from infs.http import create_app
from infs.http.serving import serve
from tests.http.fake_server import FakeServer

SETTINGS = ServerConfig(port=0, max_body=1_000_000, stall_timeout=0.5, drain_timeout=0.2)


@contextmanager
def running(app: Starlette, settings: ServerConfig = SETTINGS) -> Iterator[str]:
    """`app` served in a thread; gives its URL."""
    ready = threading.Event()
    urls: list[str] = []
    failed: list[BaseException] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    async def main() -> None:
        tasks.append((asyncio.get_running_loop(), asyncio.ensure_future(serve(app, settings, on_ready=on_ready))))
        try:
            await tasks[0][1]
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(20), "the server came up"
        if failed:
            raise failed[0]
        yield urls[0]
    finally:
        if thread.is_alive():
            loop, task = tasks[0]
            loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive(), "the server ended"


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[FakeServer, str]]:
    """One server for all tests that do not change it."""
    fake = FakeServer()
    with running(create_app(fake, SETTINGS)) as url:
        yield fake, url


@pytest.fixture
def fake(shared: tuple[FakeServer, str]) -> Iterator[FakeServer]:
    """The inference server of the shared HTTP server, as new; a test must leave nothing running in it."""
    shared[0].reset()
    yield shared[0]
    assert shared[0].running == 0


@pytest.fixture
def url(shared: tuple[FakeServer, str], fake: FakeServer) -> str:
    """Where the shared HTTP server is."""
    return shared[1]


@pytest.fixture(scope="session")
def client(shared: tuple[FakeServer, str]) -> Iterator[httpx.Client]:
    """A plain HTTP client of the shared server."""
    with httpx.Client(base_url=shared[1], timeout=20) as client:
        yield client


@pytest.fixture
def http(client: httpx.Client, fake: FakeServer) -> httpx.Client:
    """A plain HTTP client of the shared server, which is as new."""
    return client
