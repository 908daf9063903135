"""Regular expressions of JSON Schema (ECMA-262) in the syntax of llguidance (Rust's).

The two look alike and differ in what ``.``, ``\\s``, ``\\d`` or ``[a&&b]`` match. Everything is written out here, so
that nothing is left to mean something else. What a grammar cannot do, such as looking ahead, is refused by its name.
"""

from __future__ import annotations

import re

from infs.errors import InvalidRequest, Unsupported

_DIGIT = "0-9"
_WORD = "0-9A-Za-z_"
_BLANK = r"\x{9}-\x{d}\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_CLASSES = {
    "d": f"[{_DIGIT}]",
    "D": f"[^{_DIGIT}]",
    "w": f"[{_WORD}]",
    "W": f"[^{_WORD}]",
    "s": f"[{_BLANK}]",
    "S": f"[^{_BLANK}]",
}
_NOT_A_LINE_END = r"[^\x{a}\x{d}\x{2028}\x{2029}]"
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_QUANTIFIER = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
_GROUP = re.compile(r"\((?:\?(?:(?P<plain>:|<[A-Za-z_$][\w$]*>|P<[A-Za-z_]\w*>)|(?P<look><?[=!])|(?P<other>[^)]*)))?")
_TOKENS = re.compile(
    r"\\[uxpP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))|\{(?P<least>[0-9]+)(?:,(?P<most>[0-9]*))?\}|.",
    re.S,
)
_MOST_REPEATED = 20_000
_MOST_NESTED = 5_000
_NUMBER = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\})")
_PROPERTY = re.compile(r"\\[pP]\{[\w=]+\}")


def rust_pattern(pattern: str) -> str:
    """`pattern`, in ECMA-262's syntax, in Rust's.

    Raises:
        Unsupported: it has an assertion, a backreference or flags.
        InvalidRequest: it is no regular expression.
    """
    check_repetitions(pattern)
    return _Translator(pattern).all()


def check_repetitions(pattern: str) -> None:
    """Raise `InvalidRequest` where `pattern`, in whichever syntax, repeats repetitions to a number beyond all use."""
    counts = [1]  # for each open group, the most that something in it is repeated
    closed = 1  # the same for what comes right before
    for token in _TOKENS.finditer(pattern):
        if token["open"]:
            counts.append(1)
        elif token["close"] and len(counts) > 1:
            closed = counts.pop()
            counts[-1] = max(counts[-1], closed)
            continue
        elif token["least"]:
            times = max(int(token["least"]), int(token["most"] or 0))
            if times > _MOST_REPEATED or (closed > 1 and closed * times > _MOST_NESTED):
                raise InvalidRequest(f"{token[0]!r} repeats more often than can be enforced", param="regex")
            counts[-1] = max(counts[-1], closed * times)
        closed = 1


class _Translator:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def all(self) -> str:
        done: list[str] = []
        while self._at < len(self._text):
            done.append(self._next())
        return "".join(done)

    def _next(self) -> str:
        char = self._text[self._at]
        if char == "\\":
            found = self._escape(in_class=False)
            return found if len(found) > 1 else _literal(found)
        if char == "[":
            return self._class()
        if char == "(":
            return self._group()
        if quantifier := self._take(_QUANTIFIER):
            # Which of several matches comes first is nothing that a grammar knows.
            return quantifier[0].rstrip("?") or "?"
        self._at += 1
        if char == ".":
            return _NOT_A_LINE_END
        return char if char in "^$|)" else _literal(char)

    def _take(self, what: re.Pattern[str]) -> re.Match[str] | None:
        found = what.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _group(self) -> str:
        found = self._take(_GROUP)
        assert found is not None
        if found["look"]:
            raise Unsupported(f"the pattern {self._text!r} looks ahead or behind, with {found[0]!r}")
        if found["other"] is not None:
            raise Unsupported(
                f"the pattern {self._text!r} has flags, or a kind of group that is not known: {found[0]!r}"
            )
        return "(?:"

    # --- escapes

    def _escape(self, *, in_class: bool) -> str:
        """One character, or a whole class (of more than one character)."""
        if number := self._take(_NUMBER):
            return self._character(number)
        if found := self._take(_PROPERTY):
            return found[0]
        self._at += 2
        char = self._text[self._at - 1 : self._at]
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "b" and in_class:
            return "\b"
        if char == "c" and re.match("[A-Za-z]", self._text[self._at : self._at + 1]):
            self._at += 1
            return chr(ord(self._text[self._at - 1]) % 32)
        if char == "0" and not re.match("[0-9]", self._text[self._at : self._at + 1]):
            return "\0"
        return self._same(char)

    def _character(self, number: re.Match[str]) -> str:
        code = int(number[1] or number[2] or number[3], 16)
        if 0xD800 <= code < 0xDC00 and (second := self._take(_NUMBER)):
            code = 0x10000 + (code - 0xD800) * 0x400 + int(second[1] or second[2] or second[3], 16) - 0xDC00
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise InvalidRequest(f"the pattern {self._text!r} has {number[0]!r}, which is no character")
        return chr(code)

    def _same(self, char: str) -> str:
        if char in ("b", "B"):
            raise Unsupported(f"the pattern {self._text!r} has a word boundary, '\\{char}'")
        if char == "k" or (char.isascii() and char.isdigit()):
            raise Unsupported(f"the pattern {self._text!r} has a backreference, '\\{char}'")
        if not char or (char.isascii() and char.isalpha()):
            raise InvalidRequest(f"the pattern {self._text!r} has '\\{char}', which means nothing in ECMA-262")
        return char

    # --- classes

    def _class(self) -> str:
        self._at += 1
        inverted = self._text.startswith("^", self._at)
        self._at += inverted
        items: list[str] = []
        while not self._text.startswith("]", self._at):
            items.append(self._range())
        self._at += 1
        if not items:  # nothing at all, or (inverted) anything
            return "(?s:.)" if inverted else r"[^\x{0}-\x{10ffff}]"
        return f"[{'^' if inverted else ''}{''.join(items)}]"

    def _range(self) -> str:
        first = self._member()
        if not self._text.startswith("-", self._at) or self._text.startswith("-]", self._at):
            return _in_class(first)
        self._at += 1
        last = self._member()
        if len(first) > 1 or len(last) > 1:
            return f"{_in_class(first)}{_in_class('-')}{_in_class(last)}"
        if first > last:
            raise InvalidRequest(f"the pattern {self._text!r} has a range that ends before it begins")
        return f"{_in_class(first)}-{_in_class(last)}"

    def _member(self) -> str:
        if self._at >= len(self._text):
            raise InvalidRequest(f"the pattern {self._text!r} has a '[' that is not closed")
        if self._text[self._at] == "\\":
            return self._escape(in_class=True)
        self._at += 1
        return self._text[self._at - 1]


def _literal(char: str) -> str:
    return char if char.isalnum() and char.isascii() else f"\\x{{{ord(char):x}}}"


def _in_class(member: str) -> str:
    return member if len(member) > 1 else _literal(member)
