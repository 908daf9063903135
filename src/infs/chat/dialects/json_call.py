"""Reading one call written as a JSON object, which several dialects share."""

from __future__ import annotations

import json
from collections.abc import Collection

from infs.chat.parser import Sink
from infs.chat.reader import Flow, Reader

NAME = "name"
ARGUMENTS = ("arguments", "parameters")


def read_call(reader: Reader, sink: Sink, names: Collection[str], *, bare: bool = False) -> Flow[bool]:
    """Read ``{"name": ..., "arguments": ...}`` in either order; false if it is not a call of one of `names`.

    Where the name comes first, the arguments go to `sink` as they come; from then on it is a call, however it goes
    on. On false, what was read is still to be had from the reader's mark, which the caller has set.

    Args:
        bare: no mark shows that this is a call, so that one without arguments is not believed.
    """
    name: str | None = None
    arguments: str | None = None
    if not (yield from reader.accept("{")):
        return False
    while True:
        key = yield from _key(reader)
        if key == NAME and name is None:
            name = yield from _string(reader)
            if name not in names:
                return False
        elif key in ARGUMENTS and arguments is None:
            if name is not None and (yield from reader.peek()) == "{":
                yield from _stream(reader, sink, name)
                return True
            arguments = yield from _arguments(reader)
            if arguments is None:
                return False
        else:
            return False
        yield from reader.skip_space()
        if (yield from reader.accept("}")):
            break
        if not (yield from reader.accept(",")):
            return False
    if name is None or (bare and arguments is None):
        return False
    sink.call(name, arguments or "{}")
    return True


def _stream(reader: Reader, sink: Sink, name: str) -> Flow[None]:
    reader.since_mark()
    sink.call(name)
    if (yield from reader.span(sink.arguments)):
        yield from reader.skip_space()
        yield from reader.accept("}")


def _key(reader: Reader) -> Flow[str | None]:
    yield from reader.skip_space()
    key = yield from _string(reader)
    yield from reader.skip_space()
    if not (yield from reader.accept(":")):
        return None
    yield from reader.skip_space()
    return key


def _string(reader: Reader) -> Flow[str | None]:
    """The value of the JSON string that comes next, ``None`` if there is none."""
    if (yield from reader.peek()) != '"':
        return None
    pieces: list[str] = []
    if not (yield from reader.span(pieces.append)):
        return None
    try:
        return str(json.loads("".join(pieces)))
    except ValueError:
        return None


def _arguments(reader: Reader) -> Flow[str | None]:
    """Arguments as JSON text; some models write them as a string that holds it."""
    if (yield from reader.peek()) != "{":
        return (yield from _string(reader))
    pieces: list[str] = []
    return "".join(pieces) if (yield from reader.span(pieces.append)) else None
