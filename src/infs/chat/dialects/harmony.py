"""Messages of gpt-oss: each says its channel, and a call says to which function it goes.

``<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...``; a call has
``to=functions.name`` in front of its ``<|message|>``, before or behind the channel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from infs.chat.dialects.base import Calls, Dialect, Trigger, arguments
from infs.chat.dialects.json_call import read_arguments
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.parser import BETWEEN_BLOCKS, ReadContent, Sink, Thinking, read_thought
from infs.chat.reader import Flow, Reader
from infs.types import Tool

START = "<|start|>"
ROLE = "<|start|>assistant"
CHANNEL = "<|channel|>"
CONSTRAIN = "<|constrain|>"
MESSAGE = "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
TO = "to=functions."
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"

_LONGEST_HEADER = 300
_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?\s*(?:to=(?P<to>[^\s<]+)\s*)?(?:<\|channel\|>(?P<channel>\w+))?"
    r"(?:\s*to=(?P<also_to>[^\s<]+)(?:<\|channel\|>\w+)?)?\s*(?:<\|constrain\|>)?\s*\w*\s*"
)


@dataclass(frozen=True)
class _Header:
    """What a message is: a call of `call`, or a text for `channel`."""

    call: str = ""
    channel: str = ""


def _reader(tools: Sequence[Tool]) -> ReadContent:
    names = {tool.name for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        said, beginnings = False, [ROLE, CHANNEL, TO]
        while not sink.full:
            header = yield from _read_header(reader, names, beginnings)
            beginnings = [ROLE, CHANNEL]
            if header is None:
                if not (yield from _read_stray(reader, sink)):
                    return
            elif header.call:
                if not (yield from read_arguments(reader, sink, header.call)):
                    sink.content(reader.since_mark())
                yield from _read_end(reader)
            elif header.channel == "analysis":
                reader.since_mark()
                sink.block()
                yield from read_thought(reader, sink, *ENDS)
            else:
                reader.since_mark()
                sink.content(BETWEEN_BLOCKS if said else "")
                said = True
                yield from _read_body(reader, sink)
                yield from _read_end(reader)

    return read


def _read_header(reader: Reader, names: Collection[str], beginnings: Sequence[str]) -> Flow[_Header | None]:
    """Read a header from a mark on; ``None`` if what comes is none that means anything here."""
    reader.mark()
    yield from reader.skip_space()
    header = yield from reader.accept_any(beginnings)
    if not header:
        return None
    while not (yield from reader.accept(MESSAGE)):
        char = yield from reader.peek()
        if char in ("", "\n") or len(header) > _LONGEST_HEADER:
            return None
        header += reader.take(1)
    found = _HEADER.fullmatch(header)
    if found is None:
        return None
    to = (found["to"] or found["also_to"] or "").removeprefix("functions.")
    if to:
        return _Header(call=to) if to in names else None
    return _Header(channel=found["channel"] or "final")


def _read_stray(reader: Reader, sink: Sink) -> Flow[bool]:
    """Read text in no message, from the mark on; false at the end of it all."""
    text = reader.since_mark()
    if not text and (yield from reader.peek()):
        text = reader.take(1)
    sink.content(text)
    return (yield from _read_body(reader, sink))


def _read_body(reader: Reader, sink: Sink) -> Flow[bool]:
    """Read text up to the next mark; false at the end of it all."""
    while True:
        text, found = yield from reader.before(ROLE, CHANNEL, *ENDS)
        sink.content(text)
        if found or not text:
            return found


def _read_end(reader: Reader) -> Flow[None]:
    yield from reader.skip_space()
    yield from reader.accept_any(ENDS)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    channel = f'({lark.text(CHANNEL)} ("commentary" | "analysis"))?'
    kind = f'(" " ({lark.text(CONSTRAIN)})? "json")?'
    head = lark.rule(f"{channel} {kind} {lark.text(MESSAGE)}")
    calls = [f"{lark.text(tool.name)} {head} {arguments(lark, tool, 'flexible')}" for tool in tools]
    # A call ends the turn, so that there is one at most.
    return Calls(f"{CHANNEL}commentary {TO}", any_of(calls))


DIALECTS = (
    Dialect(
        name="harmony",
        marks=(START, CHANNEL, MESSAGE, "<|call|>"),
        triggers=lambda tools: (
            Trigger(TO, anchored=True),
            *(Trigger(f"{head} {TO}") for head in (ROLE, f"{CHANNEL}commentary", f"{CHANNEL}analysis")),
        ),
        reader=_reader,
        rules=_rules,
        write=lambda name, arguments: f"{CHANNEL}commentary {TO}{name} {CONSTRAIN}json{MESSAGE}{arguments}",
        framed=True,
        answer=f"{CHANNEL}final{MESSAGE}",
        thinking=Thinking(
            ANALYSIS, "<|end|>", after=ROLE, own=True, specials=(START, CHANNEL, CONSTRAIN, MESSAGE, "<|end|>")
        ),
        call_tokens=(START, CHANNEL, CONSTRAIN, MESSAGE),
        ends=("<|call|>", "<|return|>"),
        not_ends=("<|end|>",),
    ),
)
