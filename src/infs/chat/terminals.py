"""Which rules of a grammar of characters may be terminals, that is be read as one piece.

llguidance puts characters together to terminals, each as long as there is one, whatever comes next. That is fast, and
right as long as no terminal takes characters that belong to what follows it. Here is found whether that can happen:
with the automata of the terminals (one state for each place of a character in them), and with what may follow each.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from infs.chat.gbnf import LAST_CODE, Chars, Choice, Node, Repeat, Sequence, Token, Use, nodes_in, used_rules

Rules = Mapping[str, Node]

# Where a grammar is bigger, it is not looked at: its terminals are characters.
_MOST_STATES = 500
_MOST_STEPS = 200_000


def rules_below(rules: Rules) -> dict[str, set[str]]:
    """For each rule those that it uses, directly or not."""
    used = {name: used_rules(rule) for name, rule in rules.items()}
    below: dict[str, set[str]] = {}
    for name in rules:
        found = below[name] = set()
        waiting = [name]
        while waiting:
            new = used[waiting.pop()] - found
            found |= new
            waiting.extend(new)
    return below


def regular_rules(rules: Rules) -> set[str]:
    """Rules whose sentences are a regular language of characters: they have no recursion, and no tokens."""
    below = rules_below(rules)
    others = {name for name in rules if name in below[name]}
    others |= {name for name, rule in rules.items() if any(isinstance(part, Token) for part in nodes_in(rule))}
    return {name for name in rules if name not in others and others.isdisjoint(below[name])}


def safe_terminals(rules: Rules) -> set[str] | None:
    """The regular rules, where each of them may be one terminal, and each text in the others too; else ``None``."""
    regular = regular_rules(rules)
    try:
        lexicon = _Lexicon(rules, regular)
        follow = lexicon.follow()
        steps = itertools.count()
        pairs = itertools.product(lexicon.terminals.items(), lexicon.terminals.values())
        takes = any(_takes(first, follow.get(name, 0), second, steps) for (name, first), second in pairs)
    except (_TooBigError, RecursionError):
        return None
    return None if takes else regular


class _TooBigError(Exception):
    pass


@dataclass
class _Automaton:
    """Of a terminal: the characters of each state, where it begins and ends, and which states come after which."""

    chars: list[int]
    first: list[int] = field(default_factory=list)
    last: set[int] = field(default_factory=set)
    after: list[set[int]] = field(default_factory=list)
    empty: bool = False


def _takes(one: _Automaton, follow: int, other: _Automaton, steps: Iterator[int]) -> bool:
    """Whether, behind a sentence of `one`, a character that may follow it could go on with one of `other`."""
    waiting = [(a, b) for a in one.first for b in other.first if one.chars[a] & other.chars[b]]
    seen = set(waiting)
    while waiting:
        a, b = waiting.pop()
        if a in one.last and any(other.chars[next_b] & follow for next_b in other.after[b]):
            return True
        for pair in itertools.product(one.after[a], other.after[b]):
            if next(steps) > _MOST_STEPS:
                raise _TooBigError
            if pair not in seen and one.chars[pair[0]] & other.chars[pair[1]]:
                seen.add(pair)
                waiting.append(pair)
    return False


class _Lexicon:
    """The terminals of a grammar: its regular rules by their names, and the texts in its other rules.

    Sets of characters are numbers with a bit for each class of characters that the grammar does not tell apart.
    """

    def __init__(self, rules: Rules, regular: set[str]) -> None:
        self._rules = rules
        self._regular = regular
        self._bounds = sorted({bound for rule in rules.values() for bound in _bounds(rule)})
        self._others = {name: rule for name, rule in rules.items() if name not in regular}
        self.terminals: dict[object, _Automaton] = {}
        for rule in self._others.values():
            for key, node in self._pieces(rule):
                if key not in self.terminals:
                    self.terminals[key] = self._automaton(node)

    def _pieces(self, node: Node) -> Iterator[tuple[object, Node]]:
        """What is read as one piece in a rule that is none: regular rules, and texts and characters."""
        match node:
            case Chars():
                yield node, node
            case Use() if node.rule in self._regular:
                yield node.rule, node
            case Sequence() if is_text(node):
                yield node, node
            case Sequence() | Choice():
                for item in node.items if isinstance(node, Sequence) else node.options:
                    yield from self._pieces(item)
            case Repeat():
                yield from self._pieces(node.item)

    # --- what may follow

    def follow(self) -> dict[object, int]:
        """The characters that may come behind each terminal."""
        self._first: dict[str, tuple[int, bool]] = dict.fromkeys(self._others, (0, False))
        while (new := {name: self._begin(rule) for name, rule in self._others.items()}) != self._first:
            self._first = new
        found: dict[object, int] = {}
        size = -1
        while size != (size := sum(found.values())):
            for name, rule in self._others.items():
                self._walk(rule, found.get(name, 0), found)
        return found

    def _begin(self, node: Node) -> tuple[int, bool]:
        """The characters that `node` may begin with, and whether it may be empty."""
        match node:
            case Chars():
                return self._set(node), False
            case Token():
                return 0, False
            case Use():
                if node.rule in self._regular:
                    terminal = self.terminals[node.rule]
                    return _union(terminal.chars[state] for state in terminal.first), terminal.empty
                return self._first[node.rule]
            case Sequence():
                return self._begin_all(node.items)
            case Choice():
                begins = [self._begin(option) for option in node.options]
                return _union(chars for chars, _ in begins), any(empty for _, empty in begins)
            case Repeat():
                chars, empty = self._begin(node.item)
                return (0, True) if node.most == 0 else (chars, empty or node.least == 0)

    def _begin_all(self, items: Iterable[Node]) -> tuple[int, bool]:
        found = 0
        for item in items:
            chars, empty = self._begin(item)
            found |= chars
            if not empty:
                return found, False
        return found, True

    def _walk(self, node: Node, after: int, found: dict[object, int]) -> None:
        """Put into `found` what follows the terminals and rules in `node`, if `after` follows `node`."""
        match node:
            case Chars():
                found[node] = found.get(node, 0) | after
            case Use():
                found[node.rule] = found.get(node.rule, 0) | after
            case Sequence() if is_text(node):
                found[node] = found.get(node, 0) | after
            case Sequence():
                for item in reversed(node.items):
                    self._walk(item, after, found)
                    chars, empty = self._begin(item)
                    after = chars | (after if empty else 0)
            case Choice():
                for option in node.options:
                    self._walk(option, after, found)
            case Repeat() if node.most != 0:
                again = self._begin(node.item)[0] if node.most != 1 else 0
                self._walk(node.item, after | again, found)

    # --- automata

    def _automaton(self, node: Node) -> _Automaton:
        made = _Automaton([])
        first, last, made.empty = self._build(node, made)
        made.first, made.last = sorted(first), last
        return made

    def _build(self, node: Node, made: _Automaton) -> tuple[set[int], set[int], bool]:
        """Add the states of `node`: the first ones, the last ones, and whether it may be empty."""
        match node:
            case Chars():
                if len(made.chars) >= _MOST_STATES:
                    raise _TooBigError
                made.chars.append(self._set(node))
                made.after.append(set())
                return {len(made.chars) - 1}, {len(made.chars) - 1}, False
            case Use():
                return self._build(self._rules[node.rule], made)
            case Choice():
                built = [self._build(option, made) for option in node.options]
                first = {state for part in built for state in part[0]}
                last = {state for part in built for state in part[1]}
                return first, last, any(empty for _, _, empty in built)
            case Sequence():
                return self._chain(node.items, made)
            case Repeat():
                return self._repeat(node, made)
            case Token():
                raise AssertionError("tokens are in no terminal")

    def _chain(self, items: Iterable[Node], made: _Automaton) -> tuple[set[int], set[int], bool]:
        first: set[int] = set()
        last: set[int] = set()
        empty = True
        for item in items:
            new_first, new_last, new_empty = self._build(item, made)
            _link(made, last, new_first)
            first |= new_first if empty else set()
            last = new_last | (last if new_empty else set())
            empty = empty and new_empty
        return first, last, empty

    def _repeat(self, node: Repeat, made: _Automaton) -> tuple[set[int], set[int], bool]:
        if max(node.least, node.most or 0) > _MOST_STATES:
            raise _TooBigError
        if node.most is not None:
            optional = [Choice((node.item, Sequence(())))] * (node.most - node.least)
            return self._chain([*[node.item] * node.least, *optional], made)
        if node.least > 1:
            return self._chain([*[node.item] * (node.least - 1), Repeat(node.item, 1, None)], made)
        first, last, empty = self._build(node.item, made)
        _link(made, last, first)
        return first, last, empty or node.least == 0

    def _set(self, chars: Chars) -> int:
        found = 0
        for first, last in chars.ranges:
            begin, end = bisect.bisect_left(self._bounds, first), bisect.bisect_left(self._bounds, last + 1)
            found |= (1 << end) - (1 << begin)
        return found


def _link(made: _Automaton, last: set[int], first: set[int]) -> None:
    for state in last:
        made.after[state] |= first


def _union(sets: Iterable[int]) -> int:
    found = 0
    for one in sets:
        found |= one
    return found


def _bounds(rule: Node) -> Iterator[int]:
    """Where sets of characters in `rule` begin, and the ends behind them."""
    for part in nodes_in(rule):
        if isinstance(part, Chars):
            for first, last in part.ranges:
                yield from (first, min(last, LAST_CODE) + 1)


def is_text(node: Sequence) -> bool:
    """Whether `node` is characters only."""
    return bool(node.items) and all(isinstance(item, Chars) for item in node.items)
