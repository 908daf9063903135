"""A conversation goes on after its model was unloaded, and after the whole server was started again."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.client import Answer, ask, run
from benchmarks.figures import Figure
from benchmarks.processes import Served
from benchmarks.sides import Side
from benchmarks.workloads.base import Bench, Measured, Metric, Round, body, compare, wake
from benchmarks.workloads.conversations import message

SYSTEM, SAID, ANSWERED = 1200, 30, 16  # tokens
IDLE = 1.0  # seconds
METRICS = (
    Metric("first token after unload, load included", 0.2),
    Metric("first token after unload, model loaded", 0.2),
    Metric("first token after restart, start and load included", 0.2),
    Metric("first token after restart, model loaded", 0.2),
)


def resume(bench: Bench) -> Iterator[Figure]:
    """The next turn of a conversation, each time as soon as it can be sent."""
    ours, peer = (_rounds(side, bench) for side in bench.sides)
    yield from compare("resume", METRICS, ours, peer, max(1, bench.rounds // 2))


def _rounds(side: Side, bench: Bench) -> Round:
    seeds = itertools.count(4000, 10)

    def one() -> Measured:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return measure(side, bench, Path(folder), next(seeds))

    return one


def measure(side: Side, bench: Bench, folder: Path, seed: int) -> Measured:
    """One round of one side, which keeps in `folder` what outlives its servers."""
    talk = _Talk(bench, seed)
    first: list[float] = []
    with side.serve(bench.setup(folder=folder, idle=IDLE)) as server:
        talk.turn(server)
        for loaded in (False, True):
            side.wait_until_unloaded(server)
            first.append(_first(talk, server, loaded))
    for loaded in (False, True):
        with side.serve(bench.setup(folder=folder)) as server:
            seconds = _first(talk, server, loaded)
            first.append(seconds if loaded else server.startup + seconds)
    values = dict(zip((metric.name for metric in METRICS), first, strict=True))
    return Measured.of(talk.answers, **values)


def _first(talk: _Talk, server: Served, loaded: bool) -> float:
    """Seconds to the first token of the next turn, whose model was `loaded` by another request or is by this one."""
    if loaded:
        wake(server.port)
    return talk.turn(server).first


class _Talk:
    """A conversation, and the answers that it had."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self._bench = bench
        self._seeds = itertools.count(seed + 1)
        self._messages = [message("system", bench, SYSTEM, seed)]
        self.answers: list[Answer] = []

    def turn(self, server: Served) -> Answer:
        """Say something more, and take the answer."""
        self._messages.append(message("user", self._bench, SAID, next(self._seeds)))
        request: dict[str, Any] = body(self._bench.tokens(ANSWERED), messages=self._messages)
        answer = run(ask(server.port, request))
        self._messages.append({"role": "assistant", "content": answer.text})
        self.answers.append(answer)
        return answer
