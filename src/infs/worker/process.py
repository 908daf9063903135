"""The child: one engine, requests from the parent's pipe, events back on another.

The parent's pipes arrive as standard input and output. They are moved away at once, so that whatever a native
library prints goes to standard error, which the parent logs, and never into the frames. When the parent is
gone, so is its pipe, and this process ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

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
from infs.engines.base import Engine, EngineSpec, Estimating, ModelSetup, RunContext, Shrinking, Watched
from infs.engines.checking import checked, status_of
from infs.errors import EngineError, Failure, InfsError, LoadFailed
from infs.types import Progress, Trail
from infs.version import VERSION

PARENT_GONE = 3  # exit status


class Pipe:
    """Frames in from the parent on a thread, frames out from any thread."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()

    def send(self, frame: AnyFrame) -> None:
        """Write `frame`. If nobody reads any more there is nobody to tell: the reader ends the process."""
        data = encode_frame(frame)
        with self._lock:
            try:
                self._sink.write(data)
                self._sink.flush()
            except (BrokenPipeError, OSError, ValueError):
                return

    def read(self) -> AnyFrame | None:
        """The next frame, ``None`` when the parent is gone."""
        header = self._source.read(HEADER)
        if len(header) < HEADER:
            return None
        body = self._source.read(length := frame_length(header))
        return decode_frame(body) if len(body) == length else None

    def start_reading(self, take: Callable[[AnyFrame | None], None]) -> None:
        """Call `take` for each frame, on a thread of its own; ``None`` is the last."""

        def read_all() -> None:
            while (frame := self.read()) is not None:
                take(frame)
            take(None)

        threading.Thread(target=read_all, name="infs-pipe", daemon=True).start()


class Host:
    """Runs one engine for the parent."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._codec = RequestCodec()
        self._engine: Engine | None = None
        self._running: dict[int, asyncio.Task[None]] = {}
        self._inbox: asyncio.Queue[AnyFrame | None] = asyncio.Queue()

    async def serve(self) -> None:
        """Until the parent says `Close`, or is gone."""
        loop = asyncio.get_running_loop()

        def take(frame: AnyFrame | None) -> None:
            loop.call_soon_threadsafe(self._inbox.put_nowait, frame)

        self._pipe.start_reading(take)
        self._pipe.send(Hello(protocol=PROTOCOL, version=VERSION, python=platform.python_version(), pid=os.getpid()))
        loading: asyncio.Task[None] | None = None
        while (frame := await self._inbox.get()) is not None and not isinstance(frame, Close):
            if isinstance(frame, Load):
                work = self._estimate if isinstance(frame, Estimate) else self._load
                loading = asyncio.create_task(work(frame))
            elif isinstance(frame, Run):
                self._start(frame)
            elif isinstance(frame, Cancel) and frame.id in self._running:
                self._running[frame.id].cancel()
            elif isinstance(frame, Shrink) and isinstance(self._engine, Shrinking):
                self._engine.shrink(frame.spare)
            elif isinstance(frame, AskStatus):
                self._send_status(frame)
        if frame is None or (loading is not None and not loading.done()):
            os._exit(PARENT_GONE)  # native code may be busy for minutes, for nobody
        await self._close()

    # --- loading

    async def _estimate(self, frame: Load) -> None:
        try:
            engine = _make_engine(frame)
            use = await engine.estimate(_setup_of(frame)) if isinstance(engine, Estimating) else None
        except InfsError as error:
            self._pipe.send(Failed(id=0, failure=error.to_failure()))
            return
        except Exception:  # not to know how much it takes is no reason not to load it
            logging.getLogger("infs.worker").exception("The memory could not be estimated")
            use = None
        self._pipe.send(Estimated(use=None if use is None else msgspec.to_builtins(use)))

    async def _load(self, frame: Load) -> None:
        try:
            engine = _make_engine(frame)
            info = await engine.load(_setup_of(frame), self._tell_progress)
        except Exception as error:
            self._pipe.send(Failed(id=0, failure=_failure(error, LoadFailed)))
            return
        self._engine = engine
        self._pipe.send(Loaded(info=msgspec.to_builtins(info)))

    def _tell_progress(self, progress: Progress) -> None:
        self._pipe.send(Happened(id=0, events=[self._codec.encode(progress)]))

    # --- running

    def _start(self, frame: Run) -> None:
        task = asyncio.create_task(self._run(frame))
        self._running[frame.id] = task
        task.add_done_callback(lambda _: self._running.pop(frame.id, None))

    async def _run(self, frame: Run) -> None:
        try:
            await self._answer(frame)
        except asyncio.CancelledError:
            failure = Failure(code="cancelled", message="The request was cancelled.")
            self._pipe.send(Failed(id=frame.id, failure=failure))
        except Exception as error:
            self._pipe.send(Failed(id=frame.id, failure=_failure(error, EngineError)))

    async def _answer(self, frame: Run) -> None:
        if (engine := self._engine) is None:
            raise EngineError("The worker has no model loaded.")
        request = self._codec.decode_request(frame.body)
        context = RunContext(request_id=frame.id, nonce=frame.nonce, trail=frame.trail)
        events = checked(lambda: engine.run(request, context), logging.getLogger("infs.worker"))
        held: list[msgspec.Raw] = []  # a trail goes with the event that follows it
        async with aclosing(events):
            async for event in events:
                held.append(self._codec.encode(event))
                if not isinstance(event, Trail):
                    self._pipe.send(Happened(id=frame.id, events=held))
                    held = []

    def _send_status(self, frame: AskStatus) -> None:
        engine = self._engine
        data = status_of(engine, logging.getLogger("infs.worker")) if engine is not None else {}
        stalled = engine.stalled() if isinstance(engine, Watched) else 0.0
        self._pipe.send(Status(id=frame.id, data=data, stalled=stalled))

    # --- leaving

    async def _close(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()


def _make_engine(frame: Load) -> Engine:
    return EngineSpec(name=frame.engine, factory=frame.factory).create()


def _setup_of(frame: Load) -> ModelSetup:
    path = Path(frame.path) if frame.path is not None else None
    cache = Path(frame.cache) if frame.cache is not None else None
    return ModelSetup(model=frame.model, path=path, config=frame.config, cache=cache, spare=frame.spare)


def _failure(error: Exception, kind: type[InfsError]) -> Failure:
    if isinstance(error, InfsError):
        return error.to_failure()
    logging.getLogger("infs.worker").exception("The engine raised something unexpected")
    return kind(f"The engine raised {type(error).__name__}: {error}").to_failure()


class LevelFormatter(logging.Formatter):
    """Every line starts with the letter of its level, by which the parent logs it."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{record.levelname[0]} {line}" for line in super().format(record).splitlines())


def take_streams() -> Pipe:
    """The pipes to the parent; from now on, prints of any library go to standard error."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(source, os.O_BINARY)
        msvcrt.setmode(sink, os.O_BINARY)
    return Pipe(os.fdopen(source, "rb"), os.fdopen(sink, "wb"))


def main() -> None:
    """Serve the parent on the standard streams."""
    pipe = take_streams()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LevelFormatter())
    logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    asyncio.run(Host(pipe).serve())
    os._exit(0)  # no native destructor may hold up the end
