"""``infs chat``: in a terminal (a pseudo-terminal) and without one."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.programs import PATIENCE, command, environment, one_line, run

FRANCE = "The capital of France is Paris."
SPAIN = "The capital of Spain is Madrid."


# --- without a terminal


def test_lines_in_answers_out(tmp_path: Path) -> None:
    lines = "What is the capital of France?\n\n  What is the capital of Spain?  \n/exit\nnever read\n"
    done = run("chat", cwd=tmp_path, input=lines)
    assert (done.returncode, done.stdout) == (0, f"{FRANCE}\n{SPAIN}\n")


def test_end_of_input_ends_it(tmp_path: Path) -> None:
    done = run("chat", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


def test_history_is_kept_until_reset(tmp_path: Path) -> None:
    lines = "My name is Tom.\nWhat is my name?\n/reset\nWhat is my name?\n"
    told, asked, forgot = run("chat", cwd=tmp_path, input=lines).stdout.splitlines()
    assert told
    assert "Tom" in asked
    assert "Tom" not in forgot


def test_system_starts_anew(tmp_path: Path) -> None:
    lines = "My name is Tom.\n/system Be brief.\nWhat is my name?\n/system\n"
    done = run("chat", cwd=tmp_path, input=lines)
    assert "Tom" not in done.stdout.splitlines()[1]
    assert "The model is told that first; the conversation starts anew." in done.stderr
    assert "The model is told nothing first; the conversation starts anew." in done.stderr


def test_commands_that_are_none_and_help(tmp_path: Path) -> None:
    done = run("chat", cwd=tmp_path, input="/what\n/help\n")
    assert done.stdout == ""
    assert "There is no /what; /help shows what there is." in done.stderr
    assert "/reset           forget the conversation" in done.stderr


def test_too_long_a_line_is_refused_and_the_chat_goes_on(tmp_path: Path) -> None:
    done = run("chat", cwd=tmp_path, input="word " * 5000 + "\nWhat is the capital of France?\n")
    assert (done.returncode, done.stdout) == (0, f"{FRANCE}\n")
    assert "1024" in done.stderr


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    env = environment(PYTHONIOENCODING="utf-8:strict")
    done = run("chat", cwd=tmp_path, input=b"\xff\xfe\n/exit\n", env=env)
    assert done.returncode == 0
    assert "not valid text" in done.stderr


def test_settings_of_the_answers(tmp_path: Path) -> None:
    done = run("chat", "--max-tokens", "1", cwd=tmp_path, input="What is the capital of France?\n")
    assert done.stdout == "The\n"


def test_model_that_cannot_be_loaded_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing " * 100)
    done = run("chat", "x.gguf", cwd=tmp_path, input="Hello!\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is no GGUF file" in one_line(done.stderr)


# --- in a terminal


# A terminal sends Ctrl-C to the session that it controls.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """The other side of a pseudo-terminal: what is shown, and keys."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self._process = process
        self._shown = ""
        self._seen = 0

    def type(self, keys: str) -> None:
        """Press `keys`."""
        os.write(self._descriptor, keys.encode())

    def until(self, pattern: str) -> str:
        """What was shown since the last call, up to the end of `pattern`."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.compile(pattern).search(self._shown, self._seen)) is None:
            assert time.monotonic() < deadline, self._shown[self._seen :]
            assert self._read(0.2), f"it ended after {self._shown[self._seen :]!r}"
        text, self._seen = self._shown[self._seen : found.end()], found.end()
        return text

    def interrupt(self, pattern: str | None = None) -> str:
        """Press Ctrl-C until `pattern` shows, or (without one) until it ends; what was shown.

        Between showing its prompt and waiting for keys, readline misses a signal until the next one comes: a person
        presses again then.
        """
        for _ in range(10):
            self.type("\x03")
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if pattern is not None and re.compile(pattern).search(self._shown, self._seen):
                    return self.until(pattern)
                if not self._read(0.1) and pattern is None:
                    return self._shown[self._seen :]
        self._process.send_signal(signal.SIGABRT)  # says where each of its threads is
        while self._read(2) and self._process.poll() is None:
            pass
        raise AssertionError(f"Ctrl-C did nothing; shown was:\n{self._shown[self._seen :]}")

    def _read(self, timeout: float) -> bool:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so at the end
            return False
        self._shown += data.decode("utf-8", "replace")
        return bool(data)

    def status(self) -> int:
        """The exit status, once it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.2):
            assert time.monotonic() < deadline, self._shown[self._seen :]
        return self._process.wait(PATIENCE)


@contextmanager
def in_terminal(*args: str, cwd: Path) -> Iterator[Terminal]:
    """``infs chat ARGS`` in a terminal, at its first prompt."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, *command("chat", *args)],
        cwd=cwd,
        env=environment(TERM="xterm-256color", PYTHONFAULTHANDLER="1"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with process:
        try:
            terminal = Terminal(ours, process)
            assert "chatting with demo" in terminal.until(PROMPT)
            yield terminal
        finally:
            process.kill()
            os.close(ours)


PROMPT = r"\n> "
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals in its standard library")


@posix
def test_terminal_answers_and_leaves(tmp_path: Path) -> None:
    with in_terminal(cwd=tmp_path) as terminal:
        terminal.type("My name is Tom.\r")
        terminal.until(PROMPT)
        terminal.type("What is my name?\r")
        assert "Tom" in terminal.until(PROMPT).partition("name?")[2]
        terminal.type("/exit\r")
        assert terminal.status() == 0


@posix
def test_control_d_leaves(tmp_path: Path) -> None:
    with in_terminal(cwd=tmp_path) as terminal:
        terminal.type("\x04")
        assert terminal.status() == 0


@posix
def test_control_c_twice_leaves(tmp_path: Path) -> None:
    with in_terminal(cwd=tmp_path) as terminal:
        terminal.type("half a line")
        terminal.until("half a line")
        assert "Ctrl-C once more" in terminal.interrupt(PROMPT)
        terminal.interrupt()
        assert terminal.status() == 0


@posix
def test_control_c_stops_an_answer_then_leaves(tmp_path: Path) -> None:
    endless = '{"ignore_eos": true, "context_overflow": "shift"}'
    args = ("--set", f"models.demo.completion_defaults={endless}", "--max-tokens", "100000000")
    with in_terminal(*args, cwd=tmp_path) as terminal:
        terminal.type("Tell me a story.\r")
        terminal.until(r"story\.\s+.*\w{3,}")
        terminal.interrupt(PROMPT)
        terminal.type("/help\r")
        assert "/reset" in terminal.until(PROMPT)
        terminal.interrupt("once more")
        terminal.until(PROMPT)
        terminal.type("Tell me a story.\r")
        terminal.until(r"story\.\s+.*\w{3,}")
        terminal.interrupt(PROMPT)
        terminal.interrupt()
        assert terminal.status() == 0
