"""What a benchmark says: ratios first, each with the two times it was made of; and how two sides are compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report.

    Attributes:
        name: what was compared with what.
        value: the ratio of the quietest rounds, or a plain number where `unit` says so.
        target: the least (or the most, by `goal`) that `value` should be; ``None`` for something just told.
        median: the median of the rounds' own ratios, or numbers.
        detail: the numbers behind it.
    """

    name: str
    value: float
    target: float | None = None
    goal: Literal["at least", "at most"] = "at least"
    unit: str = "x"
    median: float | None = None
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
        """How fast we are in terms of the peer, from the quietest round of each: others can only add time."""
        return min(self.peer) / min(self.ours)

    @property
    def median(self) -> float:
        """The same as the median over the rounds, each of which compares neighbours in time."""
        return statistics.median(self.speeds)

    @property
    def speeds(self) -> list[float]:
        """The same for each round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    def figure(self, name: str, detail: str, target: float | None = None) -> Figure:
        """Our speed in terms of the peer."""
        return Figure(name=name, value=self.speed, target=target, median=self.median, detail=detail)

    def time_figure(self, name: str, detail: str, target: float | None = None) -> Figure:
        """Our time in terms of the peer's."""
        value, median = 1 / self.speed, 1 / self.median
        return Figure(name=name, value=value, target=target, goal="at most", median=median, detail=detail)


Returned = TypeVar("Returned")


def interleaved(sides: Sequence[Callable[[], Returned]], rounds: int) -> list[list[Returned]]:
    """What each of `sides` returns in each round. They take turns, and go first in turn: A B, B A, A B, ...

    A machine that others use as well has slow and quick minutes; neighbours in time have the same ones.
    """
    times: list[list[Returned]] = [[] for _ in sides]
    order = list(range(len(sides)))
    for _ in range(rounds):
        for index in order:
            times[index].append(sides[index]())
        order.reverse()
    return times


def show(figures: Sequence[Figure], title: str) -> None:
    """Print `figures` as a table."""
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "best", "median", "target", "detail"):
        table.add_column(heading, justify="left" if heading in ("figure", "detail") else "right")
    for figure in figures:
        unit = "" if figure.unit == "x" else f" {figure.unit}"
        median = "" if figure.median is None else _number(figure.median) + unit
        table.add_row(figure.name, _number(figure.value) + unit, median, _target(figure), figure.detail)
    Console().print(table)


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    sign = ">=" if figure.goal == "at least" else "<="
    return f"{sign} {figure.target:g} {'met' if figure.met else 'MISSED'}"


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """Write `figures` to `path`."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2))
