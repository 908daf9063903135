"""What a step costs outside llama.cpp, and which part of the loop it goes to.

llama.cpp is replaced by functions that return at once, so that what is left is the loop itself: steps of tens of
microseconds, thousands of them, of which the best are hardly disturbed by others on the machine. In real steps
Python runs on cold caches, which `real_overhead` shows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import llama_cpp

from benchmarks import rig
from benchmarks.figures import Figure
from infs.batching.scheduler import Scheduler
from infs.engines.llama_cpp.decoder import Batch, LlamaDecoder
from infs.engines.llama_cpp.sampling import Sampler

STEPS = 300
# What a step is made of, outermost name first; `accept` is that of the output: detokenise, stop strings, post.
PARTS: dict[str, tuple[type, str]] = {
    "plan": (Scheduler, "plan"),
    "fill": (Batch, "fill"),
    "decode call": (LlamaDecoder, "decode"),
    "computed": (Scheduler, "computed"),
    "sample": (Sampler, "sample"),
    "accept": (rig.TimedOutput, "accept"),
    "sampled": (Scheduler, "sampled"),
}
Native = Callable[..., int]


def overhead(loaded: rig.Loaded, counts: tuple[int, ...]) -> Iterator[Figure]:
    """Microseconds of a step with llama.cpp taken out, for each number of sequences."""
    for count in counts:
        with rig.Rig(loaded, live=count) as one:
            step = _idle_step(one, count)
            parts = {name: _part(one, count, *place) for name, place in PARTS.items()}
            parts["decode call"] -= parts["fill"]
        detail = ", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in parts.items())
        rest = step - sum(parts.values())
        yield Figure(
            name=f"loop without llama.cpp, {count} sequences",
            value=step * 1e6,
            unit="us a step",
            detail=f"{detail}, rest {rest * 1e6:.0f}",
        )


def real_overhead(loaded: rig.Loaded, counts: tuple[int, ...]) -> Iterator[Figure]:
    """Microseconds of a real step outside the calls of llama.cpp, and their share of it."""
    for count in counts:
        with rig.Rig(loaded, live=count) as one, _clocked() as spent:
            whole: list[float] = []
            outside: list[float] = []
            for seconds in _steps(one, count, 40):
                whole.append(seconds)
                outside.append(seconds - sum(spent))
                spent.clear()
        middle, share = statistics.median(outside), statistics.median(outside) / statistics.median(whole)
        yield Figure(
            name=f"real step outside llama.cpp, {count} sequences",
            value=middle * 1e6,
            unit="us a step",
            detail=f"best {min(outside) * 1e6:.0f}; {share:.2%} of a step of {statistics.median(whole) * 1e3:.1f} ms",
        )


# --- steps


def _steps(one: rig.Rig, count: int, steps: int) -> Iterator[float]:
    """Seconds of each of `steps` decode steps of `count` sequences, run by hand on this thread."""
    one.forget()
    for prompt in rig.random_prompts(one.model, count, 8, 7):
        one.scheduler.submit(one.sequence(prompt, steps + 100, rig.Stream()))
    while any(s.pending > 1 for s in one.scheduler.running) or one.scheduler.waiting:
        one.loop.step()
    for _ in range(steps):
        before = time.perf_counter()
        one.loop.step()
        yield time.perf_counter() - before
    for sequence in list(one.scheduler.running):
        one.loop._end(sequence, RuntimeErrorFree())
