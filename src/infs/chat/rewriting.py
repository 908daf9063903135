"""One part of a JSON Schema, rewritten so that llguidance enforces exactly what the standard says of it.

Each function takes a part, changes it in place where another form means the same, and raises `Unsupported` with the
name of the keyword where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from infs.chat.exclusive import Resolve, exclusive
from infs.chat.formats import BUILT_IN, FORMATS, UNENFORCEABLE
from infs.chat.numbers import BOUNDS, count, plain, step
from infs.chat.patterns import rust_pattern
from infs.errors import RequestError, Unsupported

Part = dict[str, Any]

# Keywords of older drafts and of OpenAPI that change what is valid, and that llguidance does not look at.
_PASSED_OVER = ("nullable", "disallow", "divisibleBy", "extends", "x-guidance")

# A keyword with this value demands nothing, but llguidance refuses it whatever its value.
_NO_DEMAND: Mapping[str, Any] = {
    "uniqueItems": False,
    "nullable": False,
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "propertyNames": True,
    "minContains": 0,
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_BESIDE_REF = frozenset({"$ref", "$defs", "definitions", "$schema"})
# Each of these doubles the alternatives.
_MOST_DEPENDENCIES = 4
_DIALECT = re.compile(r"https?://json-schema\.org/(?:draft-0[467]|draft/20(?:19-09|20-12))/schema#?")


def rewrite(part: Part, resolve: Resolve, *, ref_alone: bool, lenient: bool) -> None:
    """Change `part` in place.

    Args:
        resolve: what a ``$ref`` of this document leads to, or ``None``.
        ref_alone: in this draft, ``$ref`` overrides the keywords beside it.
        lenient: leave out what cannot be enforced, instead of refusing it.

    Raises:
        Unsupported: it has a keyword that cannot be enforced.
        InvalidRequest: a pattern is none.
    """
    if ref_alone and isinstance(part.get("$ref"), str):
        for keyword in part.keys() - _BESIDE_REF:
            del part[keyword]
    for keyword, value in _NO_DEMAND.items():
        if keyword in part and part[keyword] == value:
            del part[keyword]
    _drop_idle(part)
    for keyword, change in _CHANGES.items():
        if keyword in part:
            _change(part, keyword, change, lenient)
    options = part.get("oneOf")
    if isinstance(options, list) and options and exclusive(options, resolve):
        # llguidance sees this itself, but not through $ref.
        del part["oneOf"]
        _also(part, {"anyOf": options})


def _change(part: Part, keyword: str, change: Callable[[Part, str], None], lenient: bool) -> None:
    try:
        change(part, keyword)
    except RequestError as error:
        if not (lenient and isinstance(error, Unsupported)):
            raise error if keyword in error.message else type(error)(f"{keyword}: {error.message}") from error
        del part[keyword]


def _drop_idle(part: Part) -> None:
    """Leave out keywords that demand nothing without another one."""
    if "if" not in part or ("then" not in part and "else" not in part):
        for keyword in ("if", "then", "else"):
            part.pop(keyword, None)
    if "contains" not in part:
        part.pop("minContains", None)
        part.pop("maxContains", None)


# --- one keyword ----------------------------------------------------------------------------------------------


def _refuse(part: Part, keyword: str) -> None:
    raise Unsupported(f"the keyword {keyword!r} cannot be enforced")


def _reference(part: Part, keyword: str) -> None:
    # llguidance knows these documents, but they are not rewritten.
    if isinstance(target := part[keyword], str) and re.match(r"https?://json-schema\.org/", target):
        raise Unsupported(f"the keyword {keyword!r} leads out of the schema, to {target!r}")


def _dialect(part: Part, keyword: str) -> None:
    if not _DIALECT.fullmatch(str(part[keyword])):
        raise Unsupported(f"the keyword {keyword!r} names a dialect that is not known, {part[keyword]!r}")


def _number(part: Part, keyword: str) -> None:
    part[keyword] = plain(part[keyword], keyword)


def _pattern(part: Part, keyword: str) -> None:
    if isinstance(part[keyword], str):
        part[keyword] = rust_pattern(part[keyword])


def _patterns(part: Part, keyword: str) -> None:
    if isinstance(by_pattern := part[keyword], dict):
        # A second name for the same pattern would be lost.
        part[keyword] = dict(zip(map(rust_pattern, by_pattern), by_pattern.values(), strict=True))


def _format(part: Part, keyword: str) -> None:
    name = part[keyword]
    if not isinstance(name, str) or name in BUILT_IN:
        return
    if name in UNENFORCEABLE:
        raise Unsupported(f"the keyword {keyword!r} cannot be enforced with {name!r}")
    del part[keyword]
    if name in FORMATS:
        _also(part, {"pattern": f"^(?:{FORMATS[name]})$"})


def _dependencies(part: Part, keyword: str) -> None:
    """A property that brings demands along: it is not there, or they are met."""
    found = part[keyword]
    if not isinstance(found, dict):
        return
    if len(found) > _MOST_DEPENDENCIES:
        raise Unsupported(f"the keyword {keyword!r} cannot be enforced for more than {_MOST_DEPENDENCIES} properties")
    del part[keyword]
    for name, wanted in found.items():
        demand = {"required": wanted} if isinstance(wanted, list) else wanted
        _also(part, {"anyOf": [{"properties": {name: False}}, demand]})


def _also(part: Part, other: Part) -> None:
    """Demand `other`, which is not rewritten yet, as well."""
    if part.keys().isdisjoint(other):
        part.update(other)
    elif isinstance(part.setdefault("allOf", []), list):
        part["allOf"] = [*part["allOf"], other]


_CHANGES: Mapping[str, Callable[[Part, str], None]] = {
    **dict.fromkeys(_PASSED_OVER, _refuse),
    "$schema": _dialect,
    "$ref": _reference,
    **dict.fromkeys(_COUNTS, count),
    **dict.fromkeys((*BOUNDS, "const", "enum"), _number),
    **dict.fromkeys(("dependencies", "dependentRequired", "dependentSchemas"), _dependencies),
    "multipleOf": step,
    "format": _format,  # before pattern, as it makes one
    "pattern": _pattern,
    "patternProperties": _patterns,
}
