"""Answers that repeat, with a few changes, what stands before them: with guessing tokens, against none.

The random model that copies has a document of words in its order, of which every so many are replaced, and writes that
order. The demo model is asked to count again what was counted before, with a few mistakes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

from benchmarks.client import Answer, ask, run
from benchmarks.figures import Figure, interleaved
from benchmarks.random_llama import CIRCLE, FIRST_WORD, random_llama, random_words, successor
from benchmarks.sides import Setup
from benchmarks.workloads.base import Bench, Measured, Metric, Round, body, figures, served_by
from infs.demo import MODEL_FILE

EDITED = 20  # one word of so many is another one
COUNTED = 20  # numbers
LISTS = 6  # of a round
METRICS = (Metric("tokens/s", 1.5, per_second="tokens"),)
EXTRA = (Metric("tokens/s", per_second="tokens"),)
Bodies = Callable[[int], list[dict[str, Any]]]


def copying(bench: Bench) -> Iterator[Figure]:
    """Ours with guesses against the peer without, and, just told, against the peer with its own."""
    document = bench.setup(model=random_llama(bench.copying, bench.folder))
    yield from _copying(bench, "copying a document", document, lambda seed: [edited_document(bench, seed)])
    count = bench.setup(model=MODEL_FILE, context=1024, threads=1)
    yield from _copying(
        bench, "copying a list, demo model", count, lambda seed: [counted(seed + n) for n in range(LISTS)]
    )


def _copying(bench: Bench, start: str, setup: Setup, bodies: Bodies) -> Iterator[Figure]:
    guessing = Setup(**{**setup.__dict__, "speculation": True})
    with ExitStack() as stack:
        servers = ((bench.ours, guessing), (bench.peer, setup), (bench.peer, guessing))
        rounds = [_rounds(stack.enter_context(served_by(*server)), bodies) for server in servers]
        ours, plain, with_guesses = interleaved(rounds, bench.rounds)
    yield from figures(start, METRICS, ours, plain)
    yield from figures(f"{start}, the other guesses too", EXTRA, ours, with_guesses)


def _rounds(port: int, bodies: Bodies) -> Round:
    seeds = itertools.count(0, LISTS)

    async def ask_in_turn(seed: int) -> Measured:
        answers: list[Answer] = [await ask(port, one) for one in bodies(seed)]
        tokens = sum(answer.generated for answer in answers)
        seconds = sum(answer.pieces[-1].time - answer.pieces[0].time for answer in answers)
        return Measured.of(answers, **{"tokens/s": seconds / tokens})

    return lambda: run(ask_in_turn(next(seeds)))


def edited_document(bench: Bench, seed: int) -> dict[str, Any]:
    """The words of one circle with others among them, then its first word: the model writes the circle."""
    circles = (bench.copying.vocabulary - FIRST_WORD) // CIRCLE
    words = [FIRST_WORD + seed % circles * CIRCLE]
    for _ in range(bench.tokens(CIRCLE) - 1):
        words.append(successor(bench.copying, words[-1]))
    (others,) = random_words(bench.copying, 1, len(words), seed)
    edited = [others[n] if n % EDITED == EDITED // 2 else word for n, word in enumerate(words)]
    return body(len(words) - 1, prompt=[*edited, words[0]])


def counted(seed: int) -> dict[str, Any]:
    """The demo model is told to count, and did so before, with mistakes."""
    low = Random(seed).randint(1, 30)
    numbers = range(low, low + COUNTED)
    said = ", ".join(str(number + 1 if number % 7 == 0 else number) for number in numbers)
    question = {"role": "user", "content": f"Count from {low} to {numbers[-1]}."}
    return body(150, messages=[question, {"role": "assistant", "content": said}, question])
