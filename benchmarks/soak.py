"""``python -m benchmarks.soak``: whether ``infs serve`` and its worker grow with the number of requests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import psutil

from benchmarks.client import ask, run
from benchmarks.figures import Figure, show, write_json
from benchmarks.processes import INFS, resident, served
from benchmarks.workloads.base import body
from infs.demo import MODEL_FILE

MARKS = (2000, 10_000)  # requests after which memory is read
BATCH = 500  # requests of one run of the client
AT_ONCE = 16
TOKENS = 4
HOST_CACHE = 64 << 20  # bytes
MB = 1e6


def soak(marks: Sequence[int]) -> Iterator[Figure]:
    """Resident memory of the API process and of the worker at the last mark, in terms of that at the first."""
    # Host memory for contexts is to be full by the first mark: it grows up to its limit, and that is no leak.
    limit = f"models.m.options.host_cache={HOST_CACHE}"
    command = [
        *(*INFS, str(MODEL_FILE), "--model-id", "m", "--threads", "1", "--log-level", "warning"),
        *("--set", limit, "--set", "models.m.options.disk_cache=0"),
    ]
    with served(command, "/health") as server:
        seen = [_memory_after(server.process.pid, server.port, *span) for span in itertools.pairwise((0, *marks))]
    for place, name in enumerate(("API process", "worker")):
        sizes = [one[place] for one in seen]
        told = ", ".join(f"{size / MB:.1f} MB after {mark}" for size, mark in zip(sizes, marks, strict=True))
        yield Figure(
            name=f"{name}, resident after {marks[-1]} / {marks[0]} requests", value=sizes[-1] / sizes[0], detail=told
        )


def _memory_after(process: int, port: int, done: int, mark: int) -> tuple[int, int]:
    """Bytes of the API process and of its workers once `mark` requests were answered, of which `done` were before."""
    for first in range(done, mark, BATCH):
        run(_requests(port, range(first, min(first + BATCH, mark))))
    api = psutil.Process(process)
    return resident(api), sum(resident(child) for child in api.children(recursive=True))


async def _requests(port: int, numbers: range) -> None:
    """Short requests, `AT_ONCE` at a time; each has a beginning of its own, so that the cache is always full."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            question = {"role": "user", "content": f"{number} is a number. What is {number % 20} + {number % 7}?"}
            await ask(port, body(TOKENS, messages=[question]))

    await asyncio.gather(*(one(number) for number in numbers))


@click.command(help="Measure whether infs serve and its worker grow with the number of requests.")
@click.option("--requests", type=click.IntRange(10), default=MARKS[1], show_default=True, help="Requests in all.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(requests: int, target: Path | None) -> None:
    """Run and report."""
    figures = list(soak((requests * MARKS[0] // MARKS[1], requests)))
    show(figures, "infs serve with the demo model")
    if target is not None:
        write_json(figures, target)


if __name__ == "__main__":
    main()
