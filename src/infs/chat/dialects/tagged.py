"""Reading an answer in which calls stand between other text, each behind a mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from infs.chat.parser import ReadContent, Sink, read_reasoning
from infs.chat.reader import Flow, Reader

ReadCall = Callable[[Reader, Sink], Flow[bool]]
"""Reads a mark, which comes next, and a call; false if it is none, whatever was read of it by then."""


def tagged(openings: Sequence[str], read_call: ReadCall) -> ReadContent:
    """A reader of text with calls that begin with one of `openings`.

    What turns out to be no call stays in the text. `read_call` must not have given anything to the sink by then.
    """

    def read(reader: Reader, sink: Sink) -> Flow[None]:
        while True:
            text, found = yield from reader.before(*openings)
            sink.content(text)
            if found:
                yield from _read_one(reader, sink, read_call)
            if sink.full or not (found or text):
                return

    return read


def _read_one(reader: Reader, sink: Sink, read_call: ReadCall) -> Flow[None]:
    reader.mark()
    yield from reader.skip_space()
    if not (yield from read_call(reader, sink)):
        sink.content(reader.since_mark() or reader.take(1))
    elif not sink.full:
        yield from reader.skip_space()
        yield from read_reasoning(reader, sink)
