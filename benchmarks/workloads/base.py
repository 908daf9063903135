"""How a workload is measured: rounds of both sides in turn, and what becomes of what they say."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import Answer, ask, run
from benchmarks.figures import Comparison, Figure, interleaved
from benchmarks.random_llama import COPYING_135M, FIRST_WORD, SMOL_135M, Shape, random_llama
from benchmarks.sides import MODEL, Setup, Side

CONTEXT = 2048


@dataclass(frozen=True)
class Bench:
    """What is compared, on what, and how much is done.

    Attributes:
        rounds: how often each side does each workload.
        scale: what the numbers of tokens are multiplied by; 1 for a measurement, less for a test.
        shape, copying: the random models.
        folder: where those are kept.
    """

    ours: Side
    peer: Side
    threads: int
    rounds: int
    scale: float = 1.0
    shape: Shape = SMOL_135M
    copying: Shape = COPYING_135M
    folder: Path | None = None

    @property
    def sides(self) -> tuple[Side, Side]:
        """Ours and the peer's."""
        return self.ours, self.peer

    def tokens(self, count: int) -> int:
        """`count` tokens, to scale."""
        return max(3, round(count * self.scale))

    def setup(self, **changes: Any) -> Setup:
        """The random model's, with `changes`."""
        context = min(CONTEXT, self.shape.context)
        usual: dict[str, Any] = {"threads": self.threads, "context": context}
        if "model" not in changes:
            usual["model"] = random_llama(self.shape, self.folder)
        return Setup(**{**usual, **changes})


@dataclass(frozen=True)
class Metric:
    """Something that is measured in each round. Less of it is better.

    Attributes:
        target: the most that ours may be in terms of the peer's, or with `per_second` the least speed.
        per_second: what one of took the seconds that were measured; told is how many of them a second has.
        unit: of what was measured, where it is told as it is.
    """

    name: str
    target: float | None = None
    per_second: str = ""
    unit: str = "s"

    def figure(self, start: str, ours: list[float], peer: list[float], remark: str) -> Figure:
        """Ours in terms of the peer's."""
        both = Comparison(ours=ours, peer=peer)
        detail = f"{self._told(ours)} / {self._told(peer)}{remark}"
        make = both.figure if self.per_second else both.time_figure
        return make(f"{start}: {self.name}", detail, self.target)

    def _told(self, values: list[float]) -> str:
        if self.per_second:
            return f"{1 / min(values):.4g} (median {1 / statistics.median(values):.4g}) {self.per_second}/s"
        return f"{min(values):.4g} (median {statistics.median(values):.4g}) {self.unit}"


@dataclass(frozen=True)
class Measured:
    """What one round of one side gave: a value for each metric, by its name, and what was generated.

    `tokens` is ``None`` where the sides may need different numbers of them for the same.
    """

    values: dict[str, float]
    texts: list[str]
    tokens: int | None

    @classmethod
    def of(cls, answers: Sequence[Answer], **values: float) -> Measured:
        """Of `answers`; the names of metrics have spaces where `values` have underscores."""
        return cls(
            values={name.replace("_", " "): value for name, value in values.items()},
            texts=[answer.text for answer in answers],
            tokens=sum(answer.generated for answer in answers),
        )


Round = Callable[[], Measured]


@contextmanager
def served_by(side: Side, setup: Setup) -> Iterator[int]:
    """The port of a server whose model is in memory."""
    with side.serve(setup) as server:
        wake(server.port)
        yield server.port


@contextmanager
def both(bench: Bench, setup: Setup) -> Iterator[tuple[int, int]]:
    """The ports of our server and the peer's."""
    with served_by(bench.ours, setup) as ours, served_by(bench.peer, setup) as peer:
        yield ours, peer


def wake(port: int) -> None:
    """Have the model loaded, and its threads started."""
    run(ask(port, body(4, prompt=[FIRST_WORD] * 16)))


def compare(start: str, metrics: Sequence[Metric], ours: Round, peer: Round, rounds: int) -> Iterator[Figure]:
    """The figures of `metrics`, from `rounds` of both sides in turn.

    The numbers of tokens must agree, or the sides did not do the same work. Texts may differ where two scores are
    nearly the same, since it depends on what else is in a batch how they are rounded; it is told how many do.

    Raises:
        RuntimeError: when the sides generated different numbers of tokens.
    """
    mine, theirs = interleaved([ours, peer], rounds)
    for one, other in zip(mine, theirs, strict=True):
        if one.tokens != other.tokens:
            raise RuntimeError(f"{start}: one side generated {one.tokens} tokens and the other {other.tokens}.")
    yield from figures(start, metrics, mine, theirs)


def figures(start: str, metrics: Sequence[Metric], mine: list[Measured], theirs: list[Measured]) -> Iterator[Figure]:
    """The figures of `metrics` from what was measured, round by round."""
    pairs = [pair for one, other in zip(mine, theirs, strict=True) for pair in zip(one.texts, other.texts, strict=True)]
    remark = f"; {sum(one == other for one, other in pairs)} of {len(pairs)} texts equal" if pairs else ""
    for number, metric in enumerate(metrics):
        ours = [measured.values[metric.name] for measured in mine]
        peer = [measured.values[metric.name] for measured in theirs]
        yield metric.figure(start, ours, peer, "" if number else remark)


def body(max_tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy request. (The random models never choose an end token, so that none has to be banned.)"""
    return {"model": MODEL, "max_tokens": max_tokens, "temperature": 0.0, **more}
