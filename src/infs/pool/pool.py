"""Hands out places in instances: bounded queues, priorities, fairness between clients and models, limits.

Everything happens on one event loop, in `_dispatch`, which is called whenever something changed: a request came,
a place was given back, an instance got ready, ended or failed. A place is held by a lease, which is a context
manager, so it cannot leak.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from infs.config import ModelConfig
from infs.engines.base import EngineSpec
from infs.errors import ModelNotFound, QueueFull, QueueTimeout, ServerClosed
from infs.nesting import is_nested
from infs.pool import affinity
from infs.pool.instance import Instance
from infs.pool.ledger import Ledger
from infs.pool.lives import Lives, Surroundings
from infs.pool.model import ModelPool
from infs.pool.queue import Waiter, cost_of
from infs.status import MemoryStatus, ModelStatus
from infs.types import Progress, Request

Models = Mapping[str, tuple[ModelConfig, EngineSpec | None]]
"""Configuration and engine of each model, by id; ``None`` where only its files tell the engine."""


class Pool:
    """The instances of all models.

    Attributes:
        concurrency: most requests that run at the same time; ``None`` for no limit.
    """

    def __init__(self, models: Models, around: Surroundings, ledger: Ledger, *, concurrency: int | None = None) -> None:
        self._models = {name: ModelPool(name, config, spec) for name, (config, spec) in models.items()}
        self._rotation = deque(self._models.values())
        self.concurrency = concurrency
        self._ledger = ledger
        self._lives = Lives(self._models, ledger, around, self._dispatch)
        self._closed = False
        self.running = 0
        self._nested = 0  # of those, requests within requests

    # --- leases

    @contextlib.asynccontextmanager
    async def lease(
        self,
        request: Request[Any],
        progress: Callable[[Progress], None] = lambda progress: None,
        *,
        again: bool = False,
        alone: bool = False,
    ) -> AsyncIterator[Instance]:
        """A place in an instance of the request's model, which is loaded if need be.

        A request within another one comes before all that are not, and does not count towards `concurrency`: it waits
        for nobody who may wait for it.

        Args:
            progress: told how downloading and loading goes on while the request waits for them.
            again: it had a place before, in an instance whose worker died, and comes before those that had none.
            alone: nobody else may have a place in the instance, until `Instance.alone` is taken back.

        Raises:
            ModelNotFound, QueueFull, QueueTimeout, ServerClosed, and whatever keeps the model from being loaded.
        """
        chain = affinity.keys(request)
        nested = is_nested()
        waiter = Waiter(
            priority=request.priority,
            client=request.client,
            cost=cost_of(request),
            chain=chain,
            future=asyncio.get_running_loop().create_future(),
            progress=progress,
            nested=nested,
            again=again,
            alone=alone,
        )
        instance = await self._acquire(self.find(request.model), waiter)
        instance.memory.add(chain)
        try:
            yield instance
        finally:
            self._release(instance, waiter)

    def find(self, name: str) -> ModelPool:
        """The model called `name`.

        Raises:
            ModelNotFound: naming the models that there are.
        """
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFound(f"There is no model {name!r}. There are: {known}.", param="model")
        return model

    async def _acquire(self, model: ModelPool, waiter: Waiter) -> Instance:
        if self._closed:
            raise ServerClosed("The server is shutting down.", retry_after=5.0)
        limit = model.config.queue_timeout
        self._enqueue(model, waiter)
        self._dispatch()
        try:
            async with asyncio.timeout(limit):
                return await waiter.future
        except asyncio.CancelledError:
            self._withdraw(model, waiter)
            raise
        except TimeoutError:
            if limit is None:
                raise
            self._withdraw(model, waiter)
            raise QueueTimeout(
                f"No place in an instance of {model.name!r} came free within its queue_timeout of {limit:g} seconds; "
                f"{_situation(model)}. Try again later.",
                retry_after=limit,
            ) from None

    def _withdraw(self, model: ModelPool, waiter: Waiter) -> None:
        """`waiter` does not want a place any more."""
        if waiter in model.waiters:
            model.waiters.remove(waiter)
            self._dispatch()  # who waits for memory on behalf of it may stop doing so
        elif waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self._release(waiter.future.result(), waiter)  # given in the moment of the cancellation

    def _enqueue(self, model: ModelPool, waiter: Waiter) -> None:
        """Have `waiter` wait. Where there is no room for one more, the one that all others go before is refused."""
        full = model.full and not waiter.again
        model.waiters.add(waiter)
        if full:
            last = model.waiters.last
            model.waiters.remove(last)
            last.refuse(
                QueueFull(
                    f"{len(model.waiters)} requests wait for {model.name!r} and go before this one; try again later.",
                    retry_after=1.0,
                )
            )

    def _release(self, instance: Instance, waiter: Waiter) -> None:
        instance.taken -= 1
        instance.served += 1
        instance.used_at = asyncio.get_running_loop().time()
        if waiter.alone:
            instance.alone = False
        self.running -= 1
        self._nested -= waiter.nested
        self._dispatch()

    def share(self, instance: Instance) -> None:
        """Others may have places beside the one that had it alone."""
        instance.alone = False
        self._dispatch()

    # --- who gets a place

    def _dispatch(self) -> None:
        """Give places to those who wait, in the order of their turns, start what is missing, and end what is not."""
        if self._closed:
            return
        self._lives.room.arrange()
        while (model := self._next()) is not None:
            self._give(model)
        for model in list(self._models.values()):
            self._grow(model)
        self._lives.watch_idle()

    def _next(self) -> ModelPool | None:
        """The model whose first waiter gets a place now: by priority, then in rotation."""
        busy = self.concurrency is not None and self.running - self._nested >= self.concurrency
        able = [m for m in self._rotation if m.waiters and (m.waiters.first.nested or not busy) and _has_place(m)]
        return min(able, key=lambda model: model.waiters.first.rank, default=None)

    def _give(self, model: ModelPool) -> None:
        """A place for the model's first waiter; there must be one, and one who waits."""
        if model.waiters.first.future.done():  # cancelled, and about to notice
            model.waiters.remove(model.waiters.first)
            return
        waiter = model.waiters.take()
        instance = model.place_for(waiter)
        assert instance is not None
        self._take(instance, waiter)
        waiter.future.set_result(instance)
        self._rotation.remove(model)  # the others come first now
        self._rotation.append(model)

    def _take(self, instance: Instance, waiter: Waiter) -> None:
        instance.taken += 1
        instance.alone = waiter.alone
        self.running += 1
        self._nested += waiter.nested
        instance.stop_timer()

    def _grow(self, model: ModelPool) -> None:
        """Start another instance if those who wait find no place in what is there or coming."""
        if any(instance.free for instance in model.instances):
            return  # they wait for `concurrency`, not for places
        if model.current and asyncio.get_running_loop().time() < model.no_room_until:
            return
        coming = model.starting * model.config.max_sequences
        while len(model.waiters) > coming and len(model.current) < model.config.max_instances:
            self._lives.start(model)
            coming += model.config.max_sequences

    # --- models come and go

    def update(self, models: Models) -> None:
        """From now on there are these models. Requests that run are left alone, whatever becomes of their model."""
        for name, (config, spec) in models.items():
            model = self._models.get(name)
            if model is None:
                model = self._models[name] = ModelPool(name, config, spec)
                self._rotation.append(model)
            elif config != model.config:
                model.config, model.spec = config, spec
                model.use, model.last_error, model.interrupted = None, None, 0
                self._retire(model)
        for name in [name for name in self._models if name not in models]:
            self._remove(self._models[name])
        self._lives.keep_minimum()
        self._dispatch()

    def _remove(self, model: ModelPool) -> None:
        error = ModelNotFound(f"The model {model.name!r} was removed from the configuration.", param="model")
        for waiter in model.waiters.clear():
            waiter.refuse(error)
        self._retire(model)
        self._lives.left.append(model)
        self._rotation.remove(model)
        del self._models[model.name]

    def _retire(self, model: ModelPool) -> int:
        going = model.current
        for instance in going:
            instance.retired = True
        return len(going)

    async def unload(self, name: str, *, now: bool = False) -> int:
        """Unload the model's instances, and return when they are gone; how many those were.

        New requests have it loaded again.

        Args:
            now: do not wait for requests that run in them; these end in a failure.
        """
        model = self.find(name)
        going = list(model.current)
        count = self._retire(model)
        for instance in going:
            if now and instance.state == "ready":
                self._lives.dispose(instance, "as asked for")
        self._dispatch()
        await asyncio.gather(*(instance.gone.wait() for instance in going))
        return count

    def keep_minimum(self) -> None:
        """Start what `min_instances` asks for."""
        self._lives.keep_minimum()

    async def close(self) -> None:
        """End every instance; those who wait hear that the server is closed."""
        self._closed = True
        for model in self._models.values():
            for waiter in model.waiters.clear():
                waiter.refuse(ServerClosed("The server is shutting down.", retry_after=5.0))
        await self._lives.close()

    # --- status

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return sum(len(model.waiters) for model in self._models.values())

    async def status(self) -> dict[str, ModelStatus]:
        """Each model's state."""
        models = list(self._models.values())
        found = await asyncio.gather(*(model.status() for model in models))
        return {model.name: status for model, status in zip(models, found, strict=True)}

    def memory(self) -> dict[str, MemoryStatus]:
        """What may be used of the machine's memory, and what is."""
        return self._ledger.status()


def _has_place(model: ModelPool) -> bool:
    return model.place_for(model.waiters.first) is not None


def _situation(model: ModelPool) -> str:
    """What a request waits for, in a few words."""
    if model.ready:
        return f"{sum(i.taken for i in model.instances)} requests run and {len(model.waiters)} others wait"
    if model.starting and model.last_progress is not None:
        stage = {"memory": "other models have the memory", "download": "its files are being downloaded"}
        return stage.get(model.last_progress.stage, "it is being loaded")
    return "it is not loaded"
