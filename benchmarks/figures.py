"""What a benchmark says: ratios first, each with the two times it was made of; and how two sides are compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report.

    Attributes:
        name: what was compared with what.
        value: the ratio, or a plain number where `unit` says so.
        target: the least (or the most, by `goal`) that `value` should be; ``None`` for something just told.
        spread: the lowest and the highest value of single rounds.
        detail: the numbers behind it.
    """

    name: str
    value: float
    target: float | None = None
    goal: Literal["at least", "at most"] = "at least"
    unit: str = "x"
    spread: tuple[float, float] | None = None
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; ``None`` without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.goal == "at least" else self.value <= self.target


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Times (seconds, or anything else where less is better) of two sides, round by round."""

    ours: list[float]
    peer: list[float]

    @property
    def speed(self) -> float:
        """How fast we are in terms of the peer: the median over the rounds, each of which compares neighbours."""
        return statistics.median(self.speeds)

    @property
    def speeds(self) -> list[float]:
        """The same for each round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    @property
    def best(self) -> float:
        """The same from the quietest round of each side."""
        return min(self.peer) / min(self.ours)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest speed of a round."""
        return min(self.speeds), max(self.speeds)


def interleaved(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """What each of `sides` returns in each round. They take turns, and go first in turn: A B, B A, A B, ...

    A machine that others use as well has slow and quick minutes; neighbours in time have the same ones.
    """
    times: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    for _ in range(rounds):
        for index in order:
            times[index].append(sides[index]())
        order.reverse()
    return times


def compare(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> Comparison:
    """The two sides, measured in turn; one round before that is not counted."""
    ours(), peer()
    first, second = interleaved([ours, peer], rounds)
    return Comparison(ours=first, peer=second)


def show(figures: Sequence[Figure], title: str) -> None:
    """Print `figures` as a table."""
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "value", "target", "rounds", "detail"):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for figure in figures:
        table.add_row(figure.name, _value(figure), _target(figure), _spread(figure), figure.detail)
    Console().print(table)


def _value(figure: Figure) -> str:
    number = _number(figure.value)
    return f"{number}{'' if figure.unit == 'x' else ' ' + figure.unit}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    sign = ">=" if figure.goal == "at least" else "<="
    return f"{sign} {figure.target:g} {'met' if figure.met else 'MISSED'}"


def _spread(figure: Figure) -> str:
    return "" if figure.spread is None else " to ".join(_number(value) for value in figure.spread)


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """Write `figures` to `path`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
