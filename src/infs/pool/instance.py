"""One loaded copy of a model, and the places in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, Protocol

import msgspec

from infs.config import ModelConfig
from infs.engines.base import Engine, EngineSpec, Estimating, MemoryUse, ModelInfo, ModelSetup, RunContext
from infs.engines.checking import checked, status_of
from infs.nesting import inside
from infs.pool.affinity import Memory
from infs.status import InstanceStatus, MemoryNeed, SequenceStatus
from infs.types import Event, Progress, Request
from infs.worker.client import WorkerClient

State = Literal["starting", "ready", "closing", "closed"]


class Hosted(Protocol):
    """An engine wherever it lives: in this process or in a worker."""

    @property
    def alive(self) -> bool: ...
    @property
    def pid(self) -> int | None: ...
    async def estimate(self, setup: ModelSetup) -> MemoryUse | None: ...
    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo: ...
    def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]: ...
    async def ask_status(self) -> dict[str, Any]: ...
    def shrink(self, spare: int) -> None: ...
    async def close(self) -> None: ...


class InProcess:
    """An engine that needs no process of its own, as `Hosted`."""

    pid: int | None = None
    alive = True

    def __init__(self, engine: Engine, model: str, log: logging.Logger) -> None:
        self._engine = engine
        self._model = model
        self._log = log
        self.load = engine.load

    def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        """The engine's events. What it has other models do is done on behalf of the request."""
        return inside(self._model, checked(lambda: self._engine.run(request, context), self._log))

    async def estimate(self, setup: ModelSetup) -> MemoryUse | None:
        """What the engine says; one that holds nothing need not say anything."""
        return await self._engine.estimate(setup) if isinstance(self._engine, Estimating) else None

    async def ask_status(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return status_of(self._engine, self._log)

    def shrink(self, spare: int) -> None:
        """Nothing to be had here: what it takes counts as it is."""

    async def close(self) -> None:
        """End the engine, which may not even have been loaded. Whatever it thinks of that, it is gone."""
        try:
            await self._engine.close()
        except Exception:
            self._log.exception("The engine of %s failed while it was closed", self._model)


class Instance:
    """One copy of a model. The pool decides when it starts, who gets its places and when it ends.

    Args:
        number: unique in the pool.
        on_exit: called when its worker has ended, wanted or not.

    Attributes:
        ready_at, used_at: by the event loop's clock.
        load_seconds: how long loading took.
        retired: takes no more requests, and goes when the last one has ended.
        draining: the same as long as others need its memory.
        alone: who runs in it shares it with nobody.
        holds: what it has reserved, in bytes by device; `spare` is what its caches may take.
    """

    def __init__(
        self,
        number: int,
        model: str,
        config: ModelConfig,
        *,
        log: logging.Logger,
        on_exit: Callable[[Instance], None],
    ) -> None:
        self.number = number
        self.model = model
        self.config = config
        self.state: State = "starting"
        self.info = ModelInfo(tasks=[])
        self.memory = Memory()
        self.taken = 0
        self.served = 0
        self.ready_at = self.used_at = 0.0
        self.load_seconds = 0.0
        self.retired = self.draining = self.alone = False
        self.holds: dict[str, int] = {}
        self.spare = 0
        self.gone = asyncio.Event()
        self.idle_timer: asyncio.TimerHandle | None = None
        self._requests = itertools.count(1)
        self._log = log
        self._on_exit = on_exit
        self._engine: Hosted | None = None

    def host(self, spec: EngineSpec) -> None:
        """Make its engine, or the client of a worker that will.

        Raises:
            MissingExtra: a library is not there.
        """
        self._engine = self._hosted(spec)

    def _hosted(self, spec: EngineSpec) -> Hosted:
        return (
            InProcess(spec.create(), self.model, self._log)
            if spec.in_process
            else WorkerClient(spec, log=self._log, on_exit=lambda: self._on_exit(self))
        )

    @property
    def engine(self) -> Hosted:
        """Its engine; `host` comes first."""
        assert self._engine is not None
        return self._engine

    @property
    def alive(self) -> bool:
        """Whether its engine can be given requests."""
        return self._engine is not None and self._engine.alive

    @property
    def free(self) -> int:
        """Places that a request can have now."""
        open_ = self.state == "ready" and not (self.retired or self.draining or self.alone)
        return self.info.max_sequences - self.taken if open_ and self.alive else 0

    def run(self, request: Request[Any], nonce: int = 0, trail: list[list[int]] | None = None) -> AsyncGenerator[Event]:
        """The events of `request`, for whoever holds a lease; see `RunContext`."""
        context = RunContext(request_id=next(self._requests), nonce=nonce, trail=trail or [])
        return self.engine.run(request, context)

    def stop_timer(self) -> None:
        """It is not idle any more."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    async def close(self) -> None:
        """End its engine."""
        if self._engine is not None:
            await self._engine.close()

    async def status(self, now: float) -> InstanceStatus:
        """What there is to know."""
        engine = dict(await self.engine.ask_status()) if self.state == "ready" else {}
        sequences = _sequences(engine)
        idle = self.state == "ready" and not self.taken
        host, devices = self.holds.get("host", 0), {k: v for k, v in self.holds.items() if k != "host"}
        return InstanceStatus(
            number=self.number,
            pid=self._engine.pid if self._engine is not None else None,
            state=self.state,
            running=self.taken,
            places=self.info.max_sequences,
            served=self.served,
            idle_for=now - self.used_at if idle else None,
            context_size=self.info.context_size,
            details=self.info.details,
            notes=self.info.notes,
            memory=MemoryNeed(host=host, devices=devices, spare=self.spare),
            sequences=sequences,
            engine=engine,
        )


def _sequences(engine: dict[str, Any]) -> list[SequenceStatus]:
    """What an engine works on, taken out of what it says; an engine of one's own may mean something else by it."""
    with contextlib.suppress(msgspec.ValidationError):
        found = msgspec.convert(engine.get("sequences", []), list[SequenceStatus])
        engine.pop("sequences", None)
        return found
    return []
