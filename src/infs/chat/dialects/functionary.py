"""Calls of Functionary: ``<function=name>{...}</function>`` in version 3.1, ``>>>name`` and a line of JSON in 3.2.

In version 3.2 every part of an answer says whom it is for. Text for the user is for ``all``; the prompt ends with the
first ``>>>``.
"""

from __future__ import annotations

from collections.abc import Sequence

from infs.chat.dialects.base import Calls, Dialect, Trigger, always, arguments
from infs.chat.dialects.json_call import read_arguments
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

OPEN = "<function="
CLOSE = "</function>"
FOR = ">>>"
ALL = "all\n"


def _tag_reader(tools: Sequence[Tool]) -> ReadContent:
    heads = {f"{OPEN}{tool.name}>": tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[bool]:
        head = yield from reader.accept_any(heads)
        if not (yield from read_arguments(reader, sink, heads[head])):
            return False
        yield from reader.skip_space()
        yield from reader.accept(CLOSE, cut=True)
        return True

    return tagged([*heads], read)


def _tag_rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    calls = [lark.text(tool.name + ">") + " " + arguments(lark, tool) for tool in tools]
    return Calls(OPEN, lark.rule(f"{any_of(calls)} {lark.text(CLOSE)}"), again="/\\n?/")


def _part_reader(tools: Sequence[Tool]) -> ReadContent:
    heads = {f"{tool.name}\n": tool.name for tool in tools}

    def read_part(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(FOR)
        head = yield from reader.accept_any([*heads, ALL])
        if head == ALL:
            reader.since_mark()
            return True
        return head in heads and (yield from read_arguments(reader, sink, heads[head]))

    more = tagged([f"{FOR}{head}" for head in (*heads, ALL)], read_part)

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        reader.mark()
        if not (yield from read_part(reader, sink)):
            sink.content(reader.since_mark())
        if not sink.full:
            yield from more(reader, sink)

    return read


def _part_rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    call = lark.rule(any_of([lark.text(tool.name + "\n") + " " + arguments(lark, tool) for tool in tools]))
    again = f"/\\n?/ {lark.text(FOR)}"
    return Calls("", call, again=again, tail=f"({again} {call})* ({again} {lark.text(ALL)} TEXT)?")


def _part_triggers(tools: Sequence[Tool]) -> tuple[Trigger, ...]:
    heads = [f"{tool.name}\n" for tool in tools]
    first = [Trigger(head, anchored=True, lead=head) for head in heads]
    return (*first, *(Trigger(f"{FOR}{head}", lead=head) for head in heads))


DIALECTS = (
    Dialect(
        name="functionary-3.1",
        marks=("<|start_header_id|>", OPEN, CLOSE),
        triggers=always(OPEN),
        reader=_tag_reader,
        rules=_tag_rules,
        write=lambda name, arguments: f"{OPEN}{name}>{arguments}{CLOSE}",
        ends=("<|eom_id|>", "<|eot_id|>"),
    ),
    Dialect(
        name="functionary-3.2",
        marks=("<|start_header_id|>", ">>>all\\n", "recipient"),
        triggers=_part_triggers,
        reader=_part_reader,
        rules=_part_rules,
        write=lambda name, arguments: f"{FOR}{name}\n{arguments}",
        framed=True,
        answer=ALL,
        ends=("<|eom_id|>", "<|eot_id|>"),
    ),
)
