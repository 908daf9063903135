"""One loaded copy of a model, and the places in it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, Protocol

from infs.config import ModelConfig
from infs.engines.base import Engine, EngineSpec, ModelInfo, ModelSetup, RunContext
from infs.pool.affinity import Memory
from infs.types import Event, Progress, Request
from infs.worker.client import WorkerClient

State = Literal["starting", "ready", "closing", "closed"]


class Hosted(Protocol):
    """An engine wherever it lives: in this process or in a worker."""

    @property
    def alive(self) -> bool: ...
    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo: ...
    def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]: ...
    async def ask_status(self) -> dict[str, Any]: ...
    async def close(self) -> None: ...


class InProcess:
    """An engine that needs no process of its own, as `Hosted`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.load = engine.load
        self.run = engine.run
        self.close = engine.close

    @property
    def alive(self) -> bool:
        """It lives as long as this process."""
        return True

    async def ask_status(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self._engine.status()


class Instance:
    """One copy of a model. The pool decides when it starts, who gets its places and when it ends.

    Args:
        number: unique in the pool.
        on_exit: called when its worker has ended, wanted or not.
    """

    def __init__(
        self,
        number: int,
        model: str,
        config: ModelConfig,
        spec: EngineSpec,
        *,
        log: logging.Logger,
        on_exit: Callable[[Instance], None],
    ) -> None:
        self.number = number
        self.model = model
        self.state: State = "starting"
        self.info = ModelInfo(tasks=[])
        self.memory = Memory()
        self.taken = 0
        self.served = 0
        self.idle_timer: asyncio.TimerHandle | None = None
        self._requests = itertools.count(1)
        self.engine: Hosted = (
            InProcess(spec.create()) if spec.in_process else WorkerClient(spec, log=log, on_exit=lambda: on_exit(self))
        )

    @property
    def free(self) -> int:
        """Places that a request can have now."""
        ready = self.state == "ready" and self.engine.alive
        return self.info.max_sequences - self.taken if ready else 0

    def run(self, request: Request[Any]) -> AsyncGenerator[Event]:
        """The events of `request`, for whoever holds a lease."""
        return self.engine.run(request, RunContext(request_id=next(self._requests)))

    async def status(self) -> dict[str, Any]:
        """What there is to know, as plain data."""
        engine = await self.engine.ask_status() if self.state == "ready" else {}
        return {
            "number": self.number,
            "state": self.state,
            "running": self.taken,
            "places": self.info.max_sequences,
            "served": self.served,
            "context_size": self.info.context_size,
            "details": self.info.details,
            "notes": self.info.notes,
            "engine": engine,
        }
