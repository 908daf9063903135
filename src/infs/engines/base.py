"""What an engine is, what it is told, and what it says of itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from infs.config import ModelConfig, check_keys, convert
from infs.errors import ConfigError, InfsError, LoadFailed, MissingExtra
from infs.runner import Runner
from infs.types import Event, Progress, Request

METHODS = ("load", "run", "status", "close")


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself.

    Attributes:
        tasks: the tasks it can do.
        max_sequences: requests that it works on at the same time.
        context_size: tokens of its longest sequence; ``None`` where that means nothing.
        details: facts for people (architecture, parameters, quantisation, ...).
        notes: what a user should know, such as a missing chat template.
    """

    tasks: list[str]
    max_sequences: int = 1
    context_size: int | None = None
    details: dict[str, Any] = {}
    notes: list[str] = []


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU or the like: its `name` (``cuda:0``, ``metal:0``, ``vulkan:1``), what it is, and its memory in bytes."""

    name: str
    description: str = ""
    total: int
    free: int


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """What loading a model would take, in bytes.

    Attributes:
        host: of the machine's main memory, that of the process included.
        devices: of each device, by its name.
        spare: what it could make use of on top in main memory, and can do without: caches.
        parts: where that goes, for people: ``weights``, ``context``, ``compute``, ``process`` and the like.
        machine: the devices that the engine could use.
    """

    host: int
    devices: dict[str, int] = {}
    spare: int = 0
    parts: dict[str, int] = {}
    machine: list[DeviceMemory] = []


class ModelSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is told to load.

    Attributes:
        path: a local file or folder, ``None`` for a model without files.
        cache: the folder for what can be made again, where relative paths start; ``None`` for none.
        spare: bytes of main memory that its caches may take; ``None`` leaves that to the configuration.
        runner: runs requests on the other models of the server, for an engine in its process that combines them.
    """

    model: str
    path: Path | None
    config: ModelConfig
    cache: Path | None = None
    spare: int | None = None
    runner: Runner | None = None


class RunContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is told beside the request.

    Attributes:
        request_id: the request's number in this instance, for logs.
        nonce: what chance and ids are derived from where the request says nothing, so that it comes out the same again.
        trail: tokens that each choice has produced before its worker died. The engine yields all events from the
            beginning, without computing those tokens again one by one, and goes on behind them as it would have.
    """

    request_id: int
    nonce: int = 0
    trail: list[list[int]] = []


class Engine(Protocol):
    """One model in one process. All methods are called on one event loop; `run` many times at once.

    `run` is an async generator. A request is cancelled by closing it: the engine frees what it holds in a
    ``finally``. An engine may have two more methods, see `Estimating` and `Watched`.
    """

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        """Load the model; `progress` may be called from any thread.

        Raises:
            LoadFailed: the files are not what they should be, or do not fit.
        """
        ...

    def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        """The events of a request; the last one is its `Result`.

        Raises:
            InfsError: instead of a result.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Counters, as plain data."""
        ...

    async def close(self) -> None:
        """Free everything; requests still running end in a failure."""
        ...


@runtime_checkable
class Estimating(Protocol):
    """An engine that can tell what loading takes, before it loads."""

    async def estimate(self, setup: ModelSetup) -> MemoryUse:
        """What `load` with the same setup would take; `setup.spare` does not matter.

        Raises:
            LoadFailed: the files are not what they should be.
        """
        ...


@runtime_checkable
class Shrinking(Protocol):
    """An engine whose caches can give memory back."""

    def shrink(self, spare: int) -> None:
        """From now on its caches take `spare` bytes of main memory at most; see `ModelSetup.spare`."""
        ...


@runtime_checkable
class Watched(Protocol):
    """An engine of which a step may hang."""

    def stalled(self) -> float:
        """Seconds that what it computes at the moment has taken so far; 0 while it computes nothing."""
        ...


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is found and run. Without `in_process` it is made in a worker, so it must be data.

    Attributes:
        factory: ``"module:name"`` of a callable without arguments that makes an `Engine`, or the callable itself
            for an engine that runs in process.
        options: the struct that its `options` in the configuration must fit, or ``"module:name"`` of it.
        requires: modules that must be importable where it runs.
        extra: the extra of this package that brings them.
        in_process: it needs no process of its own (it is pure Python, or a remote endpoint).
        needs_files: a model of it needs `url` or `file`.
        files: ``"module:name"`` of an `infs.store.selection.FileRule`, which says what its models consist of. Without
            one it is given what `url` or `file` names, a file or a whole folder, and is never chosen by the files.
        environment: variables of its worker, where the user has not set them.
        describe: ``"module:name"`` of a function that tells, as plain data, what its library is and what of this
            machine it can use: ``build`` (its features), ``backends``, ``devices`` (each like a `DeviceMemory`).
    """

    name: str
    factory: str | Callable[[], Engine]
    options: str | type[msgspec.Struct] | None = None
    requires: tuple[str, ...] = ()
    extra: str | None = None
    in_process: bool = False
    needs_files: bool = True
    files: str | None = None
    environment: dict[str, str] = {}
    describe: str | None = None

    def create(self) -> Engine:
        """A new engine, nothing loaded.

        Raises:
            MissingExtra: naming the extra to install.
            LoadFailed: the factory cannot be found, fails, or makes something that is no engine.
        """
        self.check_installed()
        try:
            factory = resolve(self.factory) if isinstance(self.factory, str) else self.factory
            engine: Engine = factory()
        except InfsError:
            raise
        except Exception as error:
            raise LoadFailed(f"The engine {self.name!r} cannot be made: {type(error).__name__}: {error}") from error
        missing = [name for name in METHODS if not callable(getattr(engine, name, None))]
        if missing:
            raise LoadFailed(
                f"The engine {self.name!r} is a {type(engine).__name__}, which lacks what an engine has: "
                f"{', '.join(missing)}."
            )
        return engine

    def check_installed(self) -> None:
        """Raise `MissingExtra` unless the required modules are there; none of them is imported."""
        missing = [module for module in self.requires if importlib.util.find_spec(module) is None]
        if missing:
            hint = f'pip install "infs[{self.extra}]"' if self.extra else f"pip install {' '.join(missing)}"
            raise MissingExtra(f"The engine {self.name!r} needs {', '.join(missing)}, which is not installed: {hint}")

    def check_model(self, model: str, config: ModelConfig) -> None:
        """Raise `ConfigError` for a model that this engine cannot be given."""
        key = f"models.{model}"
        if self.needs_files and config.url is None and config.file is None:
            raise ConfigError(f"{key} needs a url or a file.", param=key)
        if self.options is not None:
            kind = resolve(self.options) if isinstance(self.options, str) else self.options
            check_keys(config.options, kind, "the configuration", f"{key}.options")
            convert(config.options, kind, "the configuration", f"{key}.options")
        elif config.options and not callable(self.factory):
            raise ConfigError(f"{key}: the engine {self.name!r} has no options.", param=f"{key}.options")


def resolve(name: str) -> Any:
    """What ``"module:name"`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
