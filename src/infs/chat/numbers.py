"""Numbers in JSON Schemas, so that llguidance counts and compares them as the standard does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from infs.errors import Unsupported

Part = dict[str, Any]

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_EXACT = 2**53
_NEXT_TO_NOTHING = 1e-15
_GREATEST_STEP = 100_000  # llguidance counts remainders
_MOST_DIGITS = 5
_MOST_STEPS = 2**32
_EVEN_STEPS = ((1,), (2,), (5,))


def plain(value: Any, keyword: str) -> Any:
    """`value` with whole numbers as such. Those that a double cannot tell apart would be enforced as another one."""
    if isinstance(value, dict):
        return {key: plain(item, keyword) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, keyword) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if abs(value) > _EXACT:
        raise Unsupported(f"the keyword {keyword!r} cannot be enforced with a number beyond 2^53, {value!r}")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def count(part: Part, keyword: str) -> None:
    """Write a whole number as such."""
    if isinstance(value := part[keyword], float) and value.is_integer():
        part[keyword] = int(value)


def step(part: Part, keyword: str) -> None:
    """Check a ``multipleOf``; raise `Unsupported` where it cannot be enforced."""
    value = part[keyword]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return  # llguidance says what is wrong with it
    count(part, keyword)
    _, digits, exponent = Decimal(repr(part[keyword])).normalize().as_tuple()
    if value > _GREATEST_STEP or len(digits) - 1 > _MOST_DIGITS:
        raise Unsupported(f"the keyword {keyword!r} cannot be enforced with {value!r}: it has too many digits")
    if isinstance(exponent, int) and exponent < -1 and digits not in _EVEN_STEPS:
        # 0.5 would have to be written as 0.50 to be seen as a multiple of 0.25, which a range may not allow.
        raise Unsupported(f"the keyword {keyword!r} cannot be enforced with {value!r}")


def separate_bounds(parts: Iterable[Part]) -> None:
    """Move whole exclusive bounds by next to nothing where another bound lies less than one behind them.

    Without that, llguidance lets the bound itself through. The two may meet through ``allOf`` or ``$ref``, so that all
    `parts` of a schema are looked at together.
    """
    parts = list(parts)
    fractions = [value for part in parts for key in BOUNDS if isinstance(value := part.get(key), float)]
    for part in parts:
        for key, up in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
            bound = part.get(key)
            if type(bound) is int and any(0 < (fraction - bound) * up < 1 for fraction in fractions):
                part[key] = bound + up * max(_NEXT_TO_NOTHING, math.ulp(bound))


def check_steps(parts: Iterable[Part], *, lenient: bool) -> None:
    """Raise `Unsupported` where the steps of a schema, which may meet, have a common one too big for llguidance."""
    found = [part for part in parts if isinstance(part.get("multipleOf"), int | float)]
    steps = sorted(Decimal(repr(part["multipleOf"])) for part in found)
    if len(steps) < 2 or steps[-1] * steps[-2] / _quantum(steps) ** 2 < _MOST_STEPS:
        return
    if not lenient:
        raise Unsupported("the keyword 'multipleOf' cannot be enforced with several numbers of so many digits")
    for part in found:
        del part["multipleOf"]


def _quantum(numbers: Iterable[Decimal]) -> Decimal:
    """The last decimal place of all of `numbers`."""
    return Decimal(1).scaleb(min(0, *(int(number.normalize().as_tuple().exponent) for number in numbers)))
