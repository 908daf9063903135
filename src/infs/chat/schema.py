"""JSON Schemas: what can be enforced while a model writes, and what has to be refused.

llguidance reports the keywords of the standard that it does not implement. Here is found where they are, and a few
keywords that it would pass over in silence are refused. Keywords that the standard does not know, and annotations
such as ``title`` or ``default``, enforce nothing and are left alone, as the standard says.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from infs.errors import InvalidRequest, RequestError, Unsupported

# One space, or a new line with an indentation: enough for every usual layout, and no room to write blanks for ever.
WHITESPACE = r"[ ]|\r?\n[ \t]{0,32}"

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

_ONE = (
    "additionalProperties",
    "additionalItems",
    "items",
    "contains",
    "contentSchema",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAP = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

# Finding where an error is takes one check for each part of a schema.
_MAX_PARTS = 500


def enforceable(schema: dict[str, Any], *, param: str, lenient: bool = False) -> dict[str, Any]:
    """`schema` for llguidance, once it is known that it can be enforced.

    Args:
        param: the field of the request that errors name.
        lenient: leave out what cannot be enforced, instead of refusing it.

    Raises:
        Unsupported: it has a keyword that cannot be enforced; the message says which, and where.
        InvalidRequest: it is no valid schema, or nothing can fit it.
    """
    try:
        copy = json.loads(json.dumps(schema))
    except (RecursionError, ValueError, TypeError) as error:
        raise InvalidRequest(f"The schema is nested too deeply, or is not JSON: {error}", param=param) from error
    for path, part in parts(copy):
        _clean(part, path, param, lenient)
    if reason := _error(copy, lenient):
        where = _place(copy, reason, lenient)
        kind = InvalidRequest if lenient or _error(copy, True) else Unsupported
        raise _refused(kind, where, reason.partition(" Enable ")[0], param)
    return _with_options(copy, lenient)


def parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in `schema`, with its place as a JSON pointer (``#/properties/name``), the outermost first."""
    waiting: deque[tuple[str, Any]] = deque([("#", schema)])
    while waiting:
        path, part = waiting.popleft()
        if not isinstance(part, dict):
            continue
        yield path, part
        waiting.extend((f"{path}/{key}", part[key]) for key in _ONE if key in part)
        for key in _LIST:
            if isinstance(items := part.get(key), list):
                waiting.extend((f"{path}/{key}/{index}", item) for index, item in enumerate(items))
        for key in _MAP:
            if isinstance(items := part.get(key), dict):
                waiting.extend((f"{path}/{key}/{name}", item) for name, item in items.items())


def _clean(part: dict[str, Any], path: str, param: str, lenient: bool) -> None:
    for keyword, value in _NO_DEMAND.items():
        if keyword in part and part[keyword] == value:
            del part[keyword]
    for keyword in _PASSED_OVER:
        if keyword in part and not lenient:
            raise _refused(Unsupported, path, f"the keyword {keyword!r} cannot be enforced", param)
        part.pop(keyword, None)


def _refused(kind: type[RequestError], path: str, why: str, param: str) -> RequestError:
    return kind(f"The JSON schema cannot be used: at {path}: {why}", param=param)


def _with_options(schema: dict[str, Any], lenient: bool) -> dict[str, Any]:
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient, "coerce_one_of": lenient}
    return {**schema, "x-guidance": options}


def _error(schema: dict[str, Any], lenient: bool) -> str:
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(_with_options(schema, lenient)))
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0].strip() if failed else ""


def _place(schema: dict[str, Any], error: str, lenient: bool) -> str:
    """The innermost part of `schema` that gives the same error on its own."""
    shared: dict[str, Any] = {key: schema[key] for key in ("$schema", "$defs", "definitions") if key in schema}
    place = "#"
    for (path, part), _ in zip(parts(schema), range(_MAX_PARTS), strict=False):
        if _error({**shared, **part}, lenient) == error:
            place = path
    return place
