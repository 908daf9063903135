"""The files that a configuration names beside the model itself: a projector, a draft model, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from infs.config import ModelConfig
from infs.store.selection import BESIDE, FileRule
from infs.store.source import is_url

ROOT = "options."


def wanted_extras(rule: FileRule | None, config: ModelConfig) -> dict[str, str]:
    """What has to be found or fetched, by its key: sources, and `BESIDE`. Paths are the engine's own business."""
    named = {} if rule is None else rule.extras(config)
    return {key: text for key, text in named.items() if text == BESIDE or is_url(text)}


def with_extras(config: ModelConfig, extras: Mapping[str, Path]) -> ModelConfig:
    """`config` with the paths of `extras` (see `Fetched`) in the places of what named them."""
    options: Any = config.options
    for key, path in extras.items():
        options = _put(options, key.removeprefix(ROOT), str(path))
    return msgspec.structs.replace(config, options=options)


def _put(table: Any, key: str, value: str) -> Any:
    """`table` with `value` under the dotted `key`, of which parts may hold dots themselves."""
    if isinstance(table, list):
        place, _, rest = key.partition(".")
        return [_put(each, rest, value) if str(index) == place else each for index, each in enumerate(table)]
    inner = [name for name, each in table.items() if isinstance(each, dict | list) and key.startswith(f"{name}.")]
    if not inner:
        return {**table, key: value}
    name = max(inner, key=len)
    return {**table, name: _put(table[name], key[len(name) + 1 :], value)}
