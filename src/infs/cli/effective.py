"""What ``infs config show`` says: every value that holds, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from infs.cli.settings import assigned, with_demo
from infs.cli.tables import Table, show
from infs.config import Config, Layers, find_file, load_config, read_layers
from infs.store.source import public_url

MASK = "********"
SOURCES = ("default", "file", "environment", "flag")  # of the layers, in their order

Path_ = tuple[str, ...]


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """What holds at a key, as plain data, and where it comes from."""

    value: Any
    source: str


def print_effective(
    file: Path | None,
    environ: Mapping[str, str],
    assignments: tuple[str, ...],
    directory: Path,
    *,
    changed: bool,
    as_json: bool,
) -> None:
    """Print them as a table or as JSON; with `changed`, only those that are not as by default.

    Raises:
        ConfigError: the configuration is wrong.
    """
    path = find_file(file, directory)
    overrides = assigned(assignments)
    config = load_config(path, environ=environ, overrides=overrides, directory=directory)
    layers = read_layers(path, environ=environ, overrides=overrides)
    values = effective(config, layers)
    shown = {key: value for key, value in values.items() if not changed or value.source != "default"}
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(shown), indent=2, ensure_ascii=False))
        return
    click.echo(f"file: {path}\n" if path is not None else "file: none\n")
    rows = [[key, json.dumps(one.value, ensure_ascii=False), one.source] for key, one in shown.items()]
    show(Table(header=["KEY", "VALUE", "SOURCE"], rows=rows))


def effective(config: Config, layers: Layers) -> dict[str, Value]:
    """The values of `config`, which was read from `layers`, by their keys."""
    models = {name: with_demo(name, model) for name, model in config.models.items()}
    plain = msgspec.to_builtins(msgspec.structs.replace(config, models=models))
    return {
        ".".join(path): Value(value=masked(path, value), source=source_of(path, layers)) for path, value in _flat(plain)
    }


def _flat(data: Mapping[str, Any], above: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """The values in nested tables; an empty table is one too, unless it could hold nothing else."""
    for key, value in data.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value:
            yield from _flat(value, path)
        else:
            yield path, value


def source_of(path: Path_, layers: Layers) -> str:
    """The strongest of `layers` that says something at `path`, or sets all of what is above it."""
    for (_, layer), source in zip(reversed(layers), reversed(SOURCES), strict=True):
        if _says(layer, path):
            return source
    return SOURCES[0]


def _says(layer: Any, path: Path_) -> bool:
    for part in path:
        if not isinstance(layer, Mapping):
            return True  # a value in the place of a table
        if part not in layer:
            return False
        layer = layer[part]
    return True


def masked(path: Path_, value: Any) -> Any:
    """`value` for people who look over one's shoulder."""
    if path == ("server", "api_keys"):
        return [MASK] * len(value)
    if path == ("hub", "token") and value is not None:
        return MASK
    if path[-1] in ("url", "endpoint") and isinstance(value, str) and "://" in value:
        return public_url(value)
    return value
