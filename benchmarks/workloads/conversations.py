"""Many conversations at once that have a long system prompt in common, more of them than run at the same time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

from benchmarks.client import Answer, ask, run
from benchmarks.figures import Figure
from benchmarks.random_llama import random_words, text_of
from benchmarks.workloads.base import Bench, Measured, Metric, Round, body, both, compare
from benchmarks.workloads.streams import wall

CONVERSATIONS = 16
TURNS = 3
SYSTEM, SAID, ANSWERED = 600, 40, 32  # tokens of the system prompt, of each user's message, of each answer
METRICS = (Metric("wall time", 0.5), Metric("prompt tokens computed", 0.4, unit="tokens"))


def conversations(bench: Bench) -> Iterator[Figure]:
    """Each turn is sent as soon as the one before is answered."""
    with both(bench, bench.setup()) as ports:
        ours, peer = (_rounds(port, bench) for port in ports)
        start = f"{CONVERSATIONS} conversations of {TURNS} turns"
        yield from compare(start, METRICS, ours, peer, max(1, bench.rounds // 2))


def _rounds(port: int, bench: Bench) -> Round:
    seeds = itertools.count(2000, CONVERSATIONS + 1)
    return lambda: run(_all(port, bench, next(seeds)))


async def _all(port: int, bench: Bench, seed: int) -> Measured:
    system = message("system", bench, SYSTEM, seed)
    talks = [_conversation(port, bench, system, seed + number) for number in range(1, CONVERSATIONS + 1)]
    answers = [answer for talk in await asyncio.gather(*talks) for answer in talk]
    computed = sum(answer.computed for answer in answers)
    return Measured.of(answers, wall_time=wall(answers), prompt_tokens_computed=computed)


async def _conversation(port: int, bench: Bench, system: dict[str, Any], seed: int) -> list[Answer]:
    messages, answers = [system], []
    for said in random_words(bench.shape, TURNS, bench.tokens(SAID), seed):
        messages.append({"role": "user", "content": text_of(bench.shape, said)})
        answer = await ask(port, body(bench.tokens(ANSWERED), messages=messages))
        messages.append({"role": "assistant", "content": answer.text})
        answers.append(answer)
    return answers


def message(role: str, bench: Bench, length: int, seed: int) -> dict[str, Any]:
    """A message of `length` random tokens, to scale."""
    (words,) = random_words(bench.shape, 1, bench.tokens(length), seed)
    return {"role": role, "content": text_of(bench.shape, words)}
