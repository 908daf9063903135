"""``python -m benchmarks.serving``: the engine's figures, as ratios, each against a peer in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import rig
from benchmarks.burst import burst
from benchmarks.decoding import decoding
from benchmarks.figures import Figure, show, write_json
from benchmarks.over_http import missing_peer, over_http
from benchmarks.overhead import overhead, real_overhead
from benchmarks.random_llama import TINY, random_llama
from benchmarks.turns import second_turn
from infs.demo import MODEL_FILE

TARGETS = {1: 0.97, 8: 0.95}
PARTS = ("decode", "http", "burst", "turns", "overhead")


@dataclass(frozen=True)
class Effort:
    """How much is run: more rounds, steadier figures."""

    rounds: int
    steps: int
    stream_steps: int
    counts: tuple[int, ...]
    batches: tuple[int | None, ...]


QUICK = Effort(rounds=4, steps=32, stream_steps=32, counts=(1, 8), batches=(None,))
FULL = Effort(rounds=12, steps=48, stream_steps=48, counts=(1, 8, 32, 64), batches=(None, 64, 128, 256, 512))


def find_model(name: str) -> Path:
    """``135m`` and ``tiny`` are written with random weights, ``demo`` ships with the package, others are paths."""
    if name == "demo":
        return MODEL_FILE
    if name == "tiny":
        return random_llama(TINY)
    return random_llama() if name == "135m" else Path(name)


def measure(loaded: rig.Loaded, effort: Effort, parts: tuple[str, ...], threads: int | None) -> Iterator[Figure]:
    """The figures of `parts`, as they come."""
    if "decode" in parts:
        for count, target in TARGETS.items():
            yield from decoding(loaded, sequences=count, steps=effort.steps, rounds=effort.rounds, target=target)
    if "overhead" in parts:
        yield from real_overhead(loaded, effort.counts, steps=effort.steps // 3, targets=TARGETS)
        yield from overhead(loaded, effort.counts)
    if "turns" in parts:
        yield from second_turn(loaded, rounds=effort.rounds)
    if "burst" in parts:
        yield from burst(loaded, steps=effort.steps // 4, rounds=effort.rounds // 2, batches=effort.batches)
    if "http" in parts:
        yield from over_http(loaded, steps=effort.stream_steps, rounds=effort.rounds, threads=threads)


@click.command(help="Measure infs against its peers and the limit of the machine, in one run.")
@click.option("--quick", is_flag=True, help="Fewer rounds and sizes: a minute or two instead of twenty.")
@click.option("--model", default="135m", help="135m (random weights), tiny (the same, for a test), demo, or a path.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of both sides. [default: all cores]")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Only this part; may be given many times.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(quick: bool, model: str, threads: int | None, only: tuple[str, ...], target: Path | None) -> None:
    """Run and report."""
    loaded = rig.load(find_model(model), threads)
    parts = only or PARTS
    if "http" in parts and missing_peer():
        click.echo(f'llama_cpp.server is left out, it lacks {missing_peer()}: pip install "llama-cpp-python[server]"')
    figures = []
    for figure in measure(loaded, QUICK if quick else FULL, parts, threads):
        figures.append(figure)
        click.echo(f"... {figure.name}: {figure.value:.3f}", err=True)
    show(figures, f"{loaded.path.name}, {threads or 'all'} threads")
    if target is not None:
        write_json(figures, target)


if __name__ == "__main__":
    main()
