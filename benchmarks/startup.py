"""``python -m benchmarks.startup``: how soon ``infs serve`` answers, what it holds, and what it gives back."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import psutil

from benchmarks.figures import Figure, interleaved, show, write_json
from benchmarks.processes import HOST, INFS, PATIENCE, resident, served, streams_time
from infs.demo import MODEL_FILE

# The least that a server with the same libraries does: one route, no models.
PEER = f"""
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def health(request):
    return PlainTextResponse("ok")

app = Starlette(routes=[Route("/health", health)])
uvicorn.run(app, host={HOST!r}, port=int(sys.argv[-1]), log_level="warning")
"""
TTL = 1.0  # seconds
MB = 1e6


def startup(rounds: int) -> Iterator[Figure]:
    """Seconds from the command to the first answer of ``/health``, ours and the least there is."""
    commands = ([*INFS, "--log-level", "warning"], [sys.executable, "-c", PEER])

    def side(command: list[str]) -> float:
        with served(command, "/health") as server:
            return server.startup

    ours, peer = interleaved([lambda: side(commands[0]), lambda: side(commands[1])], rounds)
    middle = statistics.median(ours)
    yield Figure(
        name="infs serve until /health answers",
        value=min(ours),
        unit="s",
        target=2.0,
        goal="at most",
        median=middle,
        detail=f"slowest {max(ours):.2f} s; best / best of a Starlette app with one route: {min(ours) / min(peer):.2f}",
    )


def memory() -> Iterator[Figure]:
    """Memory of the API process and of a worker, and what is left of it when the model's `ttl` is over."""
    command = [*INFS, str(MODEL_FILE), "--model-id", "m", "--ttl", str(TTL), "--log-level", "warning"]
    with ExitStack() as stack:
        server = stack.enter_context(served(command, "/health"))
        api = psutil.Process(server.process.pid)
        before = resident(api)
        streams_time(server.port, [{"model": "m", "prompt": "Once upon a time", "max_tokens": 16, "ignore_eos": True}])
        answered = time.perf_counter()
        worker = sum(resident(child) for child in api.children(recursive=True))
        used = resident(api)
        _wait_until_alone(api)
        gone = time.perf_counter() - answered
        after = resident(api)
    yield Figure(
        name="API process, resident",
        value=used / MB,
        unit="MB",
        target=90.0,
        goal="at most",
        detail=f"{before / MB:.0f} MB before the first request; the worker with the demo model {worker / MB:.0f} MB",
    )
    yield Figure(
        name="memory after ttl / before the first request",
        value=after / before,
        detail=f"{after / MB:.0f} / {before / MB:.0f} MB for all processes; "
        f"the worker was gone {gone:.1f} s after the answer with a ttl of {TTL:g} s",
    )


def _wait_until_alone(api: psutil.Process) -> None:
    """Until the API process has no child any more."""
    deadline = time.perf_counter() + PATIENCE
    while api.children(recursive=True):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"The worker was still there {PATIENCE:.0f} s after its last request.")
        time.sleep(0.05)


@click.command(help="Measure how soon infs serve answers, and what memory it holds and gives back.")
@click.option("--quick", is_flag=True, help="Three starts of each side instead of nine.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(quick: bool, target: Path | None) -> None:
    """Run and report."""
    figures = [*startup(3 if quick else 9), *memory()]
    show(figures, "infs serve with the demo model")
    if target is not None:
        write_json(figures, target)


if __name__ == "__main__":
    main()
