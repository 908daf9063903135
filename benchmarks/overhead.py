"""What a step costs outside llama.cpp, and which part of the loop it goes to.

llama.cpp is replaced by functions that return at once, so that what is left is the loop itself: steps of tens of
microseconds, thousands of them, of which the best are hardly disturbed by others on the machine. In real steps
Python runs on cold caches, which `real_overhead` shows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import llama_cpp
import numpy as np

from benchmarks import bare, rig
from benchmarks.figures import Figure
from infs.batching.scheduler import Scheduler
from infs.engines.llama_cpp.decoder import Batch, LlamaDecoder
from infs.engines.llama_cpp.model import LlamaModel

STEPS = 300
PROMPT = 8  # tokens
TOKEN = 300  # a word of the random models
# What a step is made of. `accept` is the output's: detokenise, look for stop strings, post.
PARTS: dict[str, tuple[type, str]] = {
    "plan": (Scheduler, "plan"),
    "fill": (Batch, "fill"),
    "decode": (LlamaDecoder, "decode"),
    "computed": (Scheduler, "computed"),
    "sample": (rig.TimedOutput, "sample"),
    "accept": (rig.TimedOutput, "accept"),
    "sampled": (Scheduler, "sampled"),
}
NATIVE = ("llama_decode", "llama_sampler_sample", "llama_memory_seq_cp", "llama_memory_seq_rm")


def overhead(loaded: rig.Loaded, counts: Sequence[int]) -> Iterator[Figure]:
    """Microseconds of a step with llama.cpp taken out, for each number of sequences, and its parts."""
    for count in counts:
        with rig.Rig(loaded, live=count, by_hand=True) as one, _without_native(loaded.model):
            steps = min(STEPS, loaded.cells // count - 2 * PROMPT)  # without running out of cells
            step = min(_steps(one, count, steps))
            parts = {name: _part(one, count, steps, *place) for name, place in PARTS.items()}
        parts["decode"] -= parts["fill"]
        parts["rest"] = step - sum(parts.values())
        yield Figure(
            name=f"step without llama.cpp, {count} sequences",
            value=step * 1e6,
            unit="us",
            detail=", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in parts.items()),
        )


@dataclass
class Clocked:
    """Seconds of each step, and how many of those were spent outside llama.cpp."""

    whole: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)

    @property
    def inside(self) -> list[float]:
        """Seconds of each step in llama.cpp."""
        return [whole - outside for whole, outside in zip(self.whole, self.outside, strict=True)]


def real_overhead(
    loaded: rig.Loaded, counts: Sequence[int], *, steps: int, targets: Mapping[int, float]
) -> Iterator[Figure]:
    """The speed of a plain loop's step and ours with the same time inside llama.cpp, so that only Python differs.

    That time is the shortest that any step took, which makes most of what is outside.
    """
    for count in counts:
        ours, peer = _clock_both(loaded, count, steps)
        native = min(*ours.inside, *peer.inside)
        mine, theirs = statistics.median(ours.outside), statistics.median(peer.outside)
        yield Figure(
            name=f"decode {count} / plain loop, from what is outside llama.cpp",
            value=(native + theirs) / (native + mine),
            target=targets.get(count),
            detail=f"outside {mine * 1e6:.0f} / {theirs * 1e6:.0f} us a step (best {min(ours.outside) * 1e6:.0f} / "
            f"{min(peer.outside) * 1e6:.0f}), inside {native * 1e3:.2f} ms; ours outside {mine / native:.2%}",
        )


def _clock_both(loaded: rig.Loaded, count: int, steps: int) -> tuple[Clocked, Clocked]:
    ours, peer = Clocked(), Clocked()
    spent: list[float] = []
    with (
        rig.Rig(loaded, live=count, by_hand=True) as one,
        closing(bare.BareContext(one.decoder.context, 256)) as other,
        _clocked(spent),
    ):
        for _ in range(2):
            for clocked, seconds in (
                (ours, _steps(one, count, steps, spent.clear)),
                (peer, _peer_steps(other, count, steps, loaded, spent.clear)),
            ):
                for second in seconds:
                    clocked.whole.append(second)
                    clocked.outside.append(second - sum(spent))
    return ours, peer


def _peer_steps(
    peer: bare.BareContext, count: int, steps: int, loaded: rig.Loaded, before: Callable[[], None]
) -> Iterator[float]:
    """Seconds of each of `steps` steps of the plain loop."""
    peer.clear()
    tokens = peer.prefill(rig.random_prompts(loaded.model, count, PROMPT, 7))
    for step in range(steps):
        before()
        started = time.perf_counter()
        peer.generate(tokens, [PROMPT + step] * count, 1)
        yield time.perf_counter() - started


def _part(one: rig.Rig, count: int, steps: int, kind: type, name: str) -> float:
    """Seconds of a step in the method `name` of `kind`: the best of many steps."""
    spent: list[float] = []
    shares: list[float] = []
    with _timed(kind, name, spent):
        for _ in _steps(one, count, steps, before=spent.clear):
            shares.append(sum(spent))
    return min(shares)


def _steps(one: rig.Rig, count: int, steps: int, before: Callable[[], None] = lambda: None) -> Iterator[float]:
    """Seconds of each of `steps` decode steps of `count` sequences; `before` is called before each."""
    one.forget()
    for prompt in rig.random_prompts(one.model, count, PROMPT, 7):
        one.scheduler.submit(one.sequence(prompt, steps + 9, rig.Stream()))
    while one.scheduler.waiting or any(sequence.pending > 1 for sequence in one.scheduler.running):
        one.loop.step()
    for _ in range(steps):
        before()
        started = time.perf_counter()
        one.loop.step()
        yield time.perf_counter() - started


# --- standing in for functions


@contextmanager
def _without_native(model: LlamaModel) -> Iterator[None]:
    """llama.cpp computes nothing. Its scores are always the same, whether it chooses by them or the loop does."""
    scores = np.zeros(model.size, np.float32)
    scores[TOKEN] = 1.0
    with (
        patch.object(llama_cpp, "llama_decode", lambda context, batch: 0),
        patch.object(llama_cpp, "llama_sampler_sample", lambda chain, context, row: TOKEN),
        patch.object(LlamaDecoder, "scores", lambda decoder, row: scores),
    ):
        yield


@contextmanager
def _clocked(spent: list[float]) -> Iterator[None]:
    """The seconds of each call of llama.cpp are added to `spent`."""
    with ExitStack() as stack:
        for name in NATIVE:
            stack.enter_context(_timed(llama_cpp, name, spent))
        yield


@contextmanager
def _timed(owner: Any, name: str, spent: list[float]) -> Iterator[None]:
    """The seconds of each call of ``owner.name`` are added to `spent`."""
    plain = getattr(owner, name)

    def timed(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(*args)
        finally:
            spent.append(time.perf_counter() - started)

    with patch.object(owner, name, timed):
        yield
