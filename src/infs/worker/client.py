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
    Estimate,
    Estimated,
    Failed,
    Happened,
    Hello,
    Load,
    Loaded,
    RequestCodec,
    Run,
    Shrink,
    Status,
    decode_frame,
    encode_frame,
    frame_length,
)
from infs.engines.base import EngineSpec, MemoryUse, ModelInfo, ModelSetup, RunContext
from infs.errors import EngineError, InfsError, LoadFailed, LoadInterrupted, WorkerDied, WorkerGone
from infs.types import Event, Progress, Request, Result
from infs.version import VERSION

HELLO_TIMEOUT = 60.0  # seconds for the interpreter to start
CLOSE_TIMEOUT = 5.0  # seconds for each of: a clean stop, terminate
WATCHED_EVERY = 5.0  # seconds between two looks at a process that works, at most
KILLED = (-9, -15)  # exit statuses of what was killed from outside, on POSIX
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
        self._answers: dict[int, asyncio.Future[Status]] = {}
        self._progress: Callable[[Progress], None] = lambda progress: None
        self._prepared: asyncio.Future[MemoryUse | ModelInfo | None] | None = None
        self._last_lines: deque[str] = deque(maxlen=4)
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False
        self._dead: WorkerDied | None = None
        self._broken = False
        self._hung = ""
        self._model = ""

    @property
    def pid(self) -> int | None:
        """The process's number, once it is started."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._process is not None and self._dead is None and not (self._closing or self._broken)

    # --- the engine's methods

    async def estimate(self, setup: ModelSetup) -> MemoryUse | None:
        """What `load` would take; ``None`` if the engine cannot tell. The process is started for this, and stays."""
        use = await self._prepare(setup, Estimate)
        return use if isinstance(use, MemoryUse) else None

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        self._progress = progress
        info = await self._prepare(setup, Load)
        assert isinstance(info, ModelInfo)
        self._watcher = asyncio.create_task(self._watch(setup.config.hang_timeout))
        return info

    async def _prepare(self, setup: ModelSetup, kind: type[Load]) -> MemoryUse | ModelInfo | None:
        """Have the process do the work of a `kind` of frame, and start it first if need be."""
        self._model = setup.model
        self._spec.check_installed()
        factory = self._spec.factory
        if not isinstance(factory, str):
            raise LoadFailed(f"The engine {self._spec.name!r} is a Python object; it can only run in process.")
        frame = kind(
            model=setup.model,
            engine=self._spec.name,
            factory=factory,
            path=str(setup.path) if setup.path is not None else None,
            config=setup.config,
            cache=str(setup.cache) if setup.cache is not None else None,
            spare=setup.spare,
        )
        self._prepared = asyncio.get_running_loop().create_future()
        try:
            if self._process is None:
                await self._spawn()
            await self._send(frame)
            return await self._prepared
        except BaseException:
            await self.close()
            raise

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        if not self.alive:
            raise WorkerGone(f"The worker of {self._model!r} has ended.", retry_after=1.0)
        number = next(self._numbers)
        inbox: asyncio.Queue[Event | InfsError] = asyncio.Queue()
        self._inboxes[number] = inbox
        ended = False
        try:
            body = self._codec.encode(request)
            await self._send(Run(id=number, body=body, nonce=context.nonce, trail=context.trail))
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
        answer = await self._ask(timeout) if self.alive else None
        return self.status() if answer is None else {**self.status(), **answer.data}

    async def _ask(self, timeout: float) -> Status | None:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(AskStatus(id=number))
            return await asyncio.wait_for(answer, timeout)
        except (TimeoutError, WorkerDied):
            return None
        finally:
            del self._answers[number]

    async def _watch(self, limit: float) -> None:
        """End the process when one of its steps takes longer than `limit` seconds, or it does not even say so."""
        while self.alive:
            await asyncio.sleep(min(limit / 2, WATCHED_EVERY))
            if not (self._inboxes and self.alive):
                continue
            answer = await self._ask(limit)
            hung = "does not answer" if answer is None else f"has been in one step for {answer.stalled:.0f} seconds"
            if self.alive and (answer is None or answer.stalled > limit):
                self._log.error("The worker %s of %s %s: it is ended.", self.pid, self._model, hung)
                self._hung = f"It {hung}, and hang_timeout is {limit:g} seconds."
                self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

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
            raise WorkerGone(f"The worker of {self._model!r} is not running.")
        try:
            self._process.stdin.write(encode_frame(frame))
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            self._broken = True  # it has ended, which we shall hear in a moment
            raise self._dead or WorkerGone(f"The worker of {self._model!r} does not take requests.") from error

    def _cancel(self, number: int) -> None:
        """Sent without waiting: this runs while somebody's own cancellation is under way."""
        self._post(Cancel(id=number))

    def shrink(self, spare: int) -> None:
        """Have the engine's caches take `spare` bytes of main memory at most."""
        self._post(Shrink(spare=spare))

    def _post(self, frame: AnyFrame) -> None:
        if self.alive and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(encode_frame(frame))

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
            self._set_prepared(msgspec.convert(frame.info, ModelInfo))
        elif isinstance(frame, Status) and frame.id in self._answers and not self._answers[frame.id].done():
            self._answers[frame.id].set_result(frame)
        elif isinstance(frame, Estimated):
            self._set_prepared(None if frame.use is None else msgspec.convert(frame.use, MemoryUse))

    def _happened(self, number: int, event: Event) -> None:
        if number in self._inboxes:
            self._inboxes[number].put_nowait(event)
        elif number == 0 and isinstance(event, Progress):
            self._progress(event)

    def _failed(self, frame: Failed) -> None:
        error = InfsError.from_failure(frame.failure)
        if frame.id == 0:
            self._set_prepared(error)
        elif frame.id in self._inboxes:
            self._inboxes[frame.id].put_nowait(error)

    def _set_prepared(self, outcome: MemoryUse | ModelInfo | InfsError | None) -> None:
        if self._prepared is None or self._prepared.done():
            return
        if isinstance(outcome, InfsError):
            self._prepared.set_exception(outcome)
        else:
            self._prepared.set_result(outcome)

    def _bury(self, why: str) -> None:
        """The process is gone: everybody who waits for it hears so."""
        assert self._process is not None
        how = _exit_text(self._process.returncode)
        said = " ".join(self._last_lines)
        if self._watcher is not None:
            self._watcher.cancel()
        details = " ".join(
            part
            for part in (why or self._hung, f"Its last words: {said}" if said and not self._closing else "")
            if part
        )
        self._dead = WorkerDied(f"The worker process of {self._model!r} {how}. {details}".strip(), retry_after=1.0)
        interrupted = LoadInterrupted(
            f"{self._model!r} could not be loaded: its worker process {how}. {details}".strip()
        )
        interrupted.killed = self._process.returncode in KILLED
        self._set_prepared(interrupted)
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
