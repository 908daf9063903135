"""Calls behind ``[TOOL_CALLS]``: a JSON list at first, later a name and ``[ARGS]`` for each call."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence

from infs.chat.dialects.base import Calls, Dialect, always, arguments, call_object, call_objects
from infs.chat.dialects.json_call import read_arguments, read_call
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink, Thinking
from infs.chat.reader import Flow, Reader
from infs.types import Tool

OPEN = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"
THINKING = Thinking("[THINK]", "[/THINK]")

_ID = "/[a-zA-Z0-9]{9}/"


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(OPEN)
        yield from reader.skip_space()
        if (yield from reader.peek()) in ("[", "{"):
            return (yield from _read_list(reader, sink, names))
        name = yield from reader.accept_any(names)
        if not name:
            return False
        if (yield from reader.accept(CALL_ID)):
            yield from _skip_id(reader)
        yield from reader.accept(ARGS)
        return (yield from read_arguments(reader, sink, name))

    return tagged([OPEN], read)


def _skip_id(reader: Reader) -> Flow[None]:
    while (char := (yield from reader.peek())) and char in string.ascii_letters + string.digits:
        reader.take(1)


def _read_list(reader: Reader, sink: Sink, names: Collection[str]) -> Flow[bool]:
    had = sink.calls
    yield from reader.accept("[")
    yield from reader.skip_space()
    while (yield from read_call(reader, sink, names)):
        reader.since_mark()
        if sink.full:
            return True
        reader.mark()
        yield from reader.skip_space()
        if (yield from reader.accept_any([",", "]"])) != ",":
            reader.since_mark()
            return True
        yield from reader.skip_space()
    if sink.calls > had:
        reader.back()
        return True
    return False


def _list_rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    call_id = f'(/, ?"id": ?"/ {_ID} "\\"")?'
    call = call_objects(lark, tools, end=f'{call_id} "}}"')
    more = f" (/, ?/ {call})*" if parallel else ""
    return Calls(OPEN, f'/ ?/ "[" {call}{more} "]"')


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    args = lark.text(ARGS)
    calls = [f"{lark.text(tool.name)} {args} {arguments(lark, tool)}" for tool in tools]
    return Calls(OPEN, lark.rule(any_of(calls)), again="")


def _id_rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    between = f"{lark.text(CALL_ID)} {_ID} {lark.text(ARGS)}"
    calls = [f"{lark.text(tool.name)} {between} {arguments(lark, tool)}" for tool in tools]
    return Calls(OPEN, lark.rule(any_of(calls)), again="")


DIALECTS = (
    Dialect(
        name="mistral",
        marks=(OPEN,),
        triggers=always(OPEN),
        reader=_reader,
        rules=_list_rules,
        write=lambda name, arguments: f"{OPEN}[{call_object(name, arguments)}]",
        thinking=THINKING,
        call_tokens=(OPEN,),
    ),
    Dialect(
        name="mistral-args",
        marks=(OPEN, ARGS),
        triggers=always(OPEN),
        reader=_reader,
        rules=_rules,
        write=lambda name, arguments: f"{OPEN}{name}{ARGS}{arguments}",
        thinking=THINKING,
        call_tokens=(OPEN, ARGS),
    ),
    Dialect(
        name="mistral-ids",
        marks=(OPEN, ARGS, CALL_ID),
        triggers=always(OPEN),
        reader=_reader,
        rules=_id_rules,
        write=lambda name, arguments: f"{OPEN}{name}{CALL_ID}000000000{ARGS}{arguments}",
        thinking=THINKING,
        call_tokens=(OPEN, ARGS, CALL_ID),
    ),
)
