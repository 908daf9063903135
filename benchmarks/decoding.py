"""Decoding one sequence and eight, against a plain loop over the same bindings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing

from benchmarks import bare, rig
from benchmarks.figures import Comparison, Figure, interleaved

PROMPT = 24  # tokens; eight of them fit into one step, so that all sequences start together
PEERS = ("plain loop, same cache", "plain loop, default cache")


def decoding(loaded: rig.Loaded, *, sequences: int, steps: int, rounds: int, target: float | None) -> Iterator[Figure]:
    """Speed of `sequences` at once against the plain loop: with a cache like ours, and with llama.cpp's default."""
    for name, times in zip(PEERS, _times(loaded, sequences, steps, rounds), strict=True):
        ours, peer = min(times.ours), min(times.peer)
        tokens = sequences * steps
        yield times.figure(
            f"decode {sequences} / {name}",
            f"{tokens / ours:.0f} / {tokens / peer:.0f} tokens/s; {(ours - peer) / steps * 1e6:+.0f} us a step",
            target if name == PEERS[0] else None,
        )


def _times(loaded: rig.Loaded, sequences: int, steps: int, rounds: int) -> list[Comparison]:
    seeds = itertools.count()

    def prompts() -> list[list[int]]:
        return rig.random_prompts(loaded.model, sequences, PROMPT, next(seeds))

    with ExitStack() as stack:
        ours = stack.enter_context(rig.Rig(loaded))

        same = stack.enter_context(closing(bare.BareContext(ours.decoder.context, 256)))
        default = stack.enter_context(bare.bare_context(loaded, sequences=sequences, batch=256, unified=False))
        sides = [
            lambda: rig.decode_time(ours, prompts(), steps),
            lambda: bare.decode_time(same, prompts(), steps),
            lambda: bare.decode_time(default, prompts(), steps),
        ]
        interleaved(sides, 1)
        first, *others = interleaved(sides, rounds)
    return [Comparison(ours=first, peer=times) for times in others]
