"""`InferenceServer`: composes configuration, store and pool into something that runs requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from infs.config import Config, HubConfig, ModelConfig, parse_model, typed_defaults, with_defaults
from infs.engines.base import Engine, EngineSpec, find_engine
from infs.errors import GenerationFailed, InvalidRequest, RequestTimeout, ServerClosed, Unsupported
from infs.pool.instance import Instance
from infs.pool.pool import Pool
from infs.runner import Conveniences
from infs.store import Store
from infs.toolbox import Toolbox, equip, load_tools
from infs.types import (
    ChatCompletionRequest,
    Event,
    GenerationRequest,
    NamedConstraint,
    Progress,
    R,
    Request,
    Result,
    own_constraint,
    validate,
)
from infs.version import VERSION

EngineFactory = EngineSpec | Callable[[], Engine]


class InferenceServer(Conveniences):
    """Models on this machine. An async context manager, and a `Runner`.

    Args:
        models: configuration of each model, by id.
        engines: engines of your own, by name: a class or other callable that makes an `Engine` (it runs in this
            process), or an `EngineSpec`.
        concurrency: most requests that run at the same time over all models; no limit by default.
        cache_path: folder for downloaded files, and the start of relative `file` paths.
        hub: where Hugging Face URLs lead, and the token for it.
        log: where to log; the logger ``infs`` by default.

    Raises:
        ConfigError: with the key and what to do about it; also when a tool of the configuration cannot be imported.
        EngineNotFound: a model names an engine that is not known.

    Example:
        ```python
        async with InferenceServer({"demo": demo_model()}) as server:
            result = await server.chat_completion(model="demo", messages=[Message(role="user", content="Hello!")])
            print(result.text)
        ```
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig | Mapping[str, Any]] | None = None,
        engines: Mapping[str, EngineFactory] | None = None,
        *,
        concurrency: int | None = None,
        cache_path: str | Path | None = None,
        hub: HubConfig | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._log = log or logging.getLogger("infs")
        specs = {name: _spec(name, factory) for name, factory in (engines or {}).items()}
        self._models = {name: parse_model(name, config) for name, config in (models or {}).items()}
        self._defaults = {name: typed_defaults(c.completion_defaults) for name, c in self._models.items()}
        with_engines = {
            name: (config, find_engine(config.engine or "llama-cpp", specs)) for name, config in self._models.items()
        }
        for name, (config, spec) in with_engines.items():
            spec.check_model(name, config)
        self._tools = {name: load_tools(name, config) for name, config in self._models.items()}
        self.store = Store(cache_path, hub=hub or HubConfig(), log=self._log)
        self.pool = Pool(with_engines, self.store, concurrency=concurrency, cache=self.store.cache, log=self._log)
        self._background: set[asyncio.Task[Any]] = set()
        self._requests = 0
        self._failed = 0
        self._idle = asyncio.Event()
        self.started = False
        self.closing = False
        self.created = int(time.time())

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> InferenceServer:
        """A server as `config` says; `options` are those of the constructor that a file cannot hold."""
        return cls(
            config.models,
            concurrency=config.concurrency,
            cache_path=config.cache_path,
            hub=config.hub,
            **options,
        )

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """The configured models, by id."""
        return MappingProxyType(self._models)

    # --- life

    async def __aenter__(self) -> InferenceServer:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Prepare what `prepare` and `min_instances` ask for. A second call does nothing."""
        if self.started:
            return
        self.started = True
        for name, config in self._models.items():
            if config.prepare == "async":
                self._in_background(self._prepare(name, config))
        await asyncio.gather(
            *(
                self.store.fetch(name, config, lambda progress: None)
                for name, config in self._models.items()
                if config.prepare == "blocking"
            )
        )
        self.pool.keep_minimum()

    async def _prepare(self, name: str, config: ModelConfig) -> None:
        try:
            await self.store.fetch(name, config, lambda progress: None)
        except Exception as error:
            self._log.error("The files of %s could not be prepared: %s", name, error)

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self, drain: float = 0.0) -> None:
        """Refuse new requests, give running ones `drain` seconds, then end everything."""
        self.closing = True
        if self._requests and drain > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), drain)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.pool.close()
        await self.store.close()

    # --- requests

    async def run(self, request: Request[R]) -> R:
        """The result of `request`; see `Runner.run`."""
        async with contextlib.aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event  # type: ignore[return-value]
        raise GenerationFailed(f"The engine of {request.model!r} ended without a result.")

    async def stream(self, request: Request[Any]) -> AsyncGenerator[Event]:
        """The events of `request`; see `Runner.stream`."""
        if self.closing:
            raise ServerClosed("The server is shutting down.", retry_after=5.0)
        self.pool.check_model(request.model)
        asked, toolbox = self._equip(self._with_grammar(self._with_defaults(request)))
        validate(asked)
        self._requests += 1
        try:
            happening = self._events(asked) if toolbox is None else toolbox.run(asked, self._events)
            async with contextlib.aclosing(_timed(happening, asked.timeout)) as events:
                async for event in events:
                    yield event
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def _events(self, request: Request[Any]) -> AsyncGenerator[Event]:
        waiting = _Waiting(self.pool, request)
        try:
            async for progress in waiting.progress():
                yield progress
            async with contextlib.aclosing(_run_on(waiting.instance(), request)) as events:
                async for event in events:
                    yield event
        finally:
            await waiting.end()

    def _equip(self, request: Request[Any]) -> tuple[Any, Toolbox | None]:
        """`request` with the model's tools, and those of them that are run here."""
        if not isinstance(request, ChatCompletionRequest):
            return request, None
        rounds = self._models[request.model].max_tool_rounds
        return equip(request, self._tools[request.model], rounds, self._log)

    def _with_defaults(self, request: Request[Any]) -> Request[Any]:
        """`request` with the model's settings in the places that it leaves open."""
        if not isinstance(request, GenerationRequest):
            return request
        return with_defaults(request, self._defaults[request.model])

    def _with_grammar(self, request: Request[Any]) -> Request[Any]:
        """`request` with the model's grammar in the place of its name."""
        if not isinstance(request, GenerationRequest) or not isinstance(request.constraint, NamedConstraint):
            return request
        name, grammars = request.constraint.name, self._models[request.model].grammars
        if name not in grammars:
            there = ", ".join(sorted(grammars)) or "none"
            raise InvalidRequest(
                f"The model {request.model!r} has no grammar {name!r} in its configuration; there are: {there}.",
                param="constraint",
            )
        return msgspec.structs.replace(request, constraint=own_constraint(grammars[name]))

    # --- status

    async def status(self) -> dict[str, Any]:
        """What there is to know, as plain data."""
        return {
            "version": VERSION,
            "created": self.created,
            "closing": self.closing,
            "requests": self._requests,
            "running": self.pool.running,
            "models": await self.pool.status(),
        }


class _Waiting:
    """A lease that is waited for in a task, so that progress can be told meanwhile."""

    def __init__(self, pool: Pool, request: Request[Any]) -> None:
        self._news: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._lease = pool.lease(request, self._news.put_nowait)
        self._task = asyncio.ensure_future(self._lease.__aenter__())
        self._task.add_done_callback(lambda _: self._news.put_nowait(None))

    async def progress(self) -> AsyncGenerator[Progress]:
        """How loading goes on, until the place is there (or not to be had)."""
        while (news := await self._news.get()) is not None:
            yield news

    def instance(self) -> Instance:
        """The instance; raises what kept the request from getting one."""
        return self._task.result()

    async def end(self) -> None:
        """Give the place back, or stop waiting for it."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._task.cancelled() and self._task.exception() is None:
            await self._lease.__aexit__(None, None, None)


async def _run_on(instance: Instance, request: Request[Any]) -> AsyncGenerator[Event]:
    if request.task not in instance.info.tasks:
        able = ", ".join(instance.info.tasks)
        raise Unsupported(f"The model {request.model!r} cannot do {request.task}; it can do: {able}.", param="model")
    async with contextlib.aclosing(instance.run(request)) as events:
        async for event in events:
            yield event


async def _timed(events: AsyncGenerator[Event], timeout: float | None) -> AsyncGenerator[Event]:
    """`events`, as long as all of them come within `timeout` seconds."""
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    async with contextlib.aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise RequestTimeout(f"The request took longer than its timeout of {timeout:g} seconds.") from error
            yield event


def _spec(name: str, factory: EngineFactory) -> EngineSpec:
    if isinstance(factory, EngineSpec):
        return factory
    return EngineSpec(name=name, factory=factory, in_process=True, needs_files=False)
