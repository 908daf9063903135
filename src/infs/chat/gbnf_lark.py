"""GBNF, the grammars of llama.cpp, as Lark grammars of llguidance.

GBNF is about characters, Lark about terminals. A grammar without recursion is a single terminal. In another one, rules
without recursion are terminals where that changes nothing (`terminals`); where it would, every character is one, which
is slower.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from infs.chat.gbnf import LAST_CODE, ROOT, Chars, Choice, Node, Repeat, Sequence, Token, Use, parse_gbnf
from infs.chat.terminals import is_text, regular_rules, rules_below, safe_terminals
from infs.errors import InvalidRequest

# Half-pairs are no characters, though a range may span them.
_HALVES = (0xD800, 0xDFFF)

# llguidance limits how deeply parentheses may be nested.
_DEEPEST = 20


def lark_from_gbnf(text: str) -> str:
    """The Lark grammar of the same sentences as the GBNF grammar `text`.

    Raises:
        InvalidRequest: it is no grammar; the message says the line, or the rule.
        Unsupported: it has something that cannot be enforced.
    """
    rules = parse_gbnf(text)
    below = rules_below({ROOT: rules[ROOT], **rules})[ROOT] | {ROOT}
    used = {name: rule for name, rule in rules.items() if name in below}
    regular = regular_rules(used)
    terminals = regular if ROOT in regular else safe_terminals(used)
    try:
        return _Writer(used, terminals or set(), whole=terminals is not None).grammar()
    except RecursionError as error:
        raise InvalidRequest("The grammar is nested too deeply.", param="grammar") from error


class _Writer:
    """Writes rules: those in `terminals` as such, and texts as one terminal (`whole`) or one for each character."""

    def __init__(self, rules: Mapping[str, Node], terminals: set[str], *, whole: bool) -> None:
        self._rules = rules
        self._terminals = terminals
        self._whole = whole
        # Names that differ in case, or that mean something to Lark, are none in GBNF's eyes: so each has a number.
        self._names = {name: self._name(name, number) for number, name in enumerate(rules)}
        self._lines: list[str] = []

    def grammar(self) -> str:
        for name, rule in self._rules.items():
            self._lines.append(f"{self._names[name]}: {self._write(rule, self._names[name])}")
        return "\n".join([f"start: {self._names[ROOT]}", *self._lines, ""])

    def _name(self, rule: str, number: int) -> str:
        plain = f"r_{re.sub('[^a-z0-9]', '_', rule.lower())}_{number}"
        return plain.upper() if rule in self._terminals else plain

    def _write(self, node: Node, rule: str, depth: int = 0) -> str:
        match node:
            case Chars():
                return f"/{_chars(node)}/"
            case Token():
                return node.text
            case Use():
                return self._names[node.rule]
            case Sequence() if is_text(node) and self._whole:
                return f"/{''.join(_chars(item) for item in node.items if isinstance(item, Chars))}/"
            case Sequence():
                parts = [self._write(item, rule, depth + 1) for item in node.items]
                return self._group(" ".join(parts) or '""', rule, depth)
            case Choice():
                return self._group(" | ".join(self._write(item, rule, depth + 1) for item in node.options), rule, depth)
            case Repeat(most=0):
                return '""'
            case Repeat():
                return self._group(f"{self._write(node.item, rule, depth + 1)}{_times(node)}", rule, depth)

    def _group(self, text: str, rule: str, depth: int) -> str:
        """`text` in parentheses; where many are around it, a rule of its own."""
        if depth % _DEEPEST:
            return f"({text})"
        if not depth:
            return text
        name = f"{rule}_{len(self._lines)}_{'PART' if rule.isupper() else 'part'}"
        self._lines.append(f"{name}: {text}")
        return name


def _times(node: Repeat) -> str:
    return f"{{{node.least},{'' if node.most is None else node.most}}}"


def _chars(node: Chars) -> str:
    ranges: list[tuple[int, int]] = []
    for first, last in node.ranges:
        outer = [(first, min(last, _HALVES[0] - 1)), (max(first, _HALVES[1] + 1), last)]
        ranges.extend((begin, end) for begin, end in outer if begin <= end)
    if ranges == [(0, _HALVES[0] - 1), (_HALVES[1] + 1, LAST_CODE)]:
        return "(?s:.)"
    return f"[{''.join(_range(first, last) for first, last in ranges)}]"


def _range(first: int, last: int) -> str:
    return _char(first) if first == last else f"{_char(first)}-{_char(last)}"


def _char(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"
