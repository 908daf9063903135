"""All the ways to write a JSON value that a grammar may choose from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from llguidance import LLMatcher

from tests.chat.matching import byte_tokenizer

# Beyond these a number is only written as json.dumps does.
_USUAL = (1e-20, 1e20)


def writings(value: Any) -> Iterator[str]:
    """Texts of `value` with json.dumps's separators: properties in any order, numbers with and without a fraction."""
    if isinstance(value, list):
        for items in itertools.product(*map(list, map(writings, value))):
            yield f"[{', '.join(items)}]"
    elif isinstance(value, dict):
        for order in itertools.permutations(value.items()):
            names = [json.dumps(name, ensure_ascii=False) for name, _ in order]
            for items in itertools.product(*(list(writings(item)) for _, item in order)):
                yield "{" + ", ".join(map(": ".join, zip(names, items, strict=True))) + "}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _numbers(value)
    else:
        yield json.dumps(value, ensure_ascii=False)


def _numbers(value: float) -> Iterator[str]:
    yield json.dumps(value)
    if float(value).is_integer():
        yield str(int(value))
    if _USUAL[0] < abs(value) < _USUAL[1]:
        plain = f"{Decimal(repr(value)):f}"
        yield plain
        yield plain + "0" if "." in plain else plain + ".0"


class ValueMatcher:
    """Tells whether a grammar lets a value through, in whichever way it is written."""

    def __init__(self, grammar: str) -> None:
        self._matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
        assert not self._matcher.is_error(), self._matcher.get_error()

    def accepts(self, value: Any) -> bool:
        return any(map(self.accepts_text, writings(value)))

    def accepts_text(self, text: str) -> bool:
        matcher = self._matcher.deep_copy()
        data = list(text.encode("utf-8", "surrogatepass"))
        return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())
