"""The keys of the configuration, as its structs and their docstrings have them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import NODEFAULT, Struct, UnsetType

from infs.cli.engines import option_structs
from infs.config import Config, ModelConfig
from infs.types import GENERATION_OPTIONS, GenerationRequest

_ATTRIBUTE = re.compile(r"^ {4,}((?:\w+)(?:, \w+)*): (.*)$")
_QUOTED = re.compile(r"`(\w+)`: ")


class Key(Struct, frozen=True, kw_only=True):
    """A key at `path`, such as ``server.port``. `default` is `msgspec.NODEFAULT` where it must be given."""

    path: str
    description: str
    hint: Any
    default: Any


def walk(kind: Any = Config, prefix: str = "", models: Iterable[str] = ()) -> Iterator[Key]:
    """All keys of `kind` that hold a value and no table, those of `models` by their ids included."""
    said = descriptions(kind)
    for field in msgspec.structs.fields(kind):
        if kind is GenerationRequest and field.name not in GENERATION_OPTIONS:
            continue
        path = f"{prefix}{field.name}"
        if (kind, field.name) == (Config, "models"):
            for name in models:
                yield from walk(ModelConfig, f"{path}.{name}.")
            continue
        tables = inner_tables(kind, field.name, field.type)
        for table in tables:
            yield from walk(table, f"{path}.")
        if not tables:
            yield Key(path=path, description=said.get(field.name, ""), hint=field.type, default=default_of(field))


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """What holds for `field` where nobody says anything; `msgspec.NODEFAULT` where somebody must."""
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def inner_tables(kind: Any, name: str, hint: Any) -> list[Any]:
    """The structs that may stand under the key `name` of `kind`, where that is a table of known keys."""
    if (kind, name) == (ModelConfig, "completion_defaults"):
        return [GenerationRequest]
    if (kind, name) == (ModelConfig, "options"):
        return list(option_structs().values())
    return [one for one in alternatives(hint) if inspect.isclass(one) and issubclass(one, Struct)]


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a value of type `hint` may have."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return alternatives(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(one for part in typing.get_args(hint) for one in alternatives(part))
    if isinstance(hint, TypeVar) or hint is UnsetType:
        return ()
    return (hint,)


def values_of(path: str) -> list[str]:
    """The values that the key at `path` may have, where there are only a few."""
    own = {key.path: key.hint for key in walk()}
    below = {key.path: key.hint for key in walk(ModelConfig)}
    hints = [own[path]] if path in own else []
    if path.startswith("models."):
        hints = [hint for key, hint in below.items() if path.endswith(f".{key}")][-1:]
    return [value for hint in hints for one in alternatives(hint) for value in _values(one)]


def _values(hint: Any) -> list[str]:
    if hint is bool:
        return ["true", "false"]
    return [str(value) for value in typing.get_args(hint)] if typing.get_origin(hint) is Literal else []


def descriptions(kind: Any) -> dict[str, str]:
    """What the docstring of `kind` says of each field: under ``Attributes:``, or as `` `name`: ...``."""
    text = inspect.cleandoc(kind.__doc__ or "")
    head, _, attributes = text.partition("\nAttributes:\n")
    return _quoted(head) | _listed(attributes)


def _listed(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if started := _ATTRIBUTE.match(line):
            names = started[1].split(", ")
            found |= dict.fromkeys(names, started[2])
        elif line.startswith("        "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return {name: sentence(said) for name, said in found.items()}


def _quoted(text: str) -> dict[str, str]:
    """Of a paragraph such as ``` `gpu`: ... . `cpu_threads`: ...```, what is behind each name."""
    parts = _QUOTED.split(" ".join(text.split()))
    return {name: sentence(said.strip()) for name, said in zip(parts[1::2], parts[2::2], strict=True)}


def sentence(text: str) -> str:
    """`text` for people: without marks of code, and as a sentence."""
    plain = text.replace("`", "").strip().rstrip(".;")
    first = plain[:1] if text.startswith("`") else plain[:1].upper()
    return f"{first}{plain[1:]}." if plain else ""
