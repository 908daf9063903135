"""Runs the command as its users do: in a process of its own, in an empty folder."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PATIENCE = 60.0  # seconds until a test gives up on what it waits for

# Windows has only Ctrl+Break to send.
INTERRUPT: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
OWN_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # so that it is for one process alone
STOP: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)


def command(*args: str) -> list[str]:
    """The command line of ``infs ARGS``."""
    return [sys.executable, "-m", "infs", *args]


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests, and with `variables`."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("INFS_")}
    return clean | variables


def run(
    *args: str, cwd: Path, input: str | bytes = b"", env: dict[str, str] | None = None, program: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``infs ARGS`` from its start to its end; `program` stands in for the command."""
    done = subprocess.run(
        [*program, *args] if program else command(*args),
        cwd=cwd,
        input=input.encode() if isinstance(input, str) else input,
        env=env or environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, _text(done.stdout), _text(done.stderr))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def one_line(stderr: str) -> str:
    """The one line that is all of standard error."""
    (line,) = stderr.splitlines()
    return line


class Lines:
    """The lines of a stream, read on a thread so that nothing blocks."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.all: list[str] = []
        self._ended = False
        self._stream = stream
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self._news.put(_text(line).rstrip("\n"))
        self._news.put(None)

    def _take(self, timeout: float) -> str | None:
        line = None if self._ended else self._news.get(timeout=timeout)
        if line is None:
            self._ended = True
        else:
            self.all.append(line)
        return line

    def until(self, part: str) -> str:
        """The next line that holds `part`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self._take(max(0.1, deadline - time.monotonic()))
            assert line is not None, f"no line with {part!r} among {self.all}"
            if part in line:
                return line

    def rest(self) -> list[str]:
        """All lines, once the stream has ended."""
        while not self._ended:
            self._take(PATIENCE)
        self._thread.join(PATIENCE)
        return self.all


class Program:
    """A process that goes on running."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.out = Lines(process.stdout)
        self.err = Lines(process.stderr)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(INTERRUPT)

    def stop(self) -> None:
        """What a service manager sends."""
        self.process.send_signal(STOP)

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(PATIENCE)


@contextmanager
def running(*args: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Program]:
    """``infs ARGS`` while it runs; killed in the end if it still does."""
    process = subprocess.Popen(
        command(*args),
        cwd=cwd,
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        creationflags=OWN_GROUP,
    )
    with process:
        program = Program(process)
        try:
            yield program
        finally:
            if process.poll() is None:
                process.kill()
            program.out.rest()
            program.err.rest()


@contextmanager
def serving(*args: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[tuple[Program, str]]:
    """``infs serve ARGS`` on a free port, once its banner is there; gives its URL too."""
    with running("serve", "--port", "0", *args, cwd=cwd, env=env) as program:
        url = program.out.until("  Status ").split()[-1].rstrip("/")
        yield program, url
