"""From plain data to structs, with errors that name the key, and the nearest one that there is."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from infs.errors import ConfigError
from infs.types import explain

Checked = TypeVar("Checked")


def convert(data: Any, kind: type[Checked], where: str, key: str = "") -> Checked:
    """`data` as `kind`; texts from the environment become numbers and booleans where those are wanted."""
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        what, param = explain(error)
        full = ".".join(part for part in (key, param) if part)
        said = what.partition(": ")[2] if param else what
        if said.startswith("Expected `array`"):
            said += ' (write ["a", "b"])'
        raise ConfigError(f"{where}: {full or 'it'}: {said}.", param=full or None) from error


def check_keys(data: Any, kind: Any, where: str, prefix: str = "") -> None:
    """Raise for the first key in `data` that the struct `kind` does not have, at any depth.

    Raises:
        ConfigError: naming the nearest key that there is.
    """
    kind = _member(kind, data, where, prefix)
    if not isinstance(data, Mapping) or not (isinstance(kind, type) and issubclass(kind, Struct)):
        return
    tag = kind.__struct_config__.tag_field
    check_names(data, (*kind.__struct_fields__, *([tag] if tag else [])), where, prefix)
    hints = typing.get_type_hints(kind)
    for name, value in data.items():
        if name == tag:
            continue
        inner = f"{prefix}.{name}" if prefix else str(name)
        for option in _options(hints[name]):
            if typing.get_origin(option) is dict and isinstance(value, Mapping):
                for key, item in value.items():
                    check_keys(item, typing.get_args(option)[1], where, f"{inner}.{key}")
            elif typing.get_origin(option) is list and isinstance(value, list):
                for number, item in enumerate(value):
                    check_keys(item, typing.get_args(option)[0], where, f"{inner}[{number}]")
            else:
                check_keys(value, option, where, inner)


def _member(kind: Any, data: Any, where: str, prefix: str) -> Any:
    """Of a union of tagged structs the one that `data` says it is; any other `kind` itself."""
    tagged = {
        option.__struct_config__.tag: option
        for option in _options(kind)
        if isinstance(option, type) and issubclass(option, Struct) and option.__struct_config__.tag is not None
    }
    if len(tagged) < 2 or not isinstance(data, Mapping):
        return kind
    field = next(iter(tagged.values())).__struct_config__.tag_field
    if (said := data.get(field)) not in tagged:
        full = f"{prefix}.{field}"
        what = f"{said!r} is none of" if field in data else "it is missing; there are"
        raise ConfigError(f"{where}: {full}: {what} {', '.join(map(repr, sorted(tagged)))}.", param=full)
    return tagged[said]


def check_names(data: Mapping[str, Any], known: typing.Iterable[str], where: str, prefix: str) -> None:
    known = list(known)
    for name in data:
        if name in known:
            continue
        full = f"{prefix}.{name}" if prefix else str(name)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}."
        raise ConfigError(f"{where}: unknown key {full!r}; {hint}", param=full)


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)
