"""The application under hosts of other habits than Uvicorn's: called by hand, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.types import Message

from infs.config import ServerConfig
from infs.http import create_app
from infs.http.service import Service
from infs.types import Delta, Request
from tests.http.fake_server import CHAT, FakeServer, Hold, Step
from tests.http.test_answers import script

SETTINGS = ServerConfig(stall_timeout=0.05)


class Host:
    """Sends one chat request to an application, and takes what comes until it is told to break."""

    def __init__(self, fake: FakeServer, settings: ServerConfig = SETTINGS) -> None:
        self.app = create_app(fake, settings)
        self.sent: list[Message] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.break_at = 1_000
        self.stall_at = 1_000

    async def call(self, **body: Any) -> None:
        """Run the request to its end."""
        data = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "a"}], **body}).encode()
        incoming: list[Message] = [
            {"type": "http.request", "body": data[:9], "more_body": True},
            {"type": "http.request", "body": data[9:], "more_body": False},
        ]

        async def receive() -> Message:
            if incoming:
                return incoming.pop(0)
            await self.left.wait()
            return {"type": "http.disconnect"}

        await self.app(scope(), receive, self._send)

    async def _send(self, message: Message) -> None:
        if len(self.sent) >= self.break_at:
            raise OSError("gone")
        if len(self.sent) >= self.stall_at:
            await asyncio.Event().wait()
        self.sent.append(message)
        self.arrived.set()

    @property
    def status(self) -> int:
        """The status line that came."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def text(self) -> str:
        """The body that came."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def scope(**changed: Any) -> dict[str, Any]:
    """A request for a chat completion."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        **changed,
    }


def endless(request: Request[Any]) -> Iterable[Step]:
    """Never ends."""
    while True:
        yield Delta(text="more ")


async def test_it_answers() -> None:
    host = Host(FakeServer())
    await host.call(stream=True)
    assert host.status == 200
    assert host.text.endswith("data: [DONE]\n\n")
    assert host.sent[-1]["more_body"] is False


@pytest.mark.parametrize("place", [0, 1, 5])
async def test_a_host_that_raises_when_the_client_is_gone(place: int) -> None:
    fake = FakeServer()
    fake.script = endless
    host = Host(fake)
    host.break_at = place
    await host.call(stream=True)
    assert (fake.running, fake.ended) == (0, 1)


@pytest.mark.parametrize("place", [0, 1, 5])
async def test_a_host_that_blocks_when_the_client_does_not_read(place: int) -> None:
    fake = FakeServer()
    fake.script = endless
    host = Host(fake)
    host.stall_at = place
    await host.call(stream=True)
    assert (fake.running, fake.ended) == (0, 1)


async def test_a_client_that_is_gone_when_the_error_would_be_written() -> None:
    fake = FakeServer()
    fake.script = script(Delta(text="a"), ValueError("a defect"))
    host = Host(fake)
    host.break_at = 3  # the status, the role, the text
    await host.call(stream=True)
    assert fake.running == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves(stream: bool) -> None:
    fake = FakeServer()
    fake.script = script(Hold())
    host = Host(fake)
    task = asyncio.create_task(host.call(stream=stream))
    await fake.starting.wait()
    host.left.set()
    await task
    assert fake.running == 0
    assert fake.ended == len(fake.requests)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_a_drain(stream: bool) -> None:
    fake = FakeServer()
    hold = Hold()
    fake.script = script(Delta(text="a"), hold) if stream else script(hold)
    host = Host(fake)
    task = asyncio.create_task(host.call(stream=stream))
    await (host.arrived.wait() if stream else fake.starting.wait())
    service: Service = host.app.state.service
    await service.drain(0.0)
    await task
    assert host.status == (200 if stream else 503)
    assert json.loads(host.text.rsplit("data: ", 1)[-1])["error"]["code"] == "server_closed"
    assert fake.running == 0


async def test_an_engine_that_cancels_itself() -> None:
    class Odd(FakeServer):
        async def run(self, request: Any) -> Any:
            raise asyncio.CancelledError

    host = Host(Odd())
    await host.call()
    assert host.status == 499
    assert json.loads(host.text)["error"]["code"] == "cancelled"


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = create_app(FakeServer(), ServerConfig(api_keys=["k"]))
    await app(scope(type="websocket", subprotocols=[]), receive, send)
    assert sent[0]["type"] == "websocket.close"


async def test_many_streams_at_once_do_not_mix() -> None:
    def own(request: Any) -> Iterable[Step]:
        for _ in range(20):
            yield Delta(text=request.messages[0].text)
        yield from FakeServer().script(request)

    fake = FakeServer()
    fake.script = own
    app = create_app(fake)
    hosts = [Host(fake) for _ in range(40)]
    for host in hosts:
        host.app = app
    words = [f"<{number}>" for number in range(len(hosts))]
    asked = [[{"role": "user", "content": word}] for word in words]
    await asyncio.gather(
        *(host.call(messages=messages, stream=True) for host, messages in zip(hosts, asked, strict=True))
    )
    for host, word in zip(hosts, words, strict=True):
        assert host.text.count(word) == 20
        assert host.text.count("<") == 20
    assert len({json.loads(host.text.split("\n")[0][6:])["id"] for host in hosts}) == 40
