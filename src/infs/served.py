"""The models of a server, as configured and checked: what each request needs to know of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from infs.config import ModelConfig, parse_model, typed_defaults, with_defaults
from infs.engines.base import EngineSpec
from infs.errors import ConfigError, InvalidRequest
from infs.toolbox import ServerTool, load_tools
from infs.types import GenerationRequest, NamedConstraint, Request, own_constraint


class Served(Struct, frozen=True):
    """The models by id: their configurations, their engines as far as these are known, defaults and tools."""

    models: dict[str, ModelConfig]
    engines: dict[str, EngineSpec | None]
    defaults: dict[str, dict[str, Any]]
    tools: dict[str, list[ServerTool]]

    @property
    def with_engines(self) -> dict[str, tuple[ModelConfig, EngineSpec | None]]:
        """Configuration and engine of each."""
        return {name: (config, self.engines[name]) for name, config in self.models.items()}

    def complete(self, request: Request[Any]) -> Request[Any]:
        """`request` with its model's settings in the places that it leaves open, and grammars in those of names."""
        if not isinstance(request, GenerationRequest):
            return request
        request = with_defaults(request, self.defaults[request.model])
        if not isinstance(request.constraint, NamedConstraint):
            return request
        name, grammars = request.constraint.name, self.models[request.model].grammars
        if name not in grammars:
            there = ", ".join(sorted(grammars)) or "none"
            raise InvalidRequest(
                f"The model {request.model!r} has no grammar {name!r} in its configuration; there are: {there}.",
                param="constraint",
            )
        return replace(request, constraint=own_constraint(grammars[name]))


def read_models(
    models: Mapping[str, ModelConfig | Mapping[str, Any]],
    engine_of: Callable[[ModelConfig, str], EngineSpec | None],
) -> Served:
    """`models`, checked as far as that is possible without their files.

    Args:
        engine_of: the engine of a model, given its key too; ``None`` if only its files can tell.

    Raises:
        ConfigError: with the key and what to do about it; also when a tool cannot be imported.
        EngineNotFound: a model names an engine that is not known.
    """
    configs = {name: parse_model(name, config) for name, config in models.items()}
    engines = {name: engine_of(config, f"models.{name}") for name, config in configs.items()}
    for name, config in configs.items():
        spec = engines[name]
        if spec is not None:
            spec.check_model(name, config)
        elif config.url is None and config.file is None:
            raise ConfigError(f"models.{name} needs a url or a file.", param=f"models.{name}")
    return Served(
        configs,
        engines,
        {name: typed_defaults(config.completion_defaults) for name, config in configs.items()},
        {name: load_tools(name, config) for name, config in configs.items()},
    )
