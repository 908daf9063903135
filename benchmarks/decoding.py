"""Decoding one and eight sequences, against a plain loop over the same bindings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing

from benchmarks import bare, rig
from benchmarks.figures import Figure, interleaved
from benchmarks.figures import Comparison as Times

PROMPT = 24  # tokens; eight of them fit into one step, so that all sequences start together


def decoding(loaded: rig.Loaded, *, sequences: int, steps: int, rounds: int, target: float) -> Iterator[Figure]:
    """Speed of `sequences` at once, against the plain loop in the cache that we use and in llama.cpp's default."""
    cells = cells_for(loaded)
    with ExitStack() as stack:
        ours = stack.enter_context(rig.Rig(loaded, cells=cells))
        unified, default = (
            stack.enter_context(closing(bare.BareContext(loaded.model, cells=cells, sequences=count, batch=256, unified=one)))
            for count, one in ((ours.decoder.sequences, True), (sequences, False))
        )
        seeds = itertools.count()

        def prompts() -> list[list[int]]:
            return rig.random_prompts(loaded.model, sequences, PROMPT, next(seeds))

        sides = [
            lambda: rig.decode_time(ours, prompts(), steps),
            lambda: bare.decode_time(unified, prompts(), steps),
            lambda: bare.decode_time(default, prompts(), steps),
        ]
        interleaved(sides, 1)
        times = interleaved(sides, rounds)
    names = ("plain loop", "plain loop, default cache")
    for name, peer, wanted in zip(names, times[1:], (target, None), strict=True):
        both = Times(ours=times[0], peer=peer)
        yield _figure(f"{sequences} x decode / {name}", both, sequences * steps, steps, wanted)


def _figure(name: str, times: Times, tokens: int, steps: int, target: float | None) -> Figure:
    ours, peer = min(times.ours), min(times.peer)
    more = (ours - peer) / steps * 1e6
    detail = f"{tokens / ours:.0f} and {tokens / peer:.0f} tokens/s at best; {more:+.0f} us a step"
    return Figure(
        name=name, value=times.speed, target=target, spread=times.spread, detail=f"{detail}; best / best {times.best:.3f}"
    )


def cells_for(loaded: rig.Loaded) -> int:
    """Cells of the cache as the engine would have it by default."""
    context = min(loaded.model.trained_context, 8192)
    return max(2 * context, 8 * min(context, 2048))
