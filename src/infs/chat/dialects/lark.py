"""Putting a Lark grammar together, whether or not the marks in it are control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from infs.chat.constraints import literal


class Lark:
    """The rules of one grammar, as they are asked for.

    Args:
        controls: ids of the control tokens of the vocabulary, by their texts. In a grammar these are not the same
            as their texts: a token is written by its number.

    Attributes:
        free: any text without control tokens.
    """

    free = "TEXT"

    def __init__(self, controls: Mapping[str, int] | None = None) -> None:
        self._controls = dict(controls or {})
        longest_first = sorted(filter(None, self._controls), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._rules = ["TEXT: /(?s:.*)/"]
        self._names: dict[str, str] = {}
        self._count = 0

    def text(self, text: str) -> str:
        """An expression for `text`, which must not be empty."""
        return " ".join(
            f"<[{self._controls[part]}]>" if part in self._controls else literal(part) for part in self._parts(text)
        )

    def until(self, text: str) -> str:
        """An expression for any text up to and with the first `text`."""
        first, *rest = self._parts(text)
        if first in self._controls:
            return f"{self.free} {self.text(text)}"
        # The mark is part of the text's own token, which ends with the first one it meets.
        opened = self.rule(f"{self.free} {literal(first)}", lazy=True)
        return " ".join([opened, *(self.text(part) for part in rest)])

    def rule(self, body: str, *, lazy: bool = False) -> str:
        """The name of a rule with this body; the same one for the same body."""
        name = self._names.get(body)
        if name is None:
            name = self._names[body] = self.declare()
            self.define(name, body, lazy=lazy)
        return name

    def declare(self) -> str:
        """A name for a rule that is yet to be defined, so that rules can use each other."""
        self._count += 1
        return f"r{self._count}"

    def define(self, name: str, body: str, *, lazy: bool = False) -> None:
        """Define the rule `name`."""
        self._rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")

    def json(self, schema: dict[str, Any]) -> str:
        """The name of a rule for JSON that fits `schema`, which llguidance must be able to enforce."""
        return self.rule(f"%json {json.dumps(schema)}")

    def grammar(self, start: str) -> str:
        """The Lark text of all rules, with `start` as the body of the first one."""
        return "\n".join([f"start: {start}", *self._rules, ""])

    def _parts(self, text: str) -> list[str]:
        """`text` in pieces that are control tokens or have none."""
        if self._control is None:
            return [text]
        parts: list[str] = []
        end = 0
        for found in self._control.finditer(text):
            parts += [text[end : found.start()], found[0]]
            end = found.end()
        return [part for part in [*parts, text[end:]] if part]


def any_of(expressions: list[str]) -> str:
    """An expression for one of several."""
    return f"({' | '.join(expressions)})"
