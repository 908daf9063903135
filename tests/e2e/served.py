"""A real `infs serve` process, and what can be asked about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

READY = re.compile(r"Listening on (http://[\d.]+:\d+)")
PATIENCE = 60.0  # seconds


class Served:
    """A server process on a free port. Its output is in `log`."""

    def __init__(self, *arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> None:
        self._file = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed in `end`
        clean = {key: value for key, value in os.environ.items() if not key.startswith("INFS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infs", "serve", "--port", "0", *arguments],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**clean, **(environ or {})},
        )
        self.url = self._wait_for_url()

    @property
    def log(self) -> str:
        """All that it printed."""
        return Path(self._file.name).read_text(errors="replace")

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := READY.search(self.log):
                return found.group(1)
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"The server did not start:\n{self.log}")

    def status(self) -> dict[str, Any]:
        """The status page."""
        found: dict[str, Any] = httpx.get(self.url, headers={"Accept": "application/json"}, timeout=30).json()
        return found

    def engine(self, model: str = "demo") -> dict[str, Any]:
        """The counters of the model's only instance; empty when it is not loaded."""
        instances = self.status()["models"][model]["instances"]
        engine: dict[str, Any] = instances[0]["engine"] if instances else {}
        return engine

    def workers(self) -> list[psutil.Process]:
        """The processes that host engines."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.process.pid).children() if child.is_running()]
        return []

    def stop(self) -> int:
        """SIGTERM (or its like), and the exit status."""
        if sys.platform == "win32":
            self.process.terminate()
        else:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Whatever it takes."""
        workers = self.workers()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.wait(PATIENCE)
        self._file.close()


@contextlib.contextmanager
def serve(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> Iterator[Served]:
    """A server for as long as the block runs."""
    served = Served(*arguments, cwd=cwd, environ=environ)
    try:
        yield served
    finally:
        served.end()


async def until(condition: Any, seconds: float = PATIENCE) -> None:
    """Wait until `condition()` holds, asked in a thread."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - what is waited for is anything
            await asyncio.sleep(0.02)
