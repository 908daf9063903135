"""The runner: addresses, readiness, signals, and the two ways to end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from infs.config import ServerConfig
from infs.errors import ConfigError
from infs.http import create_app
from infs.http.serving import bind, serve
from tests.http.conftest import SETTINGS, running
from tests.http.fake_server import CHAT, FakeServer, until

BODY = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}]}


# --- addresses ------------------------------------------------------------------------------------------------


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port}: the port is in use.*--port") as caught:
            bind(ServerConfig(port=port))
        assert caught.value.param == "server.port"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "203.0.113.7"])
def test_a_host_that_is_not_here(host: str) -> None:
    with pytest.raises(ConfigError, match="Cannot listen on") as caught:
        bind(ServerConfig(host=host, port=0))
    assert caught.value.param == "server.host"
    assert "server.host" in caught.value.message


@pytest.mark.parametrize(
    ("error", "said", "param"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "1024", "server.port"),
        (OSError(errno.EAFNOSUPPORT, "Address family not supported"), "family", "server.host"),
    ],
)
def test_an_address_that_is_not_for_us(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str, param: str) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigError, match=said) as caught:
        bind(ServerConfig(port=80))
    assert caught.value.param == param


async def test_a_port_in_use_does_not_start_the_server() -> None:
    fake = FakeServer()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError):
        await serve(create_app(fake), ServerConfig(port=taken.getsockname()[1]))
    assert fake.starts == 0


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("localhost", None), ("0.0.0.0", "127.0.0.1")])
def test_the_url(host: str, shown: str | None) -> None:
    settings = ServerConfig(host=host, port=0)
    with running(create_app(FakeServer(), settings), settings) as url:
        assert url.startswith("http://")
        assert shown is None or url.startswith(f"http://{shown}:")
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_url_of_ipv6() -> None:
    settings = ServerConfig(host="::1", port=0)
    with running(create_app(FakeServer(), settings), settings) as url:
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/health").status_code == 200


def test_answers_are_not_held_back() -> None:
    with bind(SETTINGS) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sends at once on sockets that say they are TCP"


def test_the_lifespan_of_a_parent_runs_with_its_state() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"answer": 42}
        finally:
            closed.append(True)

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(request.state.answer)

    closed: list[bool] = []
    fake = FakeServer()
    app = Starlette(routes=[Route("/show", show), Mount("/ai", app=create_app(fake, SETTINGS))], lifespan=lifespan)
    with running(app) as url:
        assert httpx.get(f"{url}/show").json() == 42
        assert httpx.get(f"{url}/ai/v1/models").status_code == 200
    assert closed == [True]
    assert not fake.closing, "its owner closes it"


# --- the end --------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, pathlib, sys
from infs.config import ServerConfig
from infs.http import create_app
from infs.http.serving import serve
from infs.types import Delta
from tests.http.fake_server import FakeServer, Hold, completed

class Slow(FakeServer):
    async def start(self):
        if "never-starts" in sys.argv:
            print("starting", flush=True)
            await asyncio.Event().wait()
        await super().start()

    async def close(self, drain=0.0):
        await super().close(drain)
        print("closed", flush=True)

class UntilThereIs(Hold):
    async def wait(self):
        while not pathlib.Path(sys.argv[2]).exists():
            await asyncio.sleep(0.01)

def script(request):
    yield Delta(text="first ")
    yield UntilThereIs()
    yield Delta(text="last", finish_reason="stop")
    yield completed(request, "first last")

fake = Slow()
fake.script = script
settings = ServerConfig(port=0, drain_timeout=float(sys.argv[1]))
asyncio.run(serve(create_app(fake, settings), settings, on_ready=lambda url: print(url, flush=True)))
print("ended", flush=True)
"""

ROOT = Path(__file__).parents[2]


@contextmanager
def program(drain: float, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own; gives its first line of output."""
    command = [sys.executable, "-c", PROGRAM, str(drain), *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def rest(process: subprocess.Popen[str]) -> list[str]:
    """What it still says, and that it ended well."""
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return said.split()


class Stream:
    """A streamed answer that is being read, in a thread."""

    def __init__(self, url: str) -> None:
        self.text = ""
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(url,))
        self._thread.start()

    def _read(self, url: str) -> None:
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}) as response:
                for piece in response.iter_text():
                    self.text += piece
        except httpx.HTTPError as error:
            self.error = error

    def end(self) -> str:
        """All of it."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.text


def closing(url: str) -> bool:
    """Whether it says so."""
    response = httpx.get(f"{url}/health")
    return response.status_code == 503 and response.json() == {"status": "closing"}


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals to another process")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(number: int, tmp_path: Path) -> None:
    with program(20, str(tmp_path / "go")) as (process, url), httpx.Client() as client:
        client.get(f"{url}/health")
        stream = Stream(url)
        until(lambda: "first" in stream.text)
        process.send_signal(number)
        until(lambda: closing(url))
        refused = client.post(f"{url}/v1/chat/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "server_closed"
        assert int(refused.headers["retry-after"]) >= 1
        assert "last" not in stream.text
        (tmp_path / "go").touch()
        ended = stream.end()
        assert "last" in ended
        assert ended.endswith("data: [DONE]\n\n")
        assert rest(process) == ["closed", "ended"]


@posix
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with program(600, str(tmp_path / "go")) as (process, url):
        stream = Stream(url)
        until(lambda: "first" in stream.text)
        process.send_signal(signal.SIGTERM)
        until(lambda: closing(url))
        process.send_signal(signal.SIGTERM)
        ended = stream.end()
        assert "server_closed" in ended or stream.error is not None
        assert rest(process) == ["closed", "ended"]


def test_a_drain_waits_for_what_is_running() -> None:
    asyncio.run(_drained())


async def _drained() -> None:
    from infs.http.service import Service

    fake = FakeServer()
    service = Service(fake, SETTINGS)
    go = asyncio.Event()

    async def connected() -> Any:
        await asyncio.Event().wait()

    async def work() -> str:
        await go.wait()
        return "done"

    running_work = asyncio.create_task(service.run(connected, work))
    await asyncio.sleep(0)
    draining = asyncio.create_task(service.drain(20))
    await asyncio.sleep(0)
    assert service.closing
    assert not draining.done()
    go.set()
    assert await running_work == "done"
    await draining


@posix
def test_a_drain_that_takes_too_long_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    with program(0.2, str(tmp_path / "go")) as (process, url):
        stream = Stream(url)
        until(lambda: "first" in stream.text)
        process.send_signal(signal.SIGTERM)
        ended = stream.end()
        last = json.loads(ended.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "server_closed"
        assert "[DONE]" not in ended
        assert rest(process) == ["closed", "ended"]


@posix
def test_a_signal_ends_an_idle_server_and_its_idle_connections() -> None:
    with program(20) as (process, url), httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["closed", "ended"]


@posix
def test_a_signal_during_the_start_ends_it() -> None:
    with program(20, "never-starts") as (process, line):
        assert line == "starting"
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["closed", "ended"]


async def test_a_cancellation_ends_everything(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeServer()
    urls: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(create_app(fake, SETTINGS), SETTINGS, on_ready=urls.put_nowait))
    url = await urls.get()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health")).status_code == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(httpx.TransportError):
            await client.get(f"{url}/health")
    assert fake.closing


async def test_signals_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    urls: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(serve(create_app(FakeServer(), SETTINGS), SETTINGS, on_ready=urls.put_nowait))
    await urls.get()
    assert {number: signal.getsignal(number) for number in before} != before
    signal.raise_signal(signal.SIGTERM)
    await task
    assert {number: signal.getsignal(number) for number in before} == before
