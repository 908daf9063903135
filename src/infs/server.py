"""`InferenceServer`: composes configuration, store and pool into something that runs requests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from infs.config import (
    Config,
    HubConfig,
    MaxMemory,
    ModelConfig,
    TelemetryConfig,
    check_max_memory,
    limits_of,
)
from infs.engines.base import Engine, EngineSpec
from infs.engines.registry import file_rules, find_engine, spec_of
from infs.errors import GenerationFailed, RequestTimeout, ServerClosed, Unsupported
from infs.nesting import check_circle, is_nested
from infs.pool.attempts import Attempts
from infs.pool.ledger import Ledger
from infs.pool.lives import Surroundings
from infs.pool.machine import ThisMachine
from infs.pool.pool import Pool
from infs.pool.reservations import reservations_folder
from infs.runner import Conveniences
from infs.served import read_models
from infs.status import DownloadStatus, Exposition, ServerStatus
from infs.store import Store
from infs.sync import SyncServer
from infs.telemetry import Observation, Telemetry
from infs.toolbox import Toolbox, equip
from infs.types import (
    ChatCompletionRequest,
    Event,
    R,
    Request,
    Result,
    validate,
)
from infs.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

RESTART_KEYS = ("cache_path", "hub", "log", "telemetry")

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
        max_memory: what all loaded models together may take, as in the configuration.
        telemetry: whether requests are traced.
        tracer_provider: where traces go, which are wanted then; by default what OpenTelemetry's variables say.

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
        max_memory: MaxMemory | None = None,
        telemetry: TelemetryConfig | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._log = log or logging.getLogger("infs")
        self._specs = {name: spec_of(name, factory) for name, factory in (engines or {}).items()}
        check_max_memory(max_memory)
        self.store = Store(cache_path, hub=hub or HubConfig(), log=self._log, rules=file_rules(self._specs))
        self._served = read_models(models or {}, self._engine_of)
        around = Surroundings(
            files=self.store, engines=self._find_engine, runner=self, cache=self.store.cache, log=self._log
        )
        self._ledger = Ledger(limits_of(max_memory), reservations_folder(), ThisMachine(), self._log)
        self.pool = Pool(self._served.with_engines, around, self._ledger, concurrency=concurrency)
        self._attempts = Attempts(self.pool, self._log)
        self.read_config: Callable[[], Config] | None = None
        self._config: Config | None = None
        self.telemetry = Telemetry(telemetry or TelemetryConfig(), provider=tracer_provider)
        self._background: set[asyncio.Task[Any]] = set()
        self._requests = 0
        self._idle = asyncio.Event()
        self.started = False
        self.closing = False
        self.created = int(time.time())

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> InferenceServer:
        """A server as `config` says; `options` are those of the constructor that a file cannot hold."""
        server = cls(
            config.models,
            concurrency=config.concurrency,
            cache_path=config.cache_path,
            hub=config.hub,
            max_memory=config.max_memory,
            telemetry=config.telemetry,
            **options,
        )
        server._config = config
        return server

    @classmethod
    def sync(
        cls,
        models: Mapping[str, ModelConfig | Mapping[str, Any]] | None = None,
        engines: Mapping[str, EngineFactory] | None = None,
        **options: Any,
    ) -> SyncServer:
        """A server for programs without an event loop; the arguments are those of the constructor."""
        return SyncServer(cls(models, engines, **options))

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """The configured models, by id."""
        return MappingProxyType(self._served.models)

    def _find_engine(self, name: str) -> EngineSpec:
        return find_engine(name, self._specs)

    def _engine_of(self, config: ModelConfig, key: str) -> EngineSpec | None:
        """The engine of a model; ``None`` if only its files can tell."""
        name = self.store.engine_of(config, key)
        return None if name is None else self._find_engine(name)

    def check_installed(self) -> None:
        """Raise `MissingExtra` if the engine of a model, as far as it is known already, lacks a library."""
        for spec in self._served.engines.values():
            if spec is not None:
                spec.check_installed()

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
        for name, config in self._served.models.items():
            if config.prepare == "async":
                self._in_background(self._prepare(name, config))
        await asyncio.gather(
            *(
                self.store.fetch(name, config, lambda progress: None)
                for name, config in self._served.models.items()
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
        self._attempts.close()
        await self.pool.close()
        await self.store.close()
        await self.telemetry.close()

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
        if self.closing and not is_nested():  # what runs may finish, with all that it needs
            raise ServerClosed("The server is shutting down.", retry_after=5.0)
        self.pool.find(request.model)
        check_circle(request.model)
        asked, toolbox = self._equip(self._served.complete(request))
        validate(asked)
        self._requests += 1
        observation = self.telemetry.observe(asked)
        run = functools.partial(self._events, observation)
        try:
            happening = run(asked) if toolbox is None else toolbox.run(asked, run)
            async with contextlib.aclosing(observation.watch(_timed(happening, asked.timeout))) as events:
                async for event in events:
                    yield event
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    def _events(self, observation: Observation, request: Request[Any]) -> AsyncGenerator[Event]:
        return self._attempts.events(request, observation.placed)

    def _equip(self, request: Request[Any]) -> tuple[Any, Toolbox | None]:
        """`request` with the model's tools, and those of them that are run here."""
        if not isinstance(request, ChatCompletionRequest):
            return request, None
        rounds = self._served.models[request.model].max_tool_rounds
        return equip(request, self._served.tools[request.model], rounds, self._log)

    # --- models come and go

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again, with `read_config`, and do what it says now; see `update`.

        Raises:
            ConfigError: something is wrong with it, and nothing was changed.
            Unsupported: the server was made without one.
        """
        if self.read_config is None:
            raise Unsupported("This server was not started from a configuration that could be read again.")
        return self.update(await asyncio.to_thread(self.read_config))

    def update(self, config: Config) -> dict[str, Any]:
        """Add, change and remove models. Requests that run end as they would have.

        Returns:
            Ids under ``added``, ``changed``, ``removed`` and ``unchanged``; under ``restart`` the keys of other
            settings that differ, and count only once the server is started again.

        Raises:
            ConfigError: something is wrong with it, and nothing was changed.
        """
        check_max_memory(config.max_memory)
        served = read_models(config.models, self._engine_of)
        changes = _changes(self._served.models, served.models)
        self._served = served
        self._ledger.limit_to(limits_of(config.max_memory))
        self.pool.concurrency = config.concurrency
        self.pool.update(served.with_engines)
        for name in [*changes["added"], *changes["changed"]]:
            if served.models[name].prepare != "on-demand":
                self._in_background(self._prepare(name, served.models[name]))
        restart = _differing(self._config, config) if self._config is not None else []
        self._log.info("The configuration was read again: %s", {**changes, "restart": restart})
        return {**changes, "restart": restart}

    async def unload(self, model: str, *, now: bool = False) -> int:
        """Unload a model, when its running requests have ended or (`now`) at once; how many instances went.

        Raises:
            ModelNotFound: there is none.
        """
        return await self.pool.unload(model, now=now)

    # --- status

    async def status(self) -> ServerStatus:
        """What there is to know."""
        return ServerStatus(
            version=VERSION,
            created=self.created,
            closing=self.closing,
            requests=self._requests,
            running=self.pool.running,
            queued=self.pool.queued,
            models=await self.pool.status(),
            memory=self.pool.memory(),
            downloads=[
                DownloadStatus(what=p.detail, done=p.done, total=p.total, rate=p.rate, remaining=p.remaining)
                for p in self.store.traffic.running
            ],
            downloaded=self.store.traffic.bytes,
        )

    async def metrics(self, accept: str = "") -> Exposition:
        """All metrics as Prometheus reads them, in the format that `accept`, a header of that name, prefers."""
        return self.telemetry.expose(await self.status(), accept)


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


def _changes(before: Mapping[str, ModelConfig], after: Mapping[str, ModelConfig]) -> dict[str, list[str]]:
    both = [name for name in after if name in before]
    return {
        "added": [name for name in after if name not in before],
        "changed": [name for name in both if before[name] != after[name]],
        "removed": [name for name in before if name not in after],
        "unchanged": [name for name in both if before[name] == after[name]],
    }


def _differing(before: Config, after: Config) -> list[str]:
    """The keys at the top, and those of ``server``, that take effect with the next start only."""
    keys = [key for key in RESTART_KEYS if getattr(before, key) != getattr(after, key)]
    old, new = before.server, after.server
    return keys + [f"server.{key}" for key in old.__struct_fields__ if getattr(old, key) != getattr(new, key)]
