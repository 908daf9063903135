"""Reading calls written as JSON objects, which several dialects share."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from infs.chat.dialects.base import Trigger
from infs.chat.parser import Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

NAME = "name"
ARGUMENTS = ("arguments", "parameters")
BESIDE = ("id", "type")
"""Keys that some models write too, with texts that say nothing new."""

# As a trigger, the way to the name of a tool can be written in these ways; the grammar knows the first.
_HEADS = ('{"name": ', '{"name":', '{ "name": ', '{\n  "name": ', '{\n    "name": ')


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
        elif key not in BESIDE or (yield from _string(reader)) is None:
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


def read_arguments(reader: Reader, sink: Sink, name: str) -> Flow[bool]:
    """Read an object, behind white space, as the arguments of a call of `name`; false if none comes."""
    yield from reader.skip_space()
    if (yield from reader.peek()) != "{":
        return False
    reader.since_mark()
    sink.call(name)
    yield from reader.span(sink.arguments)
    return True


def bare_triggers(tools: Sequence[Tool], *, before: str = "") -> tuple[Trigger, ...]:
    """Triggers for calls that no mark tells from other JSON: the whole way to the name of a tool.

    Args:
        before: what stands before the object.
    """
    return tuple(
        Trigger(f"{before}{head}{json.dumps(tool.name)}", True, f"{before}{_HEADS[0]}{json.dumps(tool.name)}")
        for tool in tools
        for head in _HEADS
    )


def _stream(reader: Reader, sink: Sink, name: str) -> Flow[None]:
    reader.since_mark()
    sink.call(name)
    if (yield from reader.span(sink.arguments)):
        yield from _close(reader)


def _close(reader: Reader) -> Flow[None]:
    """Read what may follow the arguments in their object; what does not belong there stays unread."""
    while True:
        reader.mark()
        yield from reader.skip_space()
        if not (yield from reader.accept(",")):
            break
        if (yield from _key(reader)) not in BESIDE or (yield from _string(reader)) is None:
            reader.back()
            return
        reader.since_mark()
    if (yield from reader.accept("}")):
        reader.since_mark()
    else:
        reader.back()


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
