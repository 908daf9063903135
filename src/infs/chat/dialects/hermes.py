"""Calls between ``<tool_call>`` tags, as Hermes, Qwen and many others write them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from infs.chat.dialects.base import Dialect, Freedom, call_rules
from infs.chat.dialects.json_call import read_call
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


def _reader(names: Collection[str]) -> ReadContent:
    def read(reader: Reader, sink: Sink) -> Flow[None]:
        while True:
            text, found = yield from reader.before(OPEN)
            sink.content(text)
            if found:
                yield from _read_tagged(reader, sink, names)
            if sink.full or not (found or text):
                return

    return read


def _read_tagged(reader: Reader, sink: Sink, names: Collection[str]) -> Flow[None]:
    reader.mark()
    yield from reader.skip_space()
    yield from reader.accept(OPEN)
    yield from reader.skip_space()
    if not (yield from read_call(reader, sink, names)):
        sink.content(reader.since_mark())
        return
    reader.since_mark()
    yield from reader.skip_space()
    yield from reader.accept(CLOSE, cut=True)
    if not sink.full:
        yield from reader.skip_space()


def _rules(tools: Sequence[Tool], freedom: Freedom) -> str:
    # The tag that follows free text is part of the text's own token, which ends with the first one it meets.
    ways = {
        "one": f'calls: "{OPEN}\\n" body',
        "some": f'calls: "{OPEN}\\n" body (/\\n?/ "{OPEN}\\n" body)*',
        "free": f'calls: (opened "\\n" body)* TEXT\nopened[lazy]: TEXT "{OPEN}"\nTEXT: /(?s:.*)/',
    }
    return f'{ways[freedom]}\nbody: call "\\n{CLOSE}"\n{call_rules(tools)}'


DIALECT = Dialect(name="hermes", marks=(OPEN,), triggers=(OPEN,), reader=_reader, rules=_rules)
