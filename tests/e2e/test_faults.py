"""What can go wrong around a running server: it is really made to."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from infs.demo import MODEL_FILE
from tests.e2e.served import Served, serve, until

LONG = {"model": "demo", "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True}


def chat(served: Served, text: str) -> str:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    answer.raise_for_status()
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


def post(served: Served, path: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/{path}", content=body, timeout=60)


def idle(served: Served) -> bool:
    status = served.status()
    return bool(status["running"] == 0 and served.engine().get("running", 0) == 0)


def raw_request(served: Served, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def connect(served: Served, *, receive_buffer: int | None = None) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    return connection


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_at_once_or_in_the_middle_frees_its_sequence(served: Served, stream: bool) -> None:
    chat(served, "Hello!")
    before = served.engine()["generated_tokens"]
    for read_something in (False, True):
        with connect(served) as connection:
            connection.sendall(raw_request(served, {**LONG, "stream": stream}))
            if read_something and stream:
                assert b"200 OK" in connection.recv(1000)
            elif read_something:
                await until(lambda: served.engine()["running"] > 0)
    await until(lambda: idle(served))
    assert served.engine()["generated_tokens"] - before < 2 * 900, "they did not run to their end"
    assert chat(served, "What is the capital of Italy?") == "The capital of Italy is Rome."


async def test_a_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    with serve("--set", "server.stall_timeout=0.5", "--set", "models.demo.context_size=1024", cwd=tmp_path) as served:
        chat(served, "Hello!")
        # Log-probabilities make the stream larger than the buffers of both ends together.
        body = {**LONG, "logprobs": 5, "n": 8}
        with connect(served, receive_buffer=2048) as connection:
            connection.sendall(raw_request(served, body))
            await until(lambda: served.status()["running"] == 1)
            assert chat(served, "What is the capital of Italy?") == "The capital of Italy is Rome."
            await until(lambda: idle(served))


async def test_streams_survive_their_worker_and_it_is_replaced(tmp_path: Path) -> None:
    with serve(cwd=tmp_path) as served:
        chat(served, "Hello!")
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
            )
            streams = [
                await client.completions.create(
                    model="demo", prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
                )
                for _ in range(3)
            ]
            [worker] = served.workers()
            worker.kill()
            ends = await asyncio.gather(*(read(stream) for stream in streams))
        assert [end.choices[0].finish_reason for end in ends] == ["length"] * 3
        assert served.status()["models"]["demo"]["replays"] == 3
        assert chat(served, "What is the capital of Italy?") == "The capital of Italy is Rome."
        [other] = served.workers()
        assert other.pid != worker.pid
        other.kill()
        await until(lambda: not served.workers())
        assert chat(served, "What is the capital of Italy?") == "The capital of Italy is Rome.", "killed while idle"


async def read(stream: Any) -> Any:
    """The last chunk that has a choice."""
    return [chunk async for chunk in stream if chunk.choices][-1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_sigterm_under_load_lets_streams_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    with serve("--set", "models.demo.context_size=2048", "--set", "server.drain_timeout=60", cwd=tmp_path) as served:
        chat(served, "Hello!")
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            streams = [
                await client.completions.create(
                    model="demo", prompt=f"Once {n}", max_tokens=600, stream=True, extra_body={"ignore_eos": True}
                )
                for n in range(4)
            ]
            reading = [asyncio.create_task(last_reason(stream)) for stream in streams]
            served.process.send_signal(signal.SIGTERM)
            await until(lambda: "Shutting down" in served.log)
            with pytest.raises(openai.APIError):
                await client.completions.create(model="demo", prompt="x")
            assert await asyncio.gather(*reading) == ["length"] * 4
        assert await asyncio.to_thread(served.process.wait, 60) == 0


async def last_reason(stream: Any) -> str | None:
    reason = None
    async for chunk in stream:
        if chunk.choices:
            reason = chunk.choices[0].finish_reason or reason
    return reason


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    with serve("--set", "models.demo.context_size=8192", cwd=tmp_path) as served:
        chat(served, "Hello!")
        with connect(served) as connection:
            connection.sendall(raw_request(served, {**LONG, "max_tokens": 8000}))
            connection.recv(1000)
            workers = served.workers()
            served.process.send_signal(signal.SIGTERM)
            await until(lambda: "Shutting down" in served.log)
            served.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(served.process.wait, 30)
        await until(lambda: not any(worker.is_running() for worker in workers))


async def test_after_its_time_the_worker_is_gone_and_its_memory_with_it(tmp_path: Path) -> None:
    with serve("--ttl", "0.3", cwd=tmp_path) as served:
        assert served.workers() == []
        chat(served, "Hello!")
        await until(lambda: not served.workers())
        assert served.status()["models"]["demo"]["state"] == "idle"
        assert chat(served, "What is the capital of Italy?") == "The capital of Italy is Rome."


async def test_the_serving_process_stays_small(served: Served) -> None:
    chat(served, "Hello!")
    resident = psutil.Process(served.process.pid).memory_info().rss
    assert resident < 90_000_000, f"{resident / 1e6:.0f} MB"


async def test_two_servers_share_one_cache(tmp_path: Path) -> None:
    """Both want the same file at the same time from a server that counts: it is fetched once."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    fetched: list[str] = []
    data = MODEL_FILE.read_bytes()

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    files = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = Thread(target=files.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{files.server_port}/demo.gguf"
        options = [
            url,
            "--model-id",
            "demo",
            "--threads",
            "1",
            "--set",
            'models.demo.completion_defaults={"temperature":0}',
        ]
        environ = {"INFS_CACHE_PATH": str(tmp_path / "cache")}
        with (
            serve(*options, cwd=tmp_path, environ=environ) as one,
            serve(*options, cwd=tmp_path, environ=environ) as two,
        ):
            answers = await asyncio.gather(
                *(asyncio.to_thread(chat, served, "What is the capital of Italy?") for served in (one, two))
            )
        assert answers == ["The capital of Italy is Rome."] * 2
        assert len(fetched) == 1
    finally:
        files.shutdown()
        thread.join()
        files.server_close()


@pytest.mark.parametrize(
    "content", [b"", b"not a model at all", b"GGUF" + bytes(100), MODEL_FILE.read_bytes()[:500_000]]
)
async def test_a_broken_file_is_a_clear_error_and_the_server_goes_on(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    config = {"models": {"broken": {"file": str(tmp_path / "broken.gguf")}, "demo": {"file": str(MODEL_FILE)}}}
    (tmp_path / "infs.json").write_text(json.dumps(config))
    with serve("infs.json", cwd=tmp_path) as served:
        body = {"model": "broken", "prompt": "x"}
        for _ in range(2):
            answer = await asyncio.to_thread(post, served, "completions", json.dumps(body).encode())
            assert answer.status_code == 500
            assert "broken.gguf" in answer.json()["error"]["message"]
            assert answer.json()["error"]["code"] == "load_failed"
        assert chat(served, "Hello!")


async def test_wild_bytes_never_end_in_a_traceback(served: Served) -> None:
    bodies = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "demo", "prompt": "\xff\xfe"}',
        b'{"model": "demo", "prompt": "\\ud800"}',
        b'{"model": "demo", "messages": [{"role": "user", "content": "\\udfff \\ud83d"}]}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"model": "demo", "prompt": ' + b"9" * 400 + b"}",
    ]
    for path in ("chat/completions", "completions", "embeddings"):
        for body in bodies:
            answer = await asyncio.to_thread(post, served, path, body)
            assert answer.status_code == 400, (path, body[:60], answer.text)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in served.log
    assert chat(served, "Hello!")


def test_a_port_that_is_taken_is_named(served: Served, tmp_path: Path) -> None:
    port = served.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "infs", "serve", "--port", port],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert port in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
