"""``python -m benchmarks.downloads``: one large file over one connection and over several."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
from msgspec.structs import replace

from benchmarks.figures import Comparison, Figure, interleaved, show, write_json
from benchmarks.processes import HOST, served
from infs.config import ModelConfig
from infs.store import RetryPolicy, Store
from infs.store.web import Connections

SERVER = (sys.executable, "-m", "benchmarks.file_server")
MB = 1_000_000
ONE = Connections(most=1)
SEVERAL = Connections()
SHARE = 40 * MB  # bytes per second and connection, where the server limits them


def downloads(size: int, rounds: int) -> Iterator[Figure]:
    """How much faster several connections are, from a server that limits each of them and from one that limits nothing.

    Args:
        size: bytes of the file.
    """
    with served(SERVER, "/") as server:
        for name, rate, target in (("limited per connection", SHARE, 2.5), ("not limited", 0, 0.9)):
            url = f"http://{HOST}:{server.port}/{size}/{rate}/m.gguf"
            sides = [partial(fetch_time, url, SEVERAL), partial(fetch_time, url, ONE)]
            ours, peer = interleaved(sides, rounds)
            speeds = " / ".join(f"{size / min(times) / MB:.0f}" for times in (ours, peer))
            detail = f"{size / MB:.0f} MB, {SEVERAL.most} connections / 1: {speeds} MB/s"
            yield Comparison(ours=ours, peer=peer).figure(f"download, {name}", detail, target)


def fetch_time(url: str, connections: Connections) -> float:
    """Seconds that the store takes to have the file of `url` in an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        asyncio.run(_fetch(url, Path(cache), connections))
        return time.perf_counter() - started


async def _fetch(url: str, cache: Path, connections: Connections) -> None:
    store = Store(cache, environ={}, retry=replace(RetryPolicy(), connections=connections))
    try:
        await store.fetch("m", ModelConfig(url=url), lambda event: None)
    finally:
        await store.close()


@click.command(help="Measure downloads over one connection and over several.")
@click.option("--size", default=200, show_default=True, help="Megabytes of the file.")
@click.option("--rounds", default=5, show_default=True, help="Downloads of each kind.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(size: int, rounds: int, target: Path | None) -> None:
    """Run and report."""
    figures = list(downloads(size * MB, rounds))
    show(figures, "downloads from a server on this machine")
    if target is not None:
        write_json(figures, target)


if __name__ == "__main__":
    main()
