"""Calls of DeepSeek: a section of calls, with the arguments fenced in V3 and R1, and bare since V3.1."""

from __future__ import annotations

from collections.abc import Sequence

from infs.chat.dialects.base import Calls, Dialect, always, arguments
from infs.chat.dialects.json_call import read_arguments
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

SECTION = "<｜tool▁calls▁begin｜>"
END_SECTION = "<｜tool▁calls▁end｜>"
CALL = "<｜tool▁call▁begin｜>"
END_CALL = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE = "```"

_TOKENS = (SECTION, END_SECTION, CALL, END_CALL, SEPARATOR)
_ENDS = ("<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜end▁of▁sentence｜>")


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(SECTION)
        yield from reader.skip_space()
        yield from reader.accept(CALL)
        yield from reader.accept(f"function{SEPARATOR}")
        name = yield from reader.accept_any(names)
        if not name:
            return False
        yield from reader.accept(SEPARATOR)
        yield from reader.skip_space()
        yield from reader.accept(f"{FENCE}json")
        if not (yield from read_arguments(reader, sink, name)):
            return False
        for mark in (FENCE, END_CALL, END_SECTION):
            yield from reader.skip_space()
            yield from reader.accept(mark, cut=True)
        return True

    return tagged([SECTION, CALL], read)


def _section(lark: Lark, calls: list[str], parallel: bool) -> Calls:
    call = lark.rule(f"{lark.text(CALL)} {any_of(calls)} {lark.text(END_CALL)}")
    more = f" (/\\n?/ {call})*" if parallel else ""
    return Calls(SECTION, f"{call}{more} {lark.text(END_SECTION)}")


def _fenced_rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    heads = [lark.text(f"function{SEPARATOR}{tool.name}\n{FENCE}json\n") for tool in tools]
    fence = lark.text("\n" + FENCE)
    calls = [f"{head} {arguments(lark, tool)} {fence}" for head, tool in zip(heads, tools, strict=True)]
    return _section(lark, calls, parallel)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    calls = [lark.text(tool.name + SEPARATOR) + " " + arguments(lark, tool) for tool in tools]
    return _section(lark, calls, parallel)


def _written(call: str) -> str:
    return f"{SECTION}{CALL}{call}{END_CALL}{END_SECTION}"


DIALECTS = (
    Dialect(
        name="deepseek",
        marks=(SECTION, CALL, SEPARATOR, f"{FENCE}json"),
        triggers=always(SECTION),
        reader=_reader,
        rules=_fenced_rules,
        write=lambda name, arguments: _written(f"function{SEPARATOR}{name}\n{FENCE}json\n{arguments}\n{FENCE}"),
        call_tokens=_TOKENS,
        ends=_ENDS,
    ),
    Dialect(
        name="deepseek-3.1",
        marks=(SECTION, CALL, SEPARATOR),
        triggers=always(SECTION),
        reader=_reader,
        rules=_rules,
        write=lambda name, arguments: _written(f"{name}{SEPARATOR}{arguments}"),
        call_tokens=_TOKENS,
        ends=_ENDS,
    ),
)
