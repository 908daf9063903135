"""Reading a text that arrives in pieces.

A reader of a format is written as a generator, as if all of the text were there: it yields where it needs more.
What is read depends only on the whole text, never on where it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

Flow = Generator[None, None, T]
"""Reads until it knows a `T`; yields when it needs more text."""

SPACE = " \t\r\n"

_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')


class Reader:
    """Text with a cursor, and a mark to which the cursor can go back."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._ended = False

    def add(self, text: str) -> None:
        """More of the text."""
        keep = self._at if self._mark is None else self._mark
        self._text = self._text[keep:] + text
        self._at -= keep
        self._mark = None if self._mark is None else 0

    def end(self) -> None:
        """There is no more."""
        self._ended = True

    def mark(self) -> None:
        """Remember this place."""
        self._mark = self._at

    def since_mark(self) -> str:
        """What was read since the mark, which is forgotten."""
        start = self._at if self._mark is None else self._mark
        self._mark = None
        return self._text[start : self._at]

    def back(self) -> None:
        """Go back to the mark, which is forgotten."""
        self._at = self._at if self._mark is None else self._mark
        self._mark = None

    def take(self, count: int) -> str:
        """Read `count` characters, which must have come."""
        start = self._at
        self._at += count
        return self._text[start : self._at]

    def more(self) -> Flow[bool]:
        """Wait for more text; false when there is none."""
        if self._ended:
            return False
        yield
        return True

    def peek(self) -> Flow[str]:
        """The next character, empty at the end."""
        while self._at == len(self._text):
            if not (yield from self.more()):
                return ""
        return self._text[self._at]

    def skip_space(self) -> Flow[None]:
        """Read over white space."""
        while (char := (yield from self.peek())) and char in SPACE:
            self._at += 1

    def accept(self, literal: str, *, cut: bool = False) -> Flow[bool]:
        """Read `literal` if it comes next; waits no longer than it takes to know.

        With `cut`, the beginning of it at the end of the text is read over too.
        """
        while True:
            waiting = self._text[self._at : self._at + len(literal)]
            if waiting == literal:
                self._at += len(literal)
                return True
            if not literal.startswith(waiting):
                return False
            if not (yield from self.more()):
                self._at += len(waiting) if cut else 0
                return False

    def accept_any(self, literals: Iterable[str]) -> Flow[str]:
        """Read the longest of `literals` that comes next and return it; empty if none does."""
        literals = list(literals)
        longest = max(map(len, literals), default=0)
        while True:
            waiting = self._text[self._at : self._at + longest]
            undecided = any(len(text) > len(waiting) and text.startswith(waiting) for text in literals)
            if not undecided or not (yield from self.more()):
                found = max((text for text in literals if waiting.startswith(text)), key=len, default="")
                self._at += len(found)
                return found

    def before(self, *literals: str) -> Flow[tuple[str, bool]]:
        """Some text that is neither one of `literals` nor white space before it, and whether one comes after that.

        Called again and again, it gives all text up to a literal, or to the end, as soon as it is certain. The
        white space and the literal itself stay unread. No literal may be part of another one.
        """
        while True:
            waiting = self._text[self._at :]
            found = min((place for place in map(waiting.find, literals) if place >= 0), default=-1)
            size = len(waiting[:found].rstrip(SPACE)) if found >= 0 else _certain(waiting, literals)
            if found >= 0 or size:
                return self.take(size), found >= 0
            if not (yield from self.more()):
                return self.take(len(waiting)), False

    def until(self, literal: str, emit: Callable[[str], None]) -> Flow[bool]:
        """Read up to and with `literal` and `emit` all text before it as it comes; false when the text ends before."""
        while True:
            waiting = self._text[self._at :]
            found = waiting.find(literal)
            size = found if found >= 0 else len(waiting) - _begun(waiting, literal)
            if size:
                emit(self.take(size))
            if found >= 0:
                self.take(len(literal))
                return True
            if not (yield from self.more()):
                if rest := self.take(len(self._text) - self._at):
                    emit(rest)
                return False

    def rest(self) -> Flow[str]:
        """What comes next, as much as there is; empty at the end."""
        yield from self.peek()
        return self.take(len(self._text) - self._at)

    def span(self, emit: Callable[[str], None]) -> Flow[bool]:
        """Read a JSON string, object or array, which must come next, and `emit` its text as it comes.

        False when the text ends in the middle of it. Only quotes and brackets are looked at.
        """
        depth, quoted, escaped = 0, False, False
        while (yield from self.peek()):
            if escaped:
                emit(self.take(1))
                escaped = False
                continue
            found = (_IN_STRING if quoted else _STRUCTURE).search(self._text, self._at)
            emit(self.take((found.end() if found else len(self._text)) - self._at))
            if not found:
                continue
            char = found.group()
            escaped = char == "\\"
            quoted = quoted != (char == '"')
            depth += (char in "{[") - (char in "}]")
            if not (depth or quoted or escaped):
                return True
        return False


def _certain(text: str, literals: Iterable[str]) -> int:
    """How much of `text` cannot belong to one of `literals`, or to white space before it, whatever follows."""
    size = len(text) - max((_begun(text, literal) for literal in literals), default=0)
    return len(text[:size].rstrip(SPACE))


def _begun(text: str, literal: str) -> int:
    """How much of `literal` stands at the end of `text`."""
    for length in range(min(len(literal) - 1, len(text)), 0, -1):
        if text.endswith(literal[:length]):
            return length
    return 0
