"""Calls between ``<tool_call>`` tags, as Hermes, Qwen and many others write them."""

from __future__ import annotations

from collections.abc import Sequence

from infs.chat.dialects.base import Calls, Dialect, always, call_object, call_objects
from infs.chat.dialects.json_call import read_call
from infs.chat.dialects.lark import Lark
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(OPEN)
        yield from reader.skip_space()
        if not (yield from read_call(reader, sink, names)):
            return False
        reader.since_mark()
        yield from reader.skip_space()
        yield from reader.accept(CLOSE, cut=True)
        return True

    return tagged([OPEN], read)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    block = f"/\\n?/ {call_objects(lark, tools)} /\\n?/ {lark.text(CLOSE)}"
    return Calls(OPEN, lark.rule(block), again="/\\n?/")


DIALECTS = (
    Dialect(
        name="hermes",
        marks=(OPEN,),
        triggers=always(OPEN),
        reader=_reader,
        rules=_rules,
        write=lambda name, arguments: f"{OPEN}\n{call_object(name, arguments)}\n{CLOSE}",
        call_tokens=(OPEN, CLOSE),
    ),
)
