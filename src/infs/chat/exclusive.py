"""Which alternatives of a JSON Schema exclude each other: no value fits two of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from infs.chat.numbers import plain
from infs.errors import Unsupported

Part = dict[str, Any]
Resolve = Callable[[str], Any]

_MOST_REFS = 32
_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def exclusive(options: list[Any], resolve: Resolve) -> bool:
    """Whether no value fits two of the schemas `options`, as far as types, constants and required properties tell.

    Args:
        resolve: what a ``$ref`` leads to, or ``None``.
    """
    return all(_disjoint(one, other, resolve) for one, other in itertools.combinations(options, 2))


def _disjoint(one: Any, other: Any, resolve: Resolve, depth: int = 0) -> bool:
    one, other = _followed(one, resolve), _followed(other, resolve)
    if not isinstance(one, dict) or not isinstance(other, dict) or depth > _MOST_REFS:
        return False
    if (values := _values(one)) is not None and (others := _values(other)) is not None:
        return values.isdisjoint(others)
    kinds = _kinds(one) & _kinds(other)
    return not kinds or (kinds == {"object"} and _told_apart(one, other, resolve, depth))


def _told_apart(one: Part, other: Part, resolve: Resolve, depth: int) -> bool:
    """Whether a property that one of the two requires cannot be the same in both."""
    required = [name for part in (one, other) for name in _as(list, part.get("required"))]
    properties = [_as(dict, part.get("properties")) for part in (one, other)]
    return any(
        all(name in names for names in properties)
        and _disjoint(properties[0][name], properties[1][name], resolve, depth + 1)
        for name in required
        if isinstance(name, str)
    )


def _followed(part: Any, resolve: Resolve) -> Any:
    for _ in range(_MOST_REFS):
        if not isinstance(part, dict) or not isinstance(part.get("$ref"), str):
            return part
        part = resolve(part["$ref"])
    return None


def _values(part: Part) -> frozenset[str] | None:
    """The values that `part` allows, as texts to compare; ``None`` where it does not list them."""
    values = [part["const"]] if "const" in part else part.get("enum")
    if not isinstance(values, list):
        return None
    try:
        return frozenset(json.dumps(plain(value, ""), sort_keys=True) for value in values)
    except Unsupported:
        return None


def _kinds(part: Part) -> frozenset[str]:
    if "const" in part or isinstance(part.get("enum"), list):
        return frozenset(_KINDS[type(value)] for value in ([part["const"]] if "const" in part else part["enum"]))
    if "type" not in part:
        return _TYPES
    types = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return frozenset("number" if name == "integer" else name for name in types if isinstance(name, str))


def _as(kind: type, value: Any) -> Any:
    return value if isinstance(value, kind) else kind()
