"""Eight prompts at once: when does each get its first token, and what does the order of the work cost in all?"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import bare, rig
from benchmarks.figures import Comparison, Figure

STREAMS = 8
LENGTH = 200  # tokens of a prompt
PEER_BATCH = 2048  # llama.cpp's default n_batch, with its default n_ubatch of 512: all prompts in one call


@dataclass(frozen=True)
class Burst:
    """Seconds: the median first token, the end of everything, the longest pause in any stream once it had begun."""

    first: float
    total: float
    pause: float


def burst(loaded: rig.Loaded, *, steps: int, rounds: int, batches: Sequence[int | None]) -> Iterator[Figure]:
    """For each size of a step: the median first token and the total time, against all prompts in one batch first.

    ``None`` is the size that the engine finds by measuring.
    """
    ours, peers = _measure(loaded, steps, rounds, batches)
    for batch in batches:
        first = Comparison(ours=[b.first for b in ours[batch]], peer=[p.first for p in peers])
        total = Comparison(ours=[b.total for b in ours[batch]], peer=[p.total for p in peers])
        pause, step = min(b.pause for b in ours[batch]), min((p.total - p.first) / steps for p in peers)
        yield first.time_figure(
            f"burst of {STREAMS}, batch_tokens {batch or 'as measured'}: first token / one batch first",
            f"{min(first.ours) * 1e3:.0f} / {min(first.peer) * 1e3:.0f} ms; total time {1 / total.speed:.3f} "
            f"(median {1 / total.median:.3f}); longest pause {pause * 1e3:.0f} ms, {pause / step:.1f} decode steps",
            None if batch else 0.65,
        )


def _measure(
    loaded: rig.Loaded, steps: int, rounds: int, batches: Sequence[int | None]
) -> tuple[dict[int | None, list[Burst]], list[Burst]]:
    seeds = itertools.count(100)
    ours: dict[int | None, list[Burst]] = {batch: [] for batch in batches}
    peers: list[Burst] = []
    with ExitStack() as stack:
        rigs = {batch: stack.enter_context(rig.Rig(loaded, batch_tokens=batch)) for batch in batches}
        peer = stack.enter_context(bare.bare_context(loaded, sequences=STREAMS, batch=PEER_BATCH, unified=True))
        for number in range(rounds + 1):
            prompts = rig.random_prompts(loaded.model, STREAMS, min(LENGTH, loaded.context // 4), next(seeds))
            theirs = _peer_burst(peer, prompts, steps)
            mine = {batch: _burst(one, prompts, steps) for batch, one in rigs.items()}
            if number:  # the first round warms up
                peers.append(theirs)
                for batch, result in mine.items():
                    ours[batch].append(result)
    return ours, peers


def _burst(one: rig.Rig, prompts: Sequence[Sequence[int]], steps: int) -> Burst:
    one.forget()
    streams = one.run(prompts, steps + 1)
    started = streams[0].started
    return Burst(
        first=statistics.median(stream.times[0] - started for stream in streams),
        total=max(stream.times[-1] for stream in streams) - started,
        pause=max(stream.longest_gap for stream in streams),
    )


def _peer_burst(peer: bare.BareContext, prompts: Sequence[Sequence[int]], steps: int) -> Burst:
    first, total = bare.burst_times(peer, prompts, steps)
    return Burst(first=first, total=total, pause=0.0)
