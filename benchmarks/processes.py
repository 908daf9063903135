"""Servers as processes of their own, and a client that costs little: both sides share the cores with it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

PATIENCE = 120.0  # seconds for a start or an answer, after which the run has failed
HOST = "127.0.0.1"
INFS = (sys.executable, "-c", "from infs.cli import main; main()", "serve", "--host", HOST)
PEER = (sys.executable, "-m", "llama_cpp.server", "--host", HOST)


@dataclass(frozen=True)
class Served:
    """A server that is up: its process, its port, and the seconds until it first answered."""

    process: subprocess.Popen[bytes]
    port: int
    startup: float


def resident(process: psutil.Process) -> int:
    """Bytes of `process` that are in memory."""
    size: int = process.memory_info().rss
    return size


@contextmanager
def served(command: Sequence[str], health: str) -> Iterator[Served]:
    """Run `command` with a free port until the block is left; it is up when `health` answers."""
    port = _free_port()
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(process, f"http://{HOST}:{port}{health}", started)
            yield Served(process, port, time.perf_counter() - started)
        except Exception as error:
            output.seek(0)
            error.add_note(f"The server said: {output.read().decode(errors='replace')[-2000:]}")
            raise
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_up(process: subprocess.Popen[bytes], url: str, started: float) -> None:
    while time.perf_counter() - started < PATIENCE:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with status {process.returncode} before it answered.")
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.01)
    raise TimeoutError(f"{url} did not answer within {PATIENCE:.0f} s.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def streams_time(port: int, bodies: Sequence[Mapping[str, Any]]) -> float:
    """Seconds until all of `bodies`, completions sent at once, were streamed to their ends."""

    async def all_of_them() -> float:
        started = time.perf_counter()
        async with asyncio.timeout(PATIENCE * 5):
            await asyncio.gather(*(_stream(port, body) for body in bodies))
        return time.perf_counter() - started

    return asyncio.run(all_of_them())


async def _stream(port: int, body: Mapping[str, Any]) -> None:
    """Read one stream; it must end because of its length, or the sides did not do the same work."""
    data = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(head.encode() + data)
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    if b"[DONE]" not in answer or b'"length"' not in answer:
        raise RuntimeError(f"The stream did not come to its full length: {answer[-500:].decode(errors='replace')}")
