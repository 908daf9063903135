"""Streams: one, many at once, a long prompt that arrives while others are running, and choices of one prompt."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from benchmarks.client import Answer, ask, ask_all, run
from benchmarks.figures import Figure
from benchmarks.random_llama import random_words
from benchmarks.workloads.base import Bench, Measured, Metric, Round, body, both, compare

SHORT = 24  # tokens of a short prompt
FIRSTS = 5  # short requests in a row, the median of whose first tokens is taken
BURST = 8
RUNNING = 3  # streams that are interrupted
SETTLED = 8  # tokens that each of them has by then
LASTING = 160  # tokens that each of them has in the end
CHOICES = 8
Work = Callable[[int, Bench, int], Coroutine[Any, Any, Measured]]


def one(bench: Bench) -> Iterator[Figure]:
    """One stream from a short prompt."""
    metrics = [Metric("tokens/s", 1.0, per_second="tokens"), Metric("first token", 1.05)]
    yield from _compare(bench, "one stream", metrics, _one)


async def _one(port: int, bench: Bench, seed: int) -> Measured:
    prompts = random_words(bench.shape, FIRSTS, SHORT, seed)
    shorts = [await ask(port, body(4, prompt=prompt)) for prompt in prompts[1:]]
    answer = await ask(port, body(bench.tokens(128), prompt=prompts[0]))
    between = (answer.pieces[-1].time - answer.pieces[0].time) / (answer.generated - 1)
    firsts = [short.first for short in (*shorts, answer)]
    return Measured.of([answer], **{"tokens/s": between, "first token": statistics.median(firsts)})


def burst(bench: Bench) -> Iterator[Figure]:
    """Different prompts at once."""
    metrics = [Metric("total tokens/s", 1.0, per_second="tokens"), Metric("median first token", 0.6)]
    yield from _compare(bench, f"burst of {BURST}", metrics, _burst)


async def _burst(port: int, bench: Bench, seed: int) -> Measured:
    prompts = random_words(bench.shape, BURST, bench.tokens(200), seed)
    answers = await ask_all(port, [body(bench.tokens(64), prompt=prompt) for prompt in prompts])
    each = wall(answers) / sum(answer.generated for answer in answers)
    first = statistics.median(answer.first for answer in answers)
    return Measured.of(answers, **{"total tokens/s": each, "median first token": first})


def intrusion(bench: Bench) -> Iterator[Figure]:
    """A long prompt arrives while others are running."""
    metrics = [Metric("longest pause", 0.1), Metric("wall time", 1.1)]
    yield from _compare(bench, f"{RUNNING} streams and a long prompt", metrics, _intrusion)


async def _intrusion(port: int, bench: Bench, seed: int) -> Measured:
    prompts = random_words(bench.shape, RUNNING, SHORT, seed)
    (long,) = random_words(bench.shape, 1, bench.tokens(1000), seed + 1)
    running = [Answer() for _ in prompts]
    intruder = Answer()

    async def intrude() -> None:
        for answer in running:
            await answer.reached(SETTLED)
        await ask(port, body(bench.tokens(16), prompt=long), intruder)

    async with asyncio.TaskGroup() as group:
        for prompt, answer in zip(prompts, running, strict=True):
            group.create_task(ask(port, body(LASTING, prompt=prompt), answer))
        group.create_task(intrude())
    pause = max(answer.longest_pause(since=intruder.sent) for answer in running)
    if not pause:
        raise RuntimeError("The streams were over before the long prompt arrived; nothing was measured.")
    return Measured.of([*running, intruder], longest_pause=pause, wall_time=wall([*running, intruder]))


def choices(bench: Bench) -> Iterator[Figure]:
    """Several answers to one long prompt."""
    metrics = [Metric("wall time", 1.0), Metric("first token")]
    yield from _compare(bench, f"{CHOICES} choices of a long prompt", metrics, _choices)


async def _choices(port: int, bench: Bench, seed: int) -> Measured:
    (prompt,) = random_words(bench.shape, 1, bench.tokens(1000), seed)
    answer = await ask(port, body(bench.tokens(32), prompt=prompt, n=CHOICES))
    return Measured.of([answer], wall_time=answer.whole, first_token=answer.first)


def wall(answers: list[Answer]) -> float:
    """Seconds from the first request to the last end."""
    return max(answer.ended for answer in answers) - min(answer.sent for answer in answers)


def _compare(bench: Bench, start: str, metrics: list[Metric], work: Work) -> Iterator[Figure]:
    """`work` by both sides, each round with prompts of its own."""
    with both(bench, bench.setup()) as ports:
        ours, peer = (_rounds(port, bench, work) for port in ports)
        yield from compare(start, metrics, ours, peer, bench.rounds)


def _rounds(port: int, bench: Bench, work: Work) -> Round:
    seeds = itertools.count(100, 10)
    return lambda: run(work(port, bench, next(seeds)))
