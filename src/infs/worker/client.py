"""A worker process, seen from the parent: an `Engine` that happens to live elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from infs.codec import (
    HEADER,
    PROTOCOL,
    AnyFrame,
    AskStatus,
    Cancel,
    Close,
    Failed,
    Happened,
    Hello,
    Load,
    Loaded,
    RequestCodec,
    Run,
    Status,
    decode_frame,
    encode_frame,
    frame_length,
)
from infs.engines.base import EngineSpec, ModelInfo, ModelSetup, RunContext
from infs.errors import EngineError, InfsError, LoadFailed, WorkerDied
from infs.types import Event, Progress, Request, Result
from infs.version import VERSION

HELLO_TIMEOUT = 60.0  # seconds for the interpreter to start
CLOSE_TIMEOUT = 5.0  # seconds for each of: a clean stop, terminate
LEVELS = {"D": logging.DEBUG, "I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "C": logging.CRITICAL}
LINE_LIMIT = 1 << 20  # bytes of the longest line of a log


class WorkerClient:
    """Starts a worker and speaks to it. All methods belong to one event loop.

    Args:
        on_exit: called when the process has ended, however it did.
    """

    def __init__(self, spec: EngineSpec, *, log: logging.Logger, on_exit: Callable[[], None] = lambda: None) -> None:
        self._spec = spec
        self._log = log
        self._on_exit = on_exit
        self._codec = RequestCodec()
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, asyncio.Queue[Event | InfsError]] = {}
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._progress: Callable[[Progress], None] = lambda progress: None
        self._loaded: asyncio.Future[ModelInfo] | None = None
        self._last_lines: deque[str] = deque(maxlen=4)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._dead: WorkerDied | None = None
        self._model = ""

    @property
    def pid(self) -> int | None:
        """The process's number, once it is started."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._process is not None and self._dead is None and not self._closing

    # --- the engine's methods

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        self._model = setup.model
        self._progress = progress
        self._spec.check_installed()
        factory = self._spec.factory
        if not isinstance(factory, str):
            raise LoadFailed(f"The engine {self._spec.name!r} is a Python object; it can only run in process.")
        self._loaded = asyncio.get_running_loop().create_future()
        await self._spawn()
        path = str(setup.path) if setup.path is not None else None
        cache = str(setup.cache) if setup.cache is not None else None
        frame = Load(
            model=setup.model, engine=self._spec.name, factory=factory, path=path, config=setup.config, cache=cache
        )
        try:
            await self._send(frame)
            return await self._loaded
        except BaseException:
            await self.close()
            raise

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        number = next(self._numbers)
        inbox: asyncio.Queue[Event | InfsError] = asyncio.Queue()
        self._inboxes[number] = inbox
        ended = False
        try:
            await self._send(Run(id=number, body=self._codec.encode(request)))
            while not ended:
                item = await inbox.get()
                ended = isinstance(item, InfsError | Result)
                if isinstance(item, InfsError):
                    raise item
                yield item
        finally:
            del self._inboxes[number]
            if not ended:
                self._cancel(number)

    def status(self) -> dict[str, Any]:
        return {"pid": self.pid}

    async def ask_status(self, timeout: float = 1.0) -> dict[str, Any]:
        """What the engine in the process says of itself; without an answer in time, only what is known here."""
        if not self.alive:
            return self.status()
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(AskStatus(id=number))
            return {**self.status(), **await asyncio.wait_for(answer, timeout)}
        except (TimeoutError, WorkerDied):
            return self.status()
        finally:
            del self._answers[number]

    async def close(self) -> None:
        """Ask for a clean stop, then terminate, then kill. Nothing of the process is left afterwards."""
        self._closing = True
        if self._process is None:
            return
        if self._dead is None:
            with contextlib.suppress(WorkerDied):
                await self._send(Close(), also_closing=True)
        for push in (None, self._process.terminate, self._process.kill):
            if push is not None:
                with contextlib.suppress(ProcessLookupError):
                    push()
            if await self._ended(CLOSE_TIMEOUT):
                break
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- the process

    async def _spawn(self) -> None:
        # A group of its own: Ctrl-C in a terminal is for the parent, which lets running requests finish.
        own_group: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined,unused-ignore]
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "infs.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            env={**self._spec.environment, **os.environ, "PYTHONUNBUFFERED": "1"},
            **own_group,
        )
        self._tasks = [asyncio.create_task(self._read_log()), asyncio.create_task(self._read_frames())]

    async def _ended(self, timeout: float) -> bool:
        assert self._process is not None
        try:
            await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the limit: what was read of it is dropped
                continue
            if not line:
                return
            self._log_line(line.decode("utf-8", "replace").rstrip())

    def _log_line(self, line: str) -> None:
        """Our own lines start with the letter of their level; what a library prints has none."""
        level = LEVELS.get(line[:1]) if line[1:2] == " " else None
        text = line if level is None else line[2:]
        if level is None or level >= logging.WARNING:
            self._last_lines.append(text)
        self._log.log(logging.DEBUG if level is None else level, "[%s %s] %s", self._model, self.pid, text)

    # --- frames

    async def _send(self, frame: AnyFrame, *, also_closing: bool = False) -> None:
        if self._dead is not None:
            raise self._dead
        if self._process is None or self._process.stdin is None or (self._closing and not also_closing):
            raise WorkerDied(f"The worker of {self._model!r} is not running.")
        try:
            self._process.stdin.write(encode_frame(frame))
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise self._dead or WorkerDied(f"The worker of {self._model!r} does not take requests.") from error

    def _cancel(self, number: int) -> None:
        """Sent without waiting: this runs while somebody's own cancellation is under way."""
        if self.alive and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(encode_frame(Cancel(id=number)))

    async def _read_frames(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout
        why = ""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                self._check_hello(await _read_frame(stream))
            while True:
                self._take(await _read_frame(stream))
        except asyncio.IncompleteReadError:
            pass
        except (TimeoutError, ValueError, msgspec.DecodeError, EngineError) as error:
            why = str(error) or "It said nothing for too long."
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._bury(why)

    def _check_hello(self, frame: AnyFrame) -> None:
        if not isinstance(frame, Hello) or (frame.protocol, frame.version) != (PROTOCOL, VERSION):
            raise EngineError(f"It is not of this version ({VERSION}): {frame!r}")

    def _take(self, frame: AnyFrame) -> None:
        if isinstance(frame, Happened):
            for body in frame.events:
                self._happened(frame.id, self._codec.decode_event(body))
        elif isinstance(frame, Failed):
            self._failed(frame)
        elif isinstance(frame, Loaded):
            self._set_loaded(msgspec.convert(frame.info, ModelInfo))
        elif isinstance(frame, Status) and frame.id in self._answers and not self._answers[frame.id].done():
            self._answers[frame.id].set_result(frame.data)

    def _happened(self, number: int, event: Event) -> None:
        if number in self._inboxes:
            self._inboxes[number].put_nowait(event)
        elif number == 0 and isinstance(event, Progress):
            self._progress(event)

    def _failed(self, frame: Failed) -> None:
        error = InfsError.from_failure(frame.failure)
        if frame.id == 0:
            self._set_loaded(error)
        elif frame.id in self._inboxes:
            self._inboxes[frame.id].put_nowait(error)

    def _set_loaded(self, outcome: ModelInfo | InfsError) -> None:
        if self._loaded is None or self._loaded.done():
            return
        if isinstance(outcome, InfsError):
            self._loaded.set_exception(outcome)
        else:
            self._loaded.set_result(outcome)

    def _bury(self, why: str) -> None:
        """The process is gone: everybody who waits for it hears so."""
        assert self._process is not None
        how = _exit_text(self._process.returncode)
        said = " ".join(self._last_lines)
        details = " ".join(
            part for part in (why, f"Its last words: {said}" if said and not self._closing else "") if part
        )
        self._dead = WorkerDied(f"The worker process of {self._model!r} {how}. {details}".strip(), retry_after=1.0)
        self._set_loaded(
            LoadFailed(f"{self._model!r} could not be loaded: its worker process {how}. {details}".strip())
        )
        for inbox in self._inboxes.values():
            inbox.put_nowait(self._dead)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._dead)
        if not self._closing:
            self._log.error("%s", self._dead)
        self._on_exit()


async def _read_frame(stream: asyncio.StreamReader) -> AnyFrame:
    length = frame_length(await stream.readexactly(HEADER))
    return decode_frame(await stream.readexactly(length))


def _exit_text(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by signal {-status}"
    return f"ended with status {status}"
