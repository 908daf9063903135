"""The engines that there are: those of infs, and those that installed packages offer."""

from __future__ import annotations

import pkgutil
from importlib.metadata import entry_points

import msgspec

from infs.config import ModelConfig
from infs.engines.base import EngineSpec
from infs.engines.registry import BUILTIN, ENTRY_POINTS, find_engine
from infs.errors import EngineNotFound
from infs.store import Store

DEFAULT = "llama-cpp"


def engine_names() -> list[str]:
    """Their names; nothing of them is imported."""
    return sorted({*BUILTIN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def engine_specs() -> dict[str, EngineSpec | EngineNotFound]:
    """Each engine, or why it cannot be had."""
    found: dict[str, EngineSpec | EngineNotFound] = {}
    for name in engine_names():
        try:
            found[name] = find_engine(name)
        except EngineNotFound as error:
            found[name] = error
    return found


def option_structs() -> dict[str, type[msgspec.Struct]]:
    """What `options` of a model may hold, by the name of its engine."""
    found: dict[str, type[msgspec.Struct]] = {}
    for name, spec in engine_specs().items():
        options = spec.options if isinstance(spec, EngineSpec) else None
        if options is not None:
            found[name] = pkgutil.resolve_name(options) if isinstance(options, str) else options
    return found


def engine_of(model: ModelConfig, store: Store | None) -> EngineSpec:
    """The engine that `model` names, else the one that its files are for, else the one that most models get.

    Raises:
        EngineNotFound: naming those that there are.
        ConfigError: `url` or `file` cannot be understood.
    """
    by_files = store.engine_of(model) if store is not None and model.engine is None else None
    return find_engine(model.engine or by_files or DEFAULT)
