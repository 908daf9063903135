"""Calls of Llama 3.1 and later: a bare JSON object with ``parameters``, or one behind ``<|python_tag|>``.

Several calls are joined by a semicolon. Behind the tag, a call may also look like one in Python: ``name.call(a="b")``,
which these models were trained to write for the tools they know from their training.
"""

from __future__ import annotations

from collections.abc import Sequence

from infs.chat.dialects.base import Calls, Dialect, Trigger, call_object, call_objects
from infs.chat.dialects.generic import read_bare
from infs.chat.dialects.json_call import bare_triggers
from infs.chat.dialects.lark import Lark
from infs.chat.dialects.python_call import calls_in
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

TAG = "<|python_tag|>"


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read_tag(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(TAG)
        had = sink.calls
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            return (yield from _read_python(reader, sink, tools))
        whole = reader.since_mark()
        yield from read_bare(reader, sink, names, separator=";")
        if sink.calls == had:
            sink.content(whole)
        return sink.calls > had

    after = tagged([TAG], read_tag)

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        yield from read_bare(reader, sink, names, separator=";")
        if not sink.full:
            yield from after(reader, sink)

    return read


def _read_python(reader: Reader, sink: Sink, tools: Sequence[Tool]) -> Flow[bool]:
    """Read the rest of the answer if it is calls in Python's syntax."""
    names = {tool.name for tool in tools}
    head = yield from reader.accept_any([f"{name}{way}" for name in names for way in (".call(", "(")])
    if not head:
        return False
    pieces = [head.replace(".call(", "(")]
    while piece := (yield from reader.rest()):
        pieces.append(piece)
    calls = calls_in("".join(pieces), names)
    for name, arguments in calls:
        if not sink.full:
            sink.call(name, arguments)
    return bool(calls)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    call = call_objects(lark, tools, key="parameters")
    return Calls("", f"{call} (/; ?/ {call})*" if parallel else call)


def _triggers(tools: Sequence[Tool]) -> tuple[Trigger, ...]:
    return (Trigger(f"{TAG}{{", lead="{"), *bare_triggers(tools))


DIALECTS = (
    Dialect(
        name="llama3",
        marks=("<|start_header_id|>", '"parameters": '),
        triggers=_triggers,
        reader=_reader,
        rules=_rules,
        write=lambda name, arguments: call_object(name, arguments, key="parameters"),
        tells_from_json=False,
        call_tokens=(TAG,),
        ends=("<|eom_id|>", "<|eot_id|>"),
    ),
)
