"""Configuration files: TOML, YAML or JSON, by their endings."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from infs.errors import ConfigError

DEFAULT_FILE = "infs.toml"


def read_file(path: Path) -> dict[str, Any]:
    """The tables in a TOML, YAML or JSON file.

    Raises:
        ConfigError: when it cannot be read as what its ending says.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from error
    try:
        data = _parse(path, text)
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no table at its top level.")
    return data


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    if suffix == ".json":
        try:
            return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if suffix in (".yaml", ".yml"):
        return _parse_yaml(path, text)
    raise ConfigError(f"{path}: a configuration ends in .toml, .yaml, .yml or .json.")


def _once(pairs: list[tuple[Any, Any]], path: Path) -> dict[Any, Any]:
    """`pairs` as a table. A key that is there twice would hide what stood there first."""
    table: dict[Any, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ConfigError(f"{path} has the key {key!r} twice in one table; keep one.", param=str(key))
        table[key] = value
    return table


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses keys that are there twice."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _once([(key, None) for key in keys if key != "<<"], path)
            return node

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from error
