"""The output of a chat model, taken apart as it comes: reasoning, content and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import uuid4

from infs.chat.reader import Flow, Reader
from infs.types import Delta, FinishReason, ToolCallDelta

THINK = "<think>"
END_THINK = "</think>"


@dataclass(frozen=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


Piece = Content | Reasoning | ToolCallDelta


def opens_reasoning(prompt: str) -> bool:
    """Whether `prompt` leaves a ``<think>`` block open, so that the output begins inside it."""
    return prompt.rstrip().endswith(THINK)


def delta_of(pieces: Iterable[Piece], *, index: int = 0, finish_reason: FinishReason | None = None) -> Delta:
    """`pieces` of choice number `index` as one event."""
    pieces = list(pieces)
    return Delta(
        index=index,
        text="".join(piece.text for piece in pieces if isinstance(piece, Content)),
        reasoning="".join(piece.text for piece in pieces if isinstance(piece, Reasoning)),
        tool_calls=[piece for piece in pieces if isinstance(piece, ToolCallDelta)],
        finish_reason=finish_reason,
    )


def new_call_id() -> str:
    """An id for a tool call."""
    return f"call_{uuid4().hex[:24]}"


class Sink:
    """Collects pieces; neighbours of the same kind become one."""

    def __init__(self, make_id: Callable[[], str], parallel: bool = True) -> None:
        self._make_id = make_id
        self._parallel = parallel
        self._pieces: list[Piece] = []
        self.calls = 0

    @property
    def full(self) -> bool:
        """Whether no more calls may come; a reader ends when its call is complete."""
        return self.calls > 0 and not self._parallel

    def content(self, text: str) -> None:
        """A piece of the answer."""
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, Content):
            self._pieces[-1] = Content(last.text + text)
        elif text:
            self._pieces.append(Content(text))

    def reasoning(self, text: str) -> None:
        """A piece of the reasoning."""
        if text:
            self._pieces.append(Reasoning(text))

    def call(self, name: str, arguments: str = "") -> None:
        """The beginning of a call."""
        self._pieces.append(ToolCallDelta(index=self.calls, id=self._make_id(), name=name, arguments=arguments))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the last call."""
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, ToolCallDelta):
            self._pieces[-1] = ToolCallDelta(
                index=last.index, id=last.id, name=last.name, arguments=last.arguments + text
            )
        else:
            self._pieces.append(ToolCallDelta(index=self.calls - 1, arguments=text))

    def take(self) -> list[Piece]:
        """The pieces since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces


ReadContent = Callable[[Reader, Sink], Flow[None]]
"""Reads an answer with its tool calls; one for each dialect."""


def read_plain(reader: Reader, sink: Sink) -> Flow[None]:
    """Reads an answer that can have no tool calls."""
    while text := (yield from reader.rest()):
        sink.content(text)


class OutputParser:
    """Takes one output apart. Its pieces, joined, do not depend on how the output was cut.

    A ``<think>`` block at the beginning is reasoning; white space around its text and behind it is dropped.
    Nothing else is, but the white space and marks around tool calls. What is no well-formed call of an offered
    tool is content, unchanged, as far as that shows before its arguments begin.

    Args:
        read: reads what follows the reasoning.
        thinking: the prompt has opened the block already.
        parallel: there may be several calls; otherwise the output is over with the first.
        make_id: makes the ids of calls.

    Attributes:
        done: the output is over, whatever the model goes on to write.
    """

    def __init__(
        self,
        read: ReadContent = read_plain,
        *,
        thinking: bool = False,
        parallel: bool = True,
        make_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.done = False
        self._reader = Reader()
        self._sink = Sink(make_id, parallel)
        self._flow = self._run(read, thinking)

    @property
    def calls(self) -> int:
        """How many tool calls have begun."""
        return self._sink.calls

    def feed(self, text: str) -> list[Piece]:
        """What becomes certain with `text`."""
        if self.done:
            return []
        self._reader.add(text)
        next(self._flow, None)
        return self._sink.take()

    def finish(self) -> list[Piece]:
        """All that was held back; there is no more output."""
        self._reader.end()
        next(self._flow, None)
        return self._sink.take()

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer ended, when the text ended for `reason`."""
        return "tool_calls" if reason == "stop" and self.calls else reason

    def _run(self, read: ReadContent, thinking: bool) -> Flow[None]:
        if not thinking:
            self._reader.mark()
            yield from self._reader.skip_space()
            thinking = yield from self._reader.accept(THINK)
            if not thinking:
                self._reader.back()
        if thinking:
            yield from self._read_reasoning()
        yield from read(self._reader, self._sink)
        self.done = True

    def _read_reasoning(self) -> Flow[None]:
        reader = self._reader
        yield from reader.skip_space()
        while True:
            text, ended = yield from reader.before(END_THINK)
            self._sink.reasoning(text)
            if ended:
                break
            if not text:
                return
        yield from reader.skip_space()
        yield from reader.accept(END_THINK)
        yield from reader.skip_space()
