"""Configuration from its layers: a file, the environment and flags."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infs.config.checking import check_types, parse_config
from infs.config.files import DEFAULT_FILE, read_file
from infs.config.kinds import Config
from infs.errors import ConfigError

ENV_PREFIX = "INFS_"


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    below: Mapping[str, Any] | None = None,
    directory: str | Path = ".",
) -> Config:
    """The configuration from file, environment and flags.

    Args:
        path: the file; without one, ``infs.toml`` in `directory` if it is there.
        environ: the environment; variables that do not start with ``INFS_`` are not read.
        overrides: what flags say, as nested dictionaries; the strongest.
        below: what holds where none of these says anything, in place of the usual defaults.

    Raises:
        ConfigError: with the key and what to do about it.
    """
    path = find_file(path, directory)
    layers = read_layers(path, environ=environ, overrides=overrides, below=below)
    for name, layer in layers:
        check_types(layer, name)
    return parse_config(merge_layers(layers), where=str(path) if path is not None else "the configuration")


Layers = list[tuple[str, Mapping[str, Any]]]


def find_file(path: str | Path | None, directory: str | Path = ".") -> Path | None:
    """The configuration file: `path`, or ``infs.toml`` in `directory` if it is there."""
    if path is not None:
        return Path(path)
    default = Path(directory) / DEFAULT_FILE
    return default if default.is_file() else None


def read_layers(
    path: Path | None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    below: Mapping[str, Any] | None = None,
) -> Layers:
    """What each place says, with its name for people, the weakest first: defaults, file, environment, flags.

    Raises:
        ConfigError: for a file, or a value of the environment, that cannot be read.
    """
    file = read_file(path) if path is not None else {}
    return [
        ("the defaults", below or {}),
        (str(path) if path is not None else "the configuration", file),
        ("the environment", read_environ(environ or {}, file)),
        ("the command line", overrides or {}),
    ]


def merge_layers(layers: Layers) -> dict[str, Any]:
    """What all of them say together, the last one strongest."""
    return functools.reduce(merge, (layer for _, layer in layers), {})


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with what `above` says in its place, table by table."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def read_environ(environ: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that ``INFS_...`` variables say; `data`, of the file, tells how the ids of models are written.

    Raises:
        ConfigError: for a value that starts like JSON and is none.
    """
    result: dict[str, Any] = {}
    for variable, text in sorted(environ.items()):
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() in NOT_SETTINGS:
            continue
        path = variable[len(ENV_PREFIX) :].split("__")
        _set(result, _spell(path, merge(data, result)), _value(variable, text), variable)
    return result


# Read elsewhere: the name of the configuration file itself, and where commands find a running server.
NOT_SETTINGS = frozenset({"INFS_CONFIG", "INFS_URL", "INFS_API_KEY"})


def _spell(path: list[str], data: Mapping[str, Any]) -> list[str]:
    """Keys are lower case; the id of a model is spelled as in `data`, where it is known there.

    A shell allows letters, digits and ``_`` only, so ``QWEN2_5`` finds ``qwen2.5``. An unknown id is kept, but lower
    case if all of it is upper case, which is all that Windows has.
    """
    spelled = [part.lower() for part in path]
    if spelled[0] == "models" and len(path) > 1:
        models = data.get("models")
        ids = [str(name) for name in models] if isinstance(models, Mapping) else []
        known = {_plain(name): name for name in ids} | {name: name for name in ids}
        unknown = spelled[1] if path[1].isupper() else path[1]
        spelled[1] = known.get(path[1]) or known.get(_plain(path[1]), unknown)
    return spelled


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _value(variable: str, text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{variable} starts like JSON and is none: {error}.", param=variable) from error


def _set(target: dict[str, Any], path: list[str], value: Any, variable: str) -> None:
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{variable} sets a part of something that another variable sets whole.")
    target[path[-1]] = value
