"""``python -m benchmarks.versus``: ``infs serve`` against ``llama-server``, workload by workload, in the same run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from benchmarks.figures import Figure, show, write_json
from benchmarks.llama_server import llama_server
from benchmarks.sides import infs_side, llama_server_side
from benchmarks.workloads.base import Bench
from benchmarks.workloads.conversations import conversations
from benchmarks.workloads.copying import copying
from benchmarks.workloads.extraction import extraction
from benchmarks.workloads.resume import resume
from benchmarks.workloads.streams import burst, choices, intrusion, one

WORKLOADS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "one": one,
    "burst": burst,
    "conversations": conversations,
    "intrusion": intrusion,
    "extraction": extraction,
    "copying": copying,
    "resume": resume,
    "choices": choices,
}
ROUNDS, QUICK_ROUNDS = 6, 2


@click.command(help="Measure infs serve against llama-server, both as servers, side by side.")
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each side; conversations and resume take half.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads of each side.")
@click.option("--only", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only this; may be given many times.")
@click.option(
    "--llama-server",
    "program",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="This program, instead of one built from the source of llama-cpp-python.",
)
@click.option("--peer-options", default="", metavar="TEXT", help="More options for llama-server, as in a shell.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(
    quick: bool,
    rounds: int | None,
    threads: int,
    only: tuple[str, ...],
    program: Path | None,
    peer_options: str,
    target: Path | None,
) -> None:
    """Run and report."""
    peer = llama_server_side(program or llama_server(), shlex.split(peer_options))
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    bench = Bench(infs_side(), peer, threads=threads, rounds=rounds)
    figures = []
    for name in only or WORKLOADS:
        for figure in WORKLOADS[name](bench):
            figures.append(figure)
            click.echo(f"... {figure.name}: {figure.value:.3f}", err=True)
    show(figures, f"{bench.ours.name} / {peer.name}, {threads} threads, {rounds} rounds")
    if target is not None:
        write_json(figures, target)


if __name__ == "__main__":
    main()
