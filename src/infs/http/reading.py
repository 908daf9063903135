"""Bodies of requests: bytes with a limit, then JSON, then a struct; each step says what is wrong and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from infs.errors import InvalidRequest
from infs.http.errors import BodyTooLarge
from infs.http.service import ClientGone
from infs.types import explain

T = TypeVar("T")

# Of free-form values (JSON Schemas, template variables): deeper ones are an attack on some parser down the road.
MAX_DEPTH = 100

# An error quotes what it is about, which may be megabytes.
MAX_MESSAGE = 500

_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `([^`]*)`")
_LONE_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F])")


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes.

    Raises:
        BodyTooLarge: it is longer, or says it will be.
        ClientGone: it never came to its end.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect as error:
        raise ClientGone("The client closed the connection before its request was whole.") from error
    return bytes(body)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request is larger than the {limit} bytes that this server takes (server.max_body).")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, whatever its content type was.

    Raises:
        InvalidRequest: there is none.
    """
    if not body.strip():
        raise InvalidRequest("The body is empty; send a JSON object.")
    try:
        value = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid UTF-8: {error.reason} at byte {error.start}.") from error
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    except msgspec.DecodeError as error:
        if _LONE_SURROGATE.search(body):
            raise InvalidRequest("The body holds half of a surrogate pair, which is no character.") from error
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The body is JSON, but not an object.")
    return value


def to_struct(fields: dict[str, Any], kind: type[T]) -> T:
    """`fields` as `kind`, of exactly its types.

    Raises:
        InvalidRequest: with the path of the field as `param`.
    """
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message, path = explain(error)
        if field := _FIELD.search(message):
            path = f"{path}.{field[1]}" if path else field[1]
        raise InvalidRequest(f"{message[:MAX_MESSAGE]}.", param=path and path[:MAX_MESSAGE]) from error
    except (OverflowError, RecursionError) as error:
        raise InvalidRequest(f"The request holds a value that is too large: {error}.") from error


def check_names(fields: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Raise `InvalidRequest` for the first of `fields` that `kind` does not have."""
    known = kind.__struct_encode_fields__
    for name in fields:
        if name not in known:
            raise InvalidRequest(f"Unknown parameter: {name[:100]!r}.{nearest(name, known)}", param=name[:100])


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for the one of `known` that `name` may be meant for, behind a space; empty where there is none."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_depth(value: Any, param: str) -> None:
    """Raise `InvalidRequest` for a value whose lists and objects are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in _children(parent)]
        if not level:
            return
    raise InvalidRequest(f"{param} is nested more than {MAX_DEPTH} levels deep.", param=param)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
