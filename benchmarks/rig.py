"""infs's own engine inside the process: decoder, scheduler, loop, samplers and outputs.

It is what `LlamaEngine` has, without tiers and guesses, and without the event loop and the process around it; those are
measured by `over_http`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from infs.batching.base import Counts
from infs.batching.sequence import Sequence as Running
from infs.config import DeviceConfig, ModelConfig
from infs.engines.llama_cpp.building import Builder
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions, SpeculationOptions
from infs.engines.llama_cpp.output import GenerationOutput, Piece
from infs.engines.llama_cpp.sampling import Sampler, Sampling
from infs.engines.llama_cpp.sizing import MAX_CONTEXT, USUAL_LENGTH
from infs.errors import RequestCancelled
from infs.types import FinishReason

SETTLE = 16  # steps that are not counted: a thread that just woke up on another core is slow for about as many
PATIENCE = 600.0  # seconds after which a run has failed


@dataclass(frozen=True)
class Loaded:
    """A model, what takes llama.cpp's log lines as long as it is used, and where both sides compute."""

    path: Path
    model: LlamaModel
    log: NativeLog
    device: DeviceConfig

    @property
    def context(self) -> int:
        """Tokens of the longest sequence, as the engine has it by default."""
        return min(self.model.trained_context, MAX_CONTEXT)

    @property
    def cells(self) -> int:
        """Cells of the cache for eight sequences, as the engine has it by default."""
        return max(2 * self.context, 8 * min(self.context, USUAL_LENGTH))

    @property
    def may_end(self) -> bool:
        """Whether the model's greedy choice may be an end token; that of the random ones never is."""
        return not self.path.name.startswith("random-")


def load(path: Path, threads: int | None = None) -> Loaded:
    """The model, with llama.cpp's own log kept quiet. `threads`: those of the CPU, all by default."""
    device = DeviceConfig(cpu_threads=threads)
    log = NativeLog(logging.getLogger("benchmarks.llama_cpp"))
    log.install()
    return Loaded(path, LlamaModel(path, device, LlamaOptions(), log), log, device)


def random_prompts(model: LlamaModel, count: int, length: int, seed: int) -> list[list[int]]:
    """`count` prompts of `length` ordinary tokens each; no two have a beginning in common."""
    low = min(300, model.size // 2)
    prompts: list[list[int]] = np.random.default_rng(seed).integers(low, model.size, (count, length)).tolist()
    return prompts


class Stream:
    """What became of one sequence, with the moments (`time.perf_counter`) of its tokens."""

    def __init__(self) -> None:
        self.started = 0.0
        self.times: list[float] = []
        self.counts: Counts | None = None
        self.error: Exception | None = None
        self._over = threading.Event()

    @property
    def longest_gap(self) -> float:
        """Seconds of the longest pause between two tokens."""
        return max((after - before for before, after in itertools.pairwise(self.times)), default=0.0)

    def post(self, piece: Piece) -> None:
        """Take news, on the loop's thread."""
        self.error, self.counts = piece.error, piece.counts
        if piece.error is not None or piece.reason is not None:
            self._over.set()

    def wait(self) -> None:
        """Until it is over; raises what ended it badly."""
        if not self._over.wait(PATIENCE):
            raise TimeoutError(f"A sequence was not over after {PATIENCE:.0f} s.")
        if self.error is not None:
            raise self.error


class TimedOutput(GenerationOutput):
    """The engine's own output, which tells its stream of the moment of every token."""

    stream: Stream

    def accept(self, token: int) -> FinishReason | None:
        reason = super().accept(token)
        self.stream.times.append(time.perf_counter())
        return reason


class Rig:
    """A decoder and a loop on its thread, greedy.

    Args:
        live: sequences that run at once.
        batch_tokens: tokens of one step; as the engine measures it by default.
        by_hand: no thread is started; whoever made this calls the loop's `step`.
    """

    def __init__(
        self, loaded: Loaded, *, live: int = 8, batch_tokens: int | None = None, by_hand: bool = False
    ) -> None:
        self.model = model = loaded.model
        self._ban = model.end_tokens if loaded.may_end else ()  # a ban is work for each token
        options = LlamaOptions(
            batch_tokens=batch_tokens,
            cache_tokens=loaded.cells,
            host_cache=0,
            speculation=SpeculationOptions(mode="off"),
        )
        config = ModelConfig(device=loaded.device, max_sequences=live)
        builder = Builder(model, config, options, loaded.log, context=loaded.context)
        self._machine = builder.build(lambda posted: None, start=False)
        self.decoder = self._machine.decoder
        self.loop = self._machine.generator.loop
        self.scheduler = self.loop.scheduler
        self._by_hand = by_hand

    def __enter__(self) -> Rig:
        if not self._by_hand:
            self.loop.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.loop.close()
        self._machine.close()

    def forget(self) -> None:
        """Empty the cache. Only while no step is running."""
        for sequence in self.scheduler.reset():
            sequence.output.failed(RequestCancelled("The measurement is over."))
        self.decoder.clear()

    def sequence(self, prompt: Sequence[int], new: int, stream: Stream) -> Running:
        """A greedy sequence of `new` tokens that no end token ends."""
        context = self.scheduler.limits.context
        sampler = Sampler(self.model, Sampling(temperature=0.0), context=context, ban=self._ban)
        output = TimedOutput(self.decoder, sampler, stream.post, index=0, ends=frozenset(), stops=[])
        output.stream = stream
        return Running(tokens=list(prompt), output=output, max_new=new)

    def run(self, prompts: Sequence[Sequence[int]], new: int) -> list[Stream]:
        """Generate `new` tokens after each of `prompts`, all at once."""
        streams = [Stream() for _ in prompts]
        sequences = [self.sequence(prompt, new, stream) for prompt, stream in zip(prompts, streams, strict=True)]
        started = time.perf_counter()
        for sequence, stream in zip(sequences, streams, strict=True):
            stream.started = started
            self.loop.submit(sequence)
        for stream in streams:
            stream.wait()
        return streams


def decode_time(rig: Rig, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Seconds that `steps` steps take once all of `prompts` are computed and `SETTLE` steps were done."""
    rig.forget()
    streams = rig.run(prompts, SETTLE + steps + 1)
    return max(s.times[-1] for s in streams) - max(s.times[SETTLE] for s in streams)
