"""Calls in fenced code, as Gemma 3 writes them: JSON or Python, of which its template says nothing.

Gemma 3 is told about tools in plain words (see `conversation.tell_tools`), and answers with a bare object, or with one
in a block of code, or with a block that is called ``tool_code`` and has a call in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from infs.chat.dialects.base import Calls, Dialect, Trigger, call_object, call_objects
from infs.chat.dialects.generic import listed_calls, read_bare, triggers
from infs.chat.dialects.lark import Lark
from infs.chat.dialects.python_call import calls_in
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

FENCE = "```"
CODE = "tool_code"
KINDS = ("json", "tool_call", CODE, "function_call")


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}
    openings = [f"{FENCE}{kind}\n" for kind in KINDS]

    def read_block(reader: Reader, sink: Sink) -> Flow[bool]:
        opening = yield from reader.accept_any(openings)
        yield from reader.skip_space()
        char = yield from reader.peek()
        if char != "{" and (char != "[" or CODE in opening):
            return (yield from _read_python(reader, sink, tools))
        had, begun = sink.calls, reader.since_mark()
        yield from read_bare(reader, sink, names)
        if sink.calls == had:
            sink.content(begun)
            return False
        yield from reader.accept(FENCE, cut=True)
        return True

    blocks = tagged(openings, read_block)

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        yield from read_bare(reader, sink, names)
        if not sink.full:
            yield from blocks(reader, sink)

    return read


def _read_python(reader: Reader, sink: Sink, tools: Sequence[Tool]) -> Flow[bool]:
    pieces: list[str] = []
    if not (yield from reader.until(FENCE, pieces.append)):
        return False
    calls = calls_in("".join(pieces), {tool.name for tool in tools})
    for name, arguments in calls:
        if not sink.full:
            sink.call(name, arguments)
    if calls:
        reader.since_mark()
    return bool(calls)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    calls = listed_calls(call_objects(lark, tools), parallel)
    opening, closing = lark.text(f"{FENCE}json\n"), lark.text("\n" + FENCE)
    return Calls("", f"({calls} | {opening} {calls} {closing})")


def _triggers(tools: Sequence[Tool]) -> tuple[Trigger, ...]:
    bare = triggers(tools)
    fenced = [
        Trigger(f"{FENCE}{kind}\n{trigger.text}", lead=f"{FENCE}json\n{trigger.lead}")
        for kind in KINDS
        for trigger in bare
    ]
    return (*bare, *fenced)


DIALECTS = (
    Dialect(
        name="gemma",
        marks=("<start_of_turn>",),
        triggers=_triggers,
        reader=_reader,
        rules=_rules,
        write=call_object,
        tells_from_json=False,
        ends=("<end_of_turn>",),
    ),
)
