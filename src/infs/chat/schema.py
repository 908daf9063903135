"""JSON Schemas: what can be enforced while a model writes, and what has to be refused.

A schema is rewritten where another form is enforced better (`rewriting`), then llguidance says what it cannot do, and
here is found which keyword that is, and where. Keywords and formats that the standard does not know, and annotations
such as ``title`` or ``default``, enforce nothing and are left alone, as the standard says. The standard is draft
2020-12, unless ``$schema`` names another one.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import unquote

from infs.chat.numbers import check_steps, separate_bounds
from infs.chat.rewriting import rewrite
from infs.errors import InvalidRequest, RequestError, Unsupported

# One space, or a new line with an indentation: enough for every usual layout, and no room to write blanks for ever.
WHITESPACE = r"[ ]|\r?\n[ \t]{0,32}"
Whitespace = Literal["compact", "flexible"]

_LAYOUTS: dict[str, dict[str, Any]] = {
    "flexible": {"whitespace_pattern": WHITESPACE},
    # What Python's json.dumps writes, and chat templates show: the model has nothing to choose between two values.
    "compact": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
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
_MAP = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")

# In these, a $ref overrides what stands beside it.
_REF_ALONE = re.compile(r"draft-0[3467]/")

# What llguidance's reasons are about, where they do not name the keyword.
_KEYWORDS = {
    "Resource '": "$ref",
    "Anchor '": "$ref",
    "Pointer '": "$ref",
    "circular references": "$ref",
    "patternProperty": "patternProperties",
    "integer range": "minimum and maximum",
    "float range": "minimum and maximum",
    "Unknown format": "format",
    "regex parse error": "pattern",
    "invalid regex": "pattern",
}

# What a reason of llguidance's has in it where the schema is right, but more than can be enforced.
_LIMITS = ("Unimplemented", "not supported", "only supported", "patternProperty", "Unable to determine")

# Finding where an error is takes one check for each part of a schema.
_MAX_PARTS = 500


def enforceable(
    schema: dict[str, Any], *, param: str, lenient: bool = False, whitespace: Whitespace = "compact"
) -> dict[str, Any]:
    """`schema` for llguidance, once it is known that it can be enforced.

    Args:
        param: the field of the request that errors name.
        lenient: leave out what cannot be enforced, instead of refusing it.
        whitespace: what stands between values; see `JsonConstraint`.

    Raises:
        Unsupported: it has a keyword that cannot be enforced; the message says which, and where.
        InvalidRequest: it is no valid schema, or nothing can fit it.
    """
    try:
        copy = json.loads(json.dumps(schema))
    except (RecursionError, ValueError, TypeError) as error:
        raise InvalidRequest(f"The schema is nested too deeply, or is not JSON: {error}", param=param) from error
    _rewrite_all(copy, param, lenient)
    options = {**_LAYOUTS[whitespace], "lenient": lenient, "coerce_one_of": lenient}
    if reason := _error(copy, options):
        where = _place(copy, reason, options)
        kind = Unsupported if any(limit in reason for limit in _LIMITS) else InvalidRequest
        raise _refused(kind, where, _named(reason.partition(" Enable ")[0]), param)
    return {**copy, "x-guidance": options}


def parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in `schema`, with its place as a JSON pointer (``#/properties/name``), the outermost first.

    What a ``$ref`` leads to is one too, wherever it stands. Parts may be changed when they come, before those in them.
    """
    waiting: deque[tuple[str, Any]] = deque([("#", schema)])
    seen: set[int] = set()
    bases: list[dict[str, Any]] = [schema]
    pointers: list[str] = []
    while waiting:
        path, part = waiting.popleft()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield path, part
        waiting.extend(_inner(path, part))
        if isinstance(part.get("$id"), str):
            bases.append(part)
            waiting.extend((pointer, resolve_pointer(part, pointer)) for pointer in pointers)
        if isinstance(reference := part.get("$ref"), str) and (pointer := "#" + reference.partition("#")[2]) != "#":
            pointers.append(pointer)
            waiting.extend((pointer, resolve_pointer(base, pointer)) for base in bases)


def _inner(path: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _ONE:
        if key in part:
            yield f"{path}/{key}", part[key]
    for key in _LIST:
        if isinstance(items := part.get(key), list):
            yield from ((f"{path}/{key}/{index}", item) for index, item in enumerate(items))
    for key in _MAP:
        if isinstance(items := part.get(key), dict):
            yield from ((f"{path}/{key}/{name}", item) for name, item in items.items())


def resolve_pointer(base: Any, pointer: str) -> Any:
    """What the JSON pointer in a ``#/...`` reference leads to in `base`; ``None`` where it leads nowhere."""
    if not pointer.startswith("#/"):
        return base if pointer == "#" else None
    for name in unquote(pointer[2:]).split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(base, list) and name.isascii() and name.isdigit() and int(name) < len(base):
            base = base[int(name)]
        elif isinstance(base, dict) and name in base:
            base = base[name]
        else:
            return None
    return base


def _rewrite_all(schema: dict[str, Any], param: str, lenient: bool) -> None:
    ref_alone = bool(_REF_ALONE.search(str(schema.get("$schema", ""))))

    def resolve(reference: str) -> Any:
        return resolve_pointer(schema, reference)

    for path, part in parts(schema):
        try:
            rewrite(part, resolve, ref_alone=ref_alone, lenient=lenient)
        except RequestError as error:
            raise _refused(type(error), path, error.message, param) from error
    numeric = [part for _, part in parts(schema)]
    separate_bounds(numeric)
    try:
        check_steps(numeric, lenient=lenient)
    except Unsupported as error:
        raise _refused(Unsupported, "#", error.message, param) from error


def _refused(kind: type[RequestError], path: str, why: str, param: str) -> RequestError:
    return kind(f"The JSON schema cannot be used: at {path}: {why}", param=param)


def _named(reason: str) -> str:
    """llguidance's reason, with the keyword that it is about."""
    keyword = next((keyword for start, keyword in _KEYWORDS.items() if start in reason), None)
    return reason if keyword is None or keyword in reason else f"{keyword}: {reason}"


def _error(schema: dict[str, Any], options: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps({**schema, "x-guidance": options}))
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0].strip() if failed else ""


def _place(schema: dict[str, Any], error: str, options: dict[str, Any]) -> str:
    """The innermost part of `schema` that gives the same error on its own."""
    shared: dict[str, Any] = {key: schema[key] for key in ("$schema", "$defs", "definitions") if key in schema}
    place = "#"
    for (path, part), _ in zip(parts(schema), range(_MAX_PARTS), strict=False):
        if _error({**shared, **part}, options) == error:
            place = path
    return place
