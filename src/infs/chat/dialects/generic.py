"""Calls as a bare JSON object, or a list of them: for models trained for no dialect that is known here."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from infs.chat.dialects.base import Dialect, Freedom, call_rules
from infs.chat.dialects.json_call import read_call
from infs.chat.parser import ReadContent, Sink, read_plain
from infs.chat.reader import Flow, Reader
from infs.types import Tool


def instructions(tools: Sequence[dict[str, Any]]) -> str:
    """What a model is told whose template cannot show it `tools`."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions:\n{listed}\n\n"
        'To call one, answer with nothing but a JSON object: {"name": <function name>, "arguments": <object>}'
    )


def call_text(function: dict[str, Any]) -> str:
    """A call as the model writes it; `function` has a name and arguments, as an object or as JSON text."""
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"])}, "arguments": {text or "{}"}}}'


def _reader(names: Collection[str]) -> ReadContent:
    def read(reader: Reader, sink: Sink) -> Flow[None]:
        reader.mark()
        yield from reader.skip_space()
        listed = yield from reader.accept("[")
        yield from reader.skip_space()
        while (yield from read_call(reader, sink, names, bare=True)):
            reader.since_mark()
            if sink.full:
                return
            yield from reader.skip_space()
            reader.mark()
            if not listed or not (yield from reader.accept(",")):
                break
            yield from reader.skip_space()
        yield from _after(reader, sink, listed)

    return read


def _after(reader: Reader, sink: Sink, listed: bool) -> Flow[None]:
    if sink.calls and listed and (yield from reader.accept("]")):
        reader.since_mark()
        yield from reader.skip_space()
    sink.content(reader.since_mark())
    yield from read_plain(reader, sink)


def _rules(tools: Sequence[Tool], freedom: Freedom) -> str:
    ways = {
        "one": "calls: call",
        "some": 'calls: call | "[" call (", " call)* "]"',
        "free": 'calls: TEXT? | call | "[" call (", " call)* "]"\nTEXT: /[^{\\[\\s](?s:.*)/',
    }
    return f"{ways[freedom]}\n{call_rules(tools)}"


DIALECT = Dialect(name="generic", marks=(), triggers=("{", "["), reader=_reader, rules=_rules, tells_from_json=False)
