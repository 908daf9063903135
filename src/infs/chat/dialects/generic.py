"""Calls as a bare JSON object, or a list of them: for models trained for no dialect that is known here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from infs.chat.dialects.base import Calls, Dialect, Trigger, call_object, call_objects
from infs.chat.dialects.json_call import bare_triggers, read_call
from infs.chat.dialects.lark import Lark
from infs.chat.parser import ReadContent, Sink, read_plain
from infs.chat.reader import Flow, Reader
from infs.types import Tool


def read_bare(reader: Reader, sink: Sink, names: Collection[str], *, separator: str = ",") -> Flow[None]:
    """Read an answer that is one call or a list of them, or else none of it."""
    had = sink.calls
    reader.mark()
    yield from reader.skip_space()
    listed = yield from reader.accept("[")
    yield from reader.skip_space()
    while (yield from read_call(reader, sink, names, bare=True)):
        reader.since_mark()
        if sink.full:
            return
        reader.mark()
        yield from reader.skip_space()
        if not (yield from reader.accept("," if listed else separator)):
            break
        yield from reader.skip_space()
    if sink.calls > had:
        if listed and (yield from reader.accept("]")):
            reader.since_mark()
        reader.back()
        yield from reader.skip_space()
    else:
        reader.back()


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        yield from read_bare(reader, sink, names)
        if not sink.full:
            yield from read_plain(reader, sink)

    return read


def listed_calls(call: str, parallel: bool) -> str:
    """A call, or a list of them."""
    return f'({call} | "[" {call} (/, ?/ {call})* "]")' if parallel else call


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    return Calls("", listed_calls(call_objects(lark, tools), parallel))


def triggers(tools: Sequence[Tool]) -> tuple[Trigger, ...]:
    """The beginnings of a bare call of one of `tools`, and of a list of calls."""
    return (*bare_triggers(tools), *bare_triggers(tools, before="["))


DIALECTS = (
    Dialect(
        name="generic",
        marks=(),
        triggers=triggers,
        reader=_reader,
        rules=_rules,
        write=call_object,
        tells_from_json=False,
    ),
)
