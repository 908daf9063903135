"""A client that leaves, or that does not read, frees what it had: at once, in mid-stream, streaming or not."""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from infs.types import Delta, Request
from tests.http.fake_server import CHAT, TEXT, FakeServer, Hold, Step, until
from tests.http.test_answers import script

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": CHAT, "messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"model": TEXT, "prompt": ["a", "b", "c"]},
    "/v1/embeddings": {"model": CHAT, "input": "a"},
}
STREAMING = ["/v1/chat/completions", "/v1/completions"]


@contextmanager
def raw(url: str, path: str, body: dict[str, Any], *, buffer: int | None = None) -> Iterator[socket.socket]:
    """A bare connection on which this request was sent."""
    data = json.dumps(body).encode()
    where = urlsplit(url)
    with socket.socket() as connection:
        connection.settimeout(20)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect((where.hostname, where.port))
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        yield connection


def served(connection: socket.socket) -> bool:
    """Whether the server, which is in this process, still has its end of `connection`."""
    ours = connection.getsockname()
    return any(other.raddr == ours for other in psutil.Process().net_connections("tcp"))


def reset(connection: socket.socket) -> None:
    """Close it the hard way, as a killed client does."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", STREAMING)
@pytest.mark.parametrize("hard", [False, True])
def test_a_client_that_leaves_before_anything_came(
    url: str, fake: FakeServer, path: str, stream: bool, hard: bool
) -> None:
    fake.script = script(Hold())
    expected = 3 if "prompt" in BODIES[path] else 1
    with raw(url, path, {**BODIES[path], "stream": stream}) as connection:
        until(lambda: fake.running == expected)
        if hard:
            reset(connection)
    until(lambda: fake.ended == expected)


def test_a_client_that_leaves_an_embedding(url: str, fake: FakeServer) -> None:
    fake.script = script(Hold())
    with raw(url, "/v1/embeddings", BODIES["/v1/embeddings"]):
        until(lambda: fake.running == 1)
    until(lambda: fake.ended == 1)


@pytest.mark.parametrize("path", STREAMING)
def test_a_client_that_leaves_at_once(url: str, fake: FakeServer, path: str) -> None:
    fake.script = script(Hold())
    for _ in range(5):
        with raw(url, path, {**BODIES[path], "stream": True}) as connection:
            reset(connection)
    # Another request shows that nothing of those is left, started or not.
    with raw(url, path, {**BODIES[path], "stream": True}):
        until(lambda: fake.running >= 1)
    until(lambda: fake.running == 0 and fake.ended == len(fake.requests))


@pytest.mark.parametrize("path", STREAMING)
def test_a_client_that_leaves_in_mid_stream(url: str, fake: FakeServer, path: str) -> None:
    fake.script = script(Delta(text="Hello"), Hold())
    with raw(url, path, {**BODIES[path], "stream": True}) as connection:
        received = b""
        while b"Hello" not in received:
            received += connection.recv(65536)
        assert fake.running > 0
    until(lambda: fake.ended == len(fake.requests))


@pytest.mark.parametrize("path", STREAMING)
def test_a_client_that_leaves_while_it_is_written_to(url: str, fake: FakeServer, path: str) -> None:
    def endless(request: Request[Any]) -> Iterable[Step]:
        while True:
            yield Delta(text="more ")

    fake.script = endless
    with raw(url, path, {**BODIES[path], "stream": True}) as connection:
        assert connection.recv(1000)
    until(lambda: fake.ended == len(fake.requests))


@pytest.mark.parametrize("path", STREAMING)
def test_a_client_that_never_reads(url: str, fake: FakeServer, path: str, caplog: pytest.LogCaptureFixture) -> None:
    def endless(request: Request[Any]) -> Iterable[Step]:
        while True:
            yield Delta(text="a" * 50_000)

    fake.script = endless
    with (
        caplog.at_level(logging.INFO, logger="infs.http"),
        raw(url, path, {**BODIES[path], "stream": True}, buffer=4096) as connection,
    ):
        until(lambda: fake.running > 0)
        assert served(connection)
        until(lambda: fake.ended == len(fake.requests))
        # The connection was cut, not left open until all is read that was written.
        until(lambda: not served(connection))
    until(lambda: any("not read" in record.getMessage() for record in caplog.records))
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_client_that_never_sends_its_body(url: str, fake: FakeServer) -> None:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    with raw(url, "/v1/completions", BODIES["/v1/completions"]) as other:
        assert other.recv(15) == b"HTTP/1.1 200 OK"
    assert len(fake.requests) == 3


def test_a_disconnect_is_logged(url: str, fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    fake.script = script(Hold())
    with caplog.at_level(logging.INFO, logger="infs.http"):
        with raw(url, "/v1/completions", BODIES["/v1/completions"]):
            until(lambda: fake.running == 3)
        until(lambda: any(" 499 " in record.getMessage() for record in caplog.records))
