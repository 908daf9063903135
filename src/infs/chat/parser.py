"""The output of a chat model, taken apart as it comes: reasoning, content and tool calls."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from uuid import uuid4

from infs.chat.reader import Flow, Reader
from infs.types import Delta, FinishReason, ToolCallDelta


@dataclass(frozen=True)
class Thinking:
    """How a model sets its reasoning apart from its answer.

    Attributes:
        open, close: the texts around it.
        end: what ends it in place of the model, when it may not think any longer: `close`, with the white space that
            the model would put around it.
        after: the text between `close` and the answer; white space is allowed there in any case.
        own: the model opens a block by itself, also where its answer has to follow a grammar.
        specials: texts in the marks that may be control tokens of a vocabulary; by default the marks themselves.
    """

    open: str
    close: str
    end: str = ""
    after: str = ""
    own: bool = False
    specials: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", self.end or self.close)
        object.__setattr__(self, "specials", self.specials or (self.open, self.close))


THINK = Thinking("<think>", "</think>", end="\n</think>\n\n")

BETWEEN_BLOCKS = "\n\n"


@dataclass(frozen=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


Piece = Content | Reasoning | ToolCallDelta


def opens_reasoning(prompt: str, thinking: Thinking = THINK) -> bool:
    """Whether `prompt` leaves a block of reasoning open, so that the output begins inside it."""
    return prompt.rstrip().endswith(thinking.open)


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


def call_ids(nonce: int) -> Iterator[Callable[[], str]]:
    """What makes the ids of calls, for one choice of a request after the other.

    The same ones for the same `nonce`, so that an output that is parsed once more has the calls that it had; random
    ones for 0.
    """
    for choice in itertools.count():
        numbers = itertools.count()

        def make_id(choice: int = choice, numbers: Iterator[int] = numbers) -> str:
            key = f"{nonce}/{choice}/{next(numbers)}".encode()
            return f"call_{hashlib.blake2b(key, digest_size=12).hexdigest()}" if nonce else new_call_id()

        yield make_id


class Sink:
    """Collects pieces; neighbours of the same kind become one."""

    def __init__(self, make_id: Callable[[], str], parallel: bool = True, marks: Thinking = THINK) -> None:
        self.marks = marks
        self.calls = 0
        self._make_id = make_id
        self._parallel = parallel
        self._pieces: list[Piece] = []
        self._thought, self._new_block = False, False

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

    def block(self) -> None:
        """Reasoning begins (again)."""
        self._new_block = self._thought

    def reasoning(self, text: str) -> None:
        """A piece of the reasoning; an empty line comes between one block and the next."""
        if text:
            self._pieces.append(Reasoning(BETWEEN_BLOCKS + text if self._new_block else text))
            self._thought, self._new_block = True, False

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


def read_reasoning(reader: Reader, sink: Sink, *, opened: bool = False) -> Flow[None]:
    """Read all blocks of reasoning that come next, and the white space behind them; without one, read nothing.

    Args:
        opened: the first one was opened before.
    """
    while True:
        if not opened:
            reader.mark()
            yield from reader.skip_space()
            if not (yield from reader.accept(sink.marks.open)):
                reader.back()
                return
            reader.since_mark()
        opened = False
        sink.block()
        if not (yield from read_thought(reader, sink, sink.marks.close)):
            return
        yield from reader.skip_space()


def read_thought(reader: Reader, sink: Sink, *closes: str) -> Flow[bool]:
    """Read reasoning up to and with one of `closes`; false when the text ends before."""
    yield from reader.skip_space()
    while True:
        text, ended = yield from reader.before(*closes)
        sink.reasoning(text)
        if ended:
            break
        if not text:
            return False
    yield from reader.skip_space()
    yield from reader.accept_any(closes)
    return True


class OutputParser:
    """Takes one output apart. Its pieces, joined, do not depend on how the output was cut.

    Blocks of reasoning count at the beginning, and behind a tool call or another block; elsewhere their marks are
    content. White space around their text and behind them is dropped. Nothing else is, but the white space and
    marks around tool calls. What is no well-formed call of an offered tool is content, unchanged, as far as that
    shows before its arguments begin.

    Args:
        read: reads what follows the reasoning.
        thinking: the prompt has opened the block already.
        parallel: there may be several calls; otherwise the output is over with the first.
        make_id: makes the ids of calls.
        marks: of the reasoning.

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
        marks: Thinking = THINK,
    ) -> None:
        self.done = False
        self._reader = Reader()
        self._sink = Sink(make_id, parallel, marks)
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
        yield from read_reasoning(self._reader, self._sink, opened=thinking)
        yield from read(self._reader, self._sink)
        self.done = True
