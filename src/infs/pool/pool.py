"""Hands out places in instances: bounded queues, priorities, fairness between clients and models, limits, idle time.

Everything happens on one event loop, in `_dispatch`, which is called whenever something changed: a request came,
a place was given back, an instance got ready, ended or failed. A place is held by a lease, which is a context
manager, so it cannot leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from infs.config import ModelConfig
from infs.engines.base import EngineSpec, ModelSetup
from infs.errors import InfsError, LoadFailed, ModelNotFound, QueueFull, ServerClosed
from infs.pool import affinity
from infs.pool.instance import Instance
from infs.pool.queue import Queue, Waiter, cost_of
from infs.types import Progress, Request

RESTART_DELAY = 1.0  # seconds before an instance that is always wanted is started again


class Files(Protocol):
    """Where the files of models come from: the store."""

    async def fetch(self, model: str, config: ModelConfig, progress: Callable[[Progress], None]) -> Any:
        """The verified local path, or ``None`` for a model without files."""
        ...


@dataclass(eq=False, slots=True)
class ModelPool:
    """One model's instances and queue."""

    name: str
    config: ModelConfig
    spec: EngineSpec
    waiters: Queue = field(default_factory=Queue)
    instances: list[Instance] = field(default_factory=list)
    last_progress: Progress | None = None
    last_error: str | None = None

    @property
    def ready(self) -> list[Instance]:
        """Instances that take requests."""
        return [instance for instance in self.instances if instance.state == "ready"]

    @property
    def starting(self) -> int:
        """Instances that will take requests."""
        return sum(instance.state == "starting" for instance in self.instances)

    @property
    def free(self) -> list[Instance]:
        """Instances with a free place."""
        return [instance for instance in self.instances if instance.free > 0]

    def best(self, chain: list[bytes]) -> Instance:
        """Of those with a free place, the one that knows most of the request, then the one with the least to do."""
        return max(self.free, key=lambda i: (i.memory.depth(chain), -i.taken))

    @property
    def full(self) -> bool:
        """Whether another request would be one too many. Those that will have a place at once do not wait."""
        free = sum(instance.free for instance in self.instances)
        coming = (self.config.max_instances - len(self.ready)) * self.config.max_sequences
        return len(self.waiters) >= self.config.max_queue + free + coming

    def tell(self, progress: Progress) -> None:
        """Progress of loading, to everybody who waits for it."""
        self.last_progress = progress
        for waiter in self.waiters:
            waiter.progress(progress)


class Pool:
    """The instances of all models.

    Args:
        models: configuration and engine of each model, by id.
        files: the store.
        concurrency: most requests that run at the same time; ``None`` for no limit.
        cache: folder in which engines may keep what can be made again.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[ModelConfig, EngineSpec]],
        files: Files,
        *,
        concurrency: int | None = None,
        cache: Path | None = None,
        log: logging.Logger,
    ) -> None:
        self._models = {name: ModelPool(name, config, spec) for name, (config, spec) in models.items()}
        self._rotation = deque(self._models.values())
        self._files = files
        self._cache = cache
        self._concurrency = concurrency
        self._log = log
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False
        self.running = 0

    # --- leases

    @contextlib.asynccontextmanager
    async def lease(
        self, request: Request[Any], progress: Callable[[Progress], None] = lambda progress: None
    ) -> AsyncIterator[Instance]:
        """A place in an instance of the request's model, which is loaded if need be.

        Args:
            progress: told how downloading and loading goes on while the request waits for them.

        Raises:
            ModelNotFound, QueueFull, ServerClosed, and whatever keeps the model from being loaded.
        """
        chain = affinity.keys(request)
        instance = await self._acquire(self._find(request.model), request, chain, progress)
        instance.memory.add(chain)
        try:
            yield instance
        finally:
            self._release(instance)

    def check_model(self, name: str) -> None:
        """Raise `ModelNotFound`, naming the models that there are, unless `name` is one."""
        self._find(name)

    def _find(self, name: str) -> ModelPool:
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFound(f"There is no model {name!r}. There are: {known}.", param="model")
        return model

    async def _acquire(
        self, model: ModelPool, request: Request[Any], chain: list[bytes], progress: Callable[[Progress], None]
    ) -> Instance:
        if self._closed:
            raise ServerClosed("The server is shutting down.", retry_after=5.0)
        future = asyncio.get_running_loop().create_future()
        waiter = Waiter(request.priority, request.client, cost_of(request), chain, future, progress)
        self._enqueue(model, waiter)
        self._dispatch()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter in model.waiters:
                model.waiters.remove(waiter)
            elif waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._release(waiter.future.result())  # given in the moment of the cancellation
            raise

    def _enqueue(self, model: ModelPool, waiter: Waiter) -> None:
        """Have `waiter` wait. Where there is no room for one more, the one that all others go before is refused."""
        full = model.full
        model.waiters.add(waiter)
        if full:
            last = model.waiters.last
            model.waiters.remove(last)
            _end(
                last,
                QueueFull(
                    f"{len(model.waiters)} requests wait for {model.name!r} and go before this one; try again later.",
                    retry_after=1.0,
                ),
            )

    def _release(self, instance: Instance) -> None:
        instance.taken -= 1
        instance.served += 1
        self.running -= 1
        self._dispatch()

    # --- who gets a place

    def _dispatch(self) -> None:
        """Give places to those who wait, in the order of their turns, and start what is missing."""
        if self._closed:
            return
        while (model := self._next()) is not None:
            self._give(model)
        for model in self._models.values():
            self._grow(model)
            self._watch_idle(model)

    def _next(self) -> ModelPool | None:
        """The model whose first waiter gets a place now: by priority, then in rotation."""
        if self._concurrency is not None and self.running >= self._concurrency:
            return None
        able = [m for m in self._rotation if m.waiters and m.free]
        return min(able, key=lambda model: model.waiters.first.priority, default=None)

    def _give(self, model: ModelPool) -> None:
        """A place for the model's first waiter; there must be one, and one who waits."""
        if model.waiters.first.future.done():  # cancelled, and about to notice
            model.waiters.remove(model.waiters.first)
            return
        waiter = model.waiters.take()
        instance = model.best(waiter.chain)
        self._take(instance)
        waiter.future.set_result(instance)
        self._rotation.remove(model)  # the others come first now
        self._rotation.append(model)

    def _take(self, instance: Instance) -> None:
        instance.taken += 1
        self.running += 1
        if instance.idle_timer is not None:
            instance.idle_timer.cancel()
            instance.idle_timer = None

    def _grow(self, model: ModelPool) -> None:
        """Start another instance if those who wait find no place in what is there or coming."""
        if any(instance.free for instance in model.instances):
            return  # they wait for `concurrency`, not for places
        coming = model.starting * model.config.max_sequences
        while len(model.waiters) > coming and len(model.instances) < model.config.max_instances:
            self._start(model)
            coming += model.config.max_sequences

    # --- the life of an instance

    def _start(self, model: ModelPool) -> None:
        try:
            instance = Instance(
                next(self._numbers), model.name, model.config, model.spec, log=self._log, on_exit=self._exited
            )
        except InfsError as error:
            self._refuse(model, error)
            return
        model.instances.append(instance)
        task = self._spawn(self._load(model, instance))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load(self, model: ModelPool, instance: Instance) -> None:
        begin = time.monotonic()
        try:
            path = await self._files.fetch(model.name, model.config, model.tell)
            setup = ModelSetup(model=model.name, path=path, config=model.config, cache=self._cache)
            instance.info = await instance.engine.load(setup, model.tell)
        except Exception as error:
            self._load_failed(model, instance, error)
            return
        if instance.state != "starting":  # closed meanwhile
            return
        instance.state = "ready"
        model.last_error = None
        self._log.info("Loaded %s in %.1f s", model.name, time.monotonic() - begin)
        self._dispatch()

    def _load_failed(self, model: ModelPool, instance: Instance, error: Exception) -> None:
        if not isinstance(error, InfsError):
            self._log.exception("Loading %s failed", model.name)
            error = LoadFailed(f"{model.name!r} could not be loaded: {type(error).__name__}: {error}")
        self._forget(model, instance)
        self._refuse(model, error)

    def _refuse(self, model: ModelPool, error: InfsError) -> None:
        """Nobody who waits can be served unless another instance is there or on its way."""
        model.last_error = error.message
        self._log.error("%s", error)
        if model.ready or model.starting:
            return
        for waiter in model.waiters.clear():
            _end(waiter, InfsError.from_failure(error.to_failure()))

    def _watch_idle(self, model: ModelPool) -> None:
        """Instances that nobody has a place in go after `ttl`."""
        if model.waiters:
            return
        for instance in model.ready:
            if instance.taken or instance.idle_timer is not None or not self._superfluous(model):
                continue
            if model.config.ttl == 0:
                self._dispose(instance)
            else:
                loop = asyncio.get_running_loop()
                instance.idle_timer = loop.call_later(model.config.ttl, self._ttl_over, instance)

    def _ttl_over(self, instance: Instance) -> None:
        instance.idle_timer = None
        if instance.taken == 0 and instance.state == "ready" and self._superfluous(self._models[instance.model]):
            self._dispose(instance)

    def _superfluous(self, model: ModelPool) -> bool:
        return len(model.ready) > model.config.min_instances

    def _dispose(self, instance: Instance) -> None:
        instance.state = "closing"
        self._log.info("Unloading %s, idle", instance.model)
        self._spawn(self._close_instance(instance))

    async def _close_instance(self, instance: Instance) -> None:
        if instance.idle_timer is not None:
            instance.idle_timer.cancel()
        try:
            await instance.engine.close()
        finally:
            self._forget(self._models[instance.model], instance)
            self._dispatch()

    def _exited(self, instance: Instance) -> None:
        """Its process ended. If nobody wanted that, it is replaced when somebody wants it."""
        if instance.state != "ready":
            return
        model = self._models[instance.model]
        self._forget(model, instance)
        self._spawn(instance.engine.close())
        self._dispatch()
        if len(model.instances) < model.config.min_instances and not self._closed:
            self._later(RESTART_DELAY, self.keep_minimum)

    def _forget(self, model: ModelPool, instance: Instance) -> None:
        instance.state = "closed"
        if instance.idle_timer is not None:
            instance.idle_timer.cancel()
            instance.idle_timer = None
        if instance in model.instances:
            model.instances.remove(instance)

    # --- the life of the pool

    def keep_minimum(self) -> None:
        """Start what `min_instances` asks for."""
        for model in self._models.values():
            while not self._closed and len(model.instances) < model.config.min_instances:
                before = len(model.instances)
                self._start(model)
                if len(model.instances) == before:  # refused at once; the log says why
                    break

    async def close(self) -> None:
        """End every instance; those who wait hear that the server is closed."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        for model in self._models.values():
            for waiter in model.waiters.clear():
                _end(waiter, ServerClosed("The server is shutting down.", retry_after=5.0))
        closing = [
            self._close_instance(instance)
            for model in self._models.values()
            for instance in list(model.instances)
            if instance.state != "closing"
        ]
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*closing, *self._tasks, return_exceptions=True)

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

    # --- status

    async def status(self) -> dict[str, Any]:
        """Each model's state, as plain data."""
        return {model.name: await self._model_status(model) for model in self._models.values()}

    async def _model_status(self, model: ModelPool) -> dict[str, Any]:
        instances = await asyncio.gather(*(instance.status() for instance in list(model.instances)))
        state = "ready" if model.ready else "loading" if model.starting else "idle"
        progress = model.last_progress if model.starting else None
        return {
            "task": model.config.task,
            "engine": model.config.engine,
            "state": state,
            "queued": len(model.waiters),
            "instances": instances,
            "progress": None
            if progress is None
            else {"stage": progress.stage, "done": progress.done, "total": progress.total, "unit": progress.unit},
            "last_error": model.last_error,
        }


def _end(waiter: Waiter, error: InfsError) -> None:
    """`waiter` gets no place, unless it was cancelled and waits for none any more."""
    if not waiter.future.done():
        waiter.future.set_exception(error)
