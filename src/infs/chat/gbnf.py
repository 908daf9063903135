"""GBNF, the grammars of llama.cpp: reading them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from infs.errors import InvalidRequest, Unsupported

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BLANKS = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_END_OF_LINE = re.compile(r"\r?\n|\r|\Z")
_TIMES = re.compile(r"\{\s*([0-9]+)\s*(?:(,)\s*([0-9]+)?\s*)?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_TOKEN = re.compile(r"(!?)<(\[[0-9]+\]|[^<>\s\[\]]+)>")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
_SIMPLE_TIMES: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
LAST_CODE = 0x10FFFF
ROOT = "root"


@dataclass(frozen=True, eq=False)
class Chars:
    """One character of these ranges of codes, both ends included."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Token:
    """One token, as llguidance writes it."""

    text: str


@dataclass(frozen=True, eq=False)
class Use:
    """What the rule of this name is."""

    rule: str


@dataclass(frozen=True, eq=False)
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """One of them."""

    options: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """Again and again: `least` to `most` times, or without end."""

    item: Node
    least: int
    most: int | None


Node = Chars | Token | Use | Sequence | Choice | Repeat


def parse_gbnf(text: str) -> dict[str, Node]:
    """The rules of a grammar, by name; of two with the same name the last one. There is one called ``root``.

    Raises:
        InvalidRequest: it is no grammar; the message says the line, or the rule.
        Unsupported: it has something that cannot be enforced.
    """
    try:
        rules = _Parser(text).rules()
    except RecursionError as error:
        raise _invalid("it is nested too deeply") from error
    if ROOT not in rules:
        raise _invalid("it has no rule 'root'")
    for name, rule in rules.items():
        if missing := sorted(used_rules(rule) - rules.keys()):
            raise _invalid(f"the rule {name!r} uses the rule {missing[0]!r}, which is not there")
    return rules


def used_rules(node: Node) -> set[str]:
    """The names of the rules in `node`."""
    return {part.rule for part in nodes_in(node) if isinstance(part, Use)}


def nodes_in(node: Node) -> Iterator[Node]:
    """`node` and all in it."""
    waiting = [node]
    while waiting:
        yield (part := waiting.pop())
        match part:
            case Sequence():
                waiting.extend(part.items)
            case Choice():
                waiting.extend(part.options)
            case Repeat():
                waiting.append(part.item)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The grammar is not valid GBNF: {why}.", param="grammar")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip(_LINES)
        while self._at < len(self._text):
            name = self._expect(_NAME, "the name of a rule")[0]
            self._skip(_BLANKS)
            self._expect(re.compile("::="), "'::='")
            self._skip(_LINES)
            found[name] = self._choice(nested=False)
            self._expect(_END_OF_LINE, "the end of the line")
            self._skip(_LINES)
        return found

    def _choice(self, *, nested: bool) -> Node:
        options = [self._sequence(nested)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_LINES)
            options.append(self._sequence(nested))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, nested: bool) -> Node:
        items: list[Node] = []
        while (item := self._item()) is not None:
            self._skip(_LINES if nested else _BLANKS)
            while times := self._times():
                item = Repeat(item, *times)
                self._skip(_LINES if nested else _BLANKS)
            items.append(item)
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _item(self) -> Node | None:
        char = self._text[self._at : self._at + 1]
        if char == '"':
            return self._literal()
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        if char == ".":
            self._at += 1
            return Chars(((0, LAST_CODE),))
        if token := self._take(_TOKEN):
            return self._token(token)
        if name := self._take(_NAME):
            return Use(name[0])
        return None

    def _group(self) -> Node:
        self._at += 1
        self._skip(_LINES)
        inner = self._choice(nested=True)
        self._expect(re.compile(r"\)"), "')'")
        return inner

    def _times(self) -> tuple[int, int | None] | None:
        char = self._text[self._at : self._at + 1]
        if char in _SIMPLE_TIMES:
            self._at += 1
            return _SIMPLE_TIMES[char]
        if char != "{":
            return None
        found = self._expect(_TIMES, "a repetition such as {2} or {2,5}")
        least, comma, last = found.groups()
        most = int(last) if last is not None else None if comma else int(least)
        if most is not None and most < int(least):
            raise self._error(f"{found[0]} ends before it begins", found.start())
        return int(least), most

    def _token(self, found: re.Match[str]) -> Token:
        inverted, name = found.groups()
        if inverted and not name.startswith("["):
            raise Unsupported(
                f"The grammar cannot be used: {found[0]!r} in line {self._line(found.start())} is any token but one; "
                "name that token by its number, as in !<[123]>.",
                param="grammar",
            )
        return Token(f"<[^{name[1:]}>" if inverted else f"<{name}>")

    # --- characters

    def _literal(self) -> Sequence:
        self._at += 1
        chars: list[Node] = []
        while not self._text.startswith('"', self._at):
            code = ord(self._char("text"))
            chars.append(Chars(((code, code),)))
        self._at += 1
        return Sequence(tuple(chars))

    def _class(self) -> Chars:
        start, self._at = self._at, self._at + 1
        inverted = self._text.startswith("^", self._at)
        self._at += inverted
        ranges: list[tuple[int, int]] = []
        while not self._text.startswith("]", self._at):
            ranges.append(self._range())
        self._at += 1
        ranges = _outside(ranges) if inverted else ranges
        if not ranges:
            raise self._error(f"{self._text[start : self._at]} holds no character", start)
        return Chars(tuple(ranges))

    def _range(self) -> tuple[int, int]:
        start = self._at
        first = last = ord(self._char("set of characters"))
        if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
            self._at += 1
            last = ord(self._char("set of characters"))
        if last < first:
            raise self._error(f"the range {self._text[start : self._at]!r} ends before it begins", start)
        return first, last

    def _char(self, what: str) -> str:
        char = self._text[self._at : self._at + 1]
        if not char:
            raise self._error(f"a {what} is not closed", self._at)
        self._at += 1
        if char != "\\":
            return char
        if number := self._take(_HEX):
            return self._numbered(number)
        escaped = self._text[self._at : self._at + 1]
        self._at += 1
        if escaped not in _ESCAPES:
            raise self._error(f"'\\{escaped}' is no escape", self._at - 2)
        return _ESCAPES[escaped]

    def _numbered(self, number: re.Match[str]) -> str:
        code = int(number[1] or number[2] or number[3], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._error(f"'\\{number[0]}' is no character", number.start())
        return chr(code)

    # --- places

    def _take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _skip(self, what: re.Pattern[str]) -> None:
        self._take(what)

    def _expect(self, what: re.Pattern[str], name: str) -> re.Match[str]:
        found = self._take(what)
        if found is None:
            rest = self._text[self._at : self._at + 20]
            raise self._error(
                f"expected {name}, found {rest!r}" if rest else f"expected {name}, found the end", self._at
            )
        return found

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    def _error(self, why: str, at: int) -> InvalidRequest:
        return _invalid(f"in line {self._line(at)}: {why}")


def _outside(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """All that is in none of `ranges`."""
    gaps: list[tuple[int, int]] = []
    begin = 0
    for first, last in sorted(ranges):
        if first > begin:
            gaps.append((begin, first - 1))
        begin = max(begin, last + 1)
    return [*gaps, (begin, LAST_CODE)] if begin <= LAST_CODE else gaps
