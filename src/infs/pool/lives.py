"""The lives of instances: from the files of a model over its memory to a loaded engine, and to their end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from infs.config import ModelConfig
from infs.engines.base import EngineSpec, MemoryUse, ModelSetup
from infs.errors import InfsError, LoadFailed, LoadInterrupted, WorkerDied
from infs.nesting import NestedRunner
from infs.pool.instance import Instance
from infs.pool.ledger import Ledger
from infs.pool.model import ModelPool
from infs.pool.room import NoRoom, Room
from infs.pool.sizing import without_estimate
from infs.runner import Runner
from infs.store import with_extras
from infs.types import Progress

RESTART_DELAY = 1.0  # seconds before an instance that is always wanted is started again
MOST_INTERRUPTED = 3  # processes in a row that may die while they load a model, before that is the model's fault
MOST_KILLED = 10  # the same where somebody else killed them
RETRY_EXTRA = 5.0  # seconds before another instance is tried for which there was no room


class Fetched(Protocol):
    """The files of a model, on this machine."""

    @property
    def path(self) -> Path | None: ...
    @property
    def engine(self) -> str: ...
    @property
    def extras(self) -> Mapping[str, Path]: ...


class Files(Protocol):
    """Where the files of models come from: the store."""

    async def fetch(self, model: str, config: ModelConfig, progress: Callable[[Progress], None]) -> Fetched | None:
        """The verified files, or ``None`` for a model without any."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What instances are made with.

    Attributes:
        files: the store.
        engines: finds an engine by its name.
        runner: runs the requests of engines in this process that combine models.
        cache: folder in which engines may keep what can be made again.
    """

    files: Files
    engines: Callable[[str], EngineSpec]
    runner: Runner | None
    cache: Path | None
    log: logging.Logger


class Lives:
    """Starts and ends instances.

    Args:
        changed: called whenever there is something to be decided anew.

    Attributes:
        left: models that are not in the configuration any more, as long as instances of them are there.
    """

    def __init__(
        self, models: Mapping[str, ModelPool], ledger: Ledger, around: Surroundings, changed: Callable[[], None]
    ) -> None:
        self._models = models
        self._around = around
        self._log = around.log
        self._changed = changed
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False
        self.left: list[ModelPool] = []
        self.room = Room(ledger, self._all, evict=self._evict, changed=changed, log=self._log)

    # --- beginnings

    def start(self, model: ModelPool) -> None:
        """Another instance of `model`."""
        instance = Instance(
            next(self._numbers), model.name, model.config, log=self._log, on_exit=lambda i: self._exited(model, i)
        )
        model.instances.append(instance)
        task = self._spawn(self._load(model, instance))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load(self, model: ModelPool, instance: Instance) -> None:
        try:
            await self._prepare(model, instance)
        except NoRoom:
            model.no_room_until = asyncio.get_running_loop().time() + RETRY_EXTRA
            await self._drop(model, instance)
            self._changed()
        except Exception as error:
            await self._drop(model, instance)
            self._load_failed(model, error)
        else:
            if instance.state == "starting":  # not closed meanwhile
                instance.state = "ready"
                instance.ready_at = instance.used_at = asyncio.get_running_loop().time()
                model.last_error, model.interrupted = None, 0
                self._changed()
                model.tell(Progress(stage="queue", done=0, unit="requests"))

    async def _prepare(self, model: ModelPool, instance: Instance) -> None:
        """Files, engine, memory, and then the weights."""
        around, config = self._around, instance.config
        fetched = await around.files.fetch(model.name, config, model.tell)
        spec = model.spec
        if spec is None:
            assert fetched is not None, "without files, the configuration names the engine"
            spec = around.engines(fetched.engine)
            spec.check_model(model.name, config)
            if config is model.config:  # not changed meanwhile
                model.spec = spec
        instance.host(spec)
        setup = ModelSetup(
            model=model.name,
            path=fetched.path if fetched is not None else None,
            config=with_extras(config, fetched.extras) if fetched is not None else config,
            cache=around.cache,
            runner=NestedRunner(around.runner, model.name) if spec.in_process and around.runner is not None else None,
        )
        if model.use is not None and not spec.in_process:
            await self.room.enter(model, instance, model.use)  # no process waits for memory that it knows the size of
        begin = time.monotonic()
        model.tell(Progress(stage="load", done=0, total=100, unit="percent"))
        use = await self._estimate(instance, setup, spec)
        spent = time.monotonic() - begin
        if use is not None:
            self.room.ledger.learn(use.machine)
            model.use = use
            await self.room.enter(model, instance, use)
            self.room.ledger.lives_in(instance.number, instance.engine.pid)
            setup = msgspec.structs.replace(setup, spare=instance.spare)
        begin = time.monotonic()
        instance.info = await instance.engine.load(setup, model.tell)
        instance.load_seconds = spent + time.monotonic() - begin  # without the time for which it waited for memory
        model.counters.loads += 1
        model.counters.load_seconds += instance.load_seconds
        self._log.info("Loaded %s in %.1f s", model.name, instance.load_seconds)

    async def _estimate(self, instance: Instance, setup: ModelSetup, spec: EngineSpec) -> MemoryUse | None:
        use = await instance.engine.estimate(setup)
        if use is None and not spec.in_process:
            use = await asyncio.to_thread(without_estimate, setup.path)
        return use

    def _load_failed(self, model: ModelPool, error: Exception) -> None:
        most = MOST_KILLED if getattr(error, "killed", False) else MOST_INTERRUPTED
        died = isinstance(error, LoadInterrupted | WorkerDied)  # the latter while it waited for memory
        if died and model.interrupted < most:
            model.interrupted += 1
            model.counters.deaths += 1
            self._log.warning("%s It is tried again.", error)
            self._changed()
            return
        model.interrupted = 0
        if not isinstance(error, InfsError):
            self._log.exception("Loading %s failed", model.name, exc_info=error)
            error = LoadFailed(f"{model.name!r} could not be loaded: {type(error).__name__}: {error}")
        self.refuse(model, error)
        self._changed()

    def refuse(self, model: ModelPool, error: InfsError) -> None:
        """Nobody who waits can be served unless another instance is there or on its way."""
        model.last_error = error.message
        self._log.error("%s", error)
        if model.ready or model.starting:
            return
        for waiter in model.waiters.clear():
            waiter.refuse(InfsError.from_failure(error.to_failure()))

    def keep_minimum(self) -> None:
        """Start what `min_instances` asks for."""
        for model in self._models.values():
            while not self._closed and len(model.current) < model.config.min_instances:
                self.start(model)

    # --- ends

    def watch_idle(self) -> None:
        """Instances that nobody has a place in go after `ttl`, and those that are not wanted any more at once."""
        for model in self._all():
            self._watch_all(model)

    def _watch_all(self, model: ModelPool) -> None:
        for instance in list(model.instances):
            if instance.state != "ready" or instance.taken:
                continue
            if instance.retired:
                self.dispose(instance, "not wanted any more")
            elif not model.waiters and instance.idle_timer is None and self._superfluous(model):
                self._watch(model, instance)

    def _watch(self, model: ModelPool, instance: Instance) -> None:
        if model.config.ttl == 0:
            self.dispose(instance, "idle")
            return
        loop = asyncio.get_running_loop()
        instance.idle_timer = loop.call_at(instance.used_at + model.config.ttl, self._ttl_over, model, instance)

    def _ttl_over(self, model: ModelPool, instance: Instance) -> None:
        instance.idle_timer = None
        if instance.taken == 0 and instance.state == "ready" and self._superfluous(model):
            self.dispose(instance, "idle")

    def _superfluous(self, model: ModelPool) -> bool:
        return not model.config.pinned and len(model.ready) > model.config.min_instances

    def dispose(self, instance: Instance, why: str) -> None:
        """Unload `instance`, which is ready."""
        instance.state = "closing"
        self._log.info("Unloading %s, %s", instance.model, why)
        self._spawn(self._close(instance))

    def _evict(self, instance: Instance) -> None:
        self.dispose(instance, "another model needs the memory")

    async def _close(self, instance: Instance) -> None:
        instance.stop_timer()
        try:
            await instance.close()
        finally:
            self._forget(instance)
            self._changed()

    async def _drop(self, model: ModelPool, instance: Instance) -> None:
        """An instance that did not come to be."""
        await instance.close()
        self._forget(instance)

    def _exited(self, model: ModelPool, instance: Instance) -> None:
        """Its process ended. If nobody wanted that, it is replaced when somebody wants it."""
        if instance.state != "ready":
            return
        model.counters.deaths += 1
        self._forget(instance)
        self._spawn(instance.close())
        self._changed()
        if len(model.current) < model.config.min_instances and not self._closed:
            self._later(RESTART_DELAY, self.keep_minimum)

    def _forget(self, instance: Instance) -> None:
        instance.state = "closed"
        instance.stop_timer()
        self.room.leave(instance)
        instance.gone.set()
        for model in self._all():
            if instance in model.instances:
                model.instances.remove(instance)
        self.left = [model for model in self.left if model.instances]

    async def close(self) -> None:
        """End every instance, and those that are on their way."""
        self._closed = True
        self.room.close()
        for timer in self._timers:
            timer.cancel()
        instances = [instance for model in self._all() for instance in model.instances]
        closing = [self._close(instance) for instance in instances if instance.state != "closing"]
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*closing, *self._tasks, return_exceptions=True)

    def _all(self) -> list[ModelPool]:
        return [*self._models.values(), *self.left]

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(delay, fire)
        self._timers.add(handle)
