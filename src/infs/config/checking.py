"""What makes a whole configuration right: each model on its own, and what keys say of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from infs.config.converting import check_keys, convert
from infs.config.defaults import check_defaults
from infs.config.kinds import MODEL_ID, Config, MaxMemory, ModelConfig, Size
from infs.errors import ConfigError
from infs.sizes import check_size
from infs.types import OwnConstraint

_GRAMMAR: Any = OwnConstraint | str


def check_types(data: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` for an unknown key, or a value of a wrong type, in what may be a part of a configuration."""
    check_keys(data, Config, where)
    plain, models = _split_models(data, where)
    convert(plain, Config, where)
    for name, model in models.items():
        _convert_model(model, where, f"models.{name}")


def _split_models(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All but the models, and the models by their ids. Nothing under a key (as YAML allows) is like no key."""
    plain = {key: value for key, value in data.items() if key != "models" and value is not None}
    models = data.get("models")
    if models is None:
        return plain, {}
    if not isinstance(models, Mapping):
        raise ConfigError(f"{where}: models is not a table of models by their ids.", param="models")
    return plain, {str(name): {} if model is None else model for name, model in models.items()}


def parse_config(data: Mapping[str, Any], *, where: str = "the configuration") -> Config:
    """`data` as a checked configuration.

    Raises:
        ConfigError: with the key and what to do about it.
    """
    check_keys(data, Config, where)
    plain, models = _split_models(data, where)
    parsed = {name: parse_model(name, model, where) for name, model in models.items()}
    config = convert(plain, Config, where)
    check_max_memory(config.max_memory, where)
    return msgspec.structs.replace(config, models=parsed)


def check_max_memory(limits: MaxMemory | None, where: str = "the configuration") -> None:
    """Raise `ConfigError` for an amount of memory that is none."""
    for name, size in limits_of(limits).items():
        try:
            check_size(size)
        except ValueError as error:
            key = f"max_memory.{name}" if isinstance(limits, dict) else "max_memory"
            raise ConfigError(f"{where}: {key}: {error}.", param=key) from error


def limits_of(limits: MaxMemory | None) -> dict[str, Size]:
    """`max_memory` by the names of what it limits; a single amount is the host's."""
    if limits is None:
        return {}
    return limits if isinstance(limits, dict) else {"host": limits}


def parse_model(name: str, data: Any, where: str = "the configuration") -> ModelConfig:
    """One model's part of the configuration, checked on its own."""
    key = f"models.{name}"
    if not re.match(MODEL_ID, name):
        raise ConfigError(f"{where}: {name!r} is no model id; use letters, digits and _ : . - / only.", param=key)
    model = data if isinstance(data, ModelConfig) else _convert_model(data, where, key)
    if model.url is not None and model.file is not None:
        raise ConfigError(f"{where}: {key} has both url and file; keep one.", param=key)
    if model.min_instances > model.max_instances:
        raise ConfigError(
            f"{where}: {key} has min_instances = {model.min_instances}, more than "
            f"max_instances = {model.max_instances}.",
            param=f"{key}.min_instances",
        )
    if model.preload is not None and (model.preload.messages is None) == (model.preload.prefix is None):
        raise ConfigError(f"{where}: {key}.preload needs messages or prefix, and not both.", param=key)
    defaults = check_defaults(model.completion_defaults, where, f"{key}.completion_defaults")
    _check_named(defaults.get("constraint"), model.grammars, where, f"{key}.completion_defaults.constraint")
    return msgspec.structs.replace(model, completion_defaults=defaults)


def _check_named(constraint: Any, grammars: Mapping[str, Any], where: str, key: str) -> None:
    """Raise `ConfigError` where the default constraint, as plain data, is a named one that is not there."""
    if constraint and constraint["type"] == "named" and (name := constraint["name"]) not in grammars:
        there = ", ".join(sorted(grammars)) or "none"
        raise ConfigError(f"{where}: {key}: there is no grammar {name!r} in grammars; there are: {there}.", param=key)


def _convert_model(data: Any, where: str, key: str) -> ModelConfig:
    check_keys(data, ModelConfig, where, key)
    grammars = data.get("grammars") if isinstance(data, Mapping) else None
    if isinstance(grammars, Mapping):  # one by one, so that errors say which
        for name, grammar in grammars.items():
            convert(grammar, _GRAMMAR, where, f"{key}.grammars.{name}")
    return convert(data, ModelConfig, where, key)
