"""The peer inside the process: a plain loop over the same bindings, with nothing around it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import llama_cpp

from benchmarks.rig import SETTLE, Loaded
from infs.engines.llama_cpp.contexts import context_params, new_context
from infs.engines.llama_cpp.options import LlamaOptions


class BareContext:
    """A context, a batch and a greedy sampler.

    Args:
        context: one of its own (`bare_context`), or that of the other side: two contexts differ by some percent in
            speed by where their memory happens to lie.
        size: tokens of the largest call.
    """

    def __init__(self, context: Any, size: int) -> None:
        self.context = context
        self.size = size
        self.batch = llama_cpp.llama_batch_init(size, 0, 1)
        self.sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(self.sampler, llama_cpp.llama_sampler_init_greedy())

    def close(self) -> None:
        """Free all but the context."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_sampler_free(self.sampler)

    def clear(self) -> None:
        """Forget every sequence."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def put(self, place: int, token: int, position: int, seq: int, wanted: bool) -> None:
        """Fill one place of the batch."""
        batch = self.batch
        batch.token[place] = token
        batch.pos[place] = position
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = seq
        batch.logits[place] = wanted

    def decode(self, count: int) -> None:
        """Compute the first `count` places."""
        self.batch.n_tokens = count
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}.")

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Compute all prompts, each as its own sequence, in calls as large as they go; the first token of each."""
        first: dict[int, int] = {}
        ends: list[tuple[int, int]] = []
        count = 0
        for seq, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                last = position == len(prompt) - 1
                self.put(count, token, position, seq, last)
                if last:
                    ends.append((seq, count))
                count += 1
                if count == self.size:
                    self._flush(count, ends, first)
                    count = 0
        if count:
            self._flush(count, ends, first)
        return [first[seq] for seq in range(len(prompts))]

    def _flush(self, count: int, ends: list[tuple[int, int]], first: dict[int, int]) -> None:
        self.decode(count)
        for seq, place in ends:
            first[seq] = self.sample(place)
        ends.clear()

    def sample(self, place: int) -> int:
        """The best token after the given place of the batch."""
        token: int = llama_cpp.llama_sampler_sample(self.sampler, self.context, place)
        return token

    def generate(self, tokens: list[int], start: Sequence[int], steps: int) -> None:
        """Go on from `tokens`, one for each sequence, at the positions `start`, for `steps` steps."""
        for step in range(steps):
            for seq, token in enumerate(tokens):
                self.put(seq, token, start[seq] + step, seq, True)
            self.decode(len(tokens))
            for seq in range(len(tokens)):
                tokens[seq] = self.sample(seq)


@contextmanager
def bare_context(loaded: Loaded, *, sequences: int, batch: int, unified: bool) -> Iterator[BareContext]:
    """A context of its own.

    Args:
        sequences: number of sequences; with `unified`, in one cache.
        batch: tokens of the largest call.
    """
    params = context_params(loaded.device, LlamaOptions())
    params.n_ctx, params.n_batch, params.n_ubatch = loaded.cells, batch, min(512, batch)
    params.n_seq_max, params.kv_unified = sequences, unified
    context = new_context(loaded.model, params, loaded.log)
    try:
        with closing(BareContext(context, batch)) as bare:
            yield bare
    finally:
        llama_cpp.llama_free(context)


def decode_time(bare: BareContext, prompts: Sequence[Sequence[int]], steps: int) -> float:
    """Seconds that `steps` steps take after `prompts` and `SETTLE` steps, which do not count."""
    bare.clear()
    tokens = bare.prefill(prompts)
    starts = [len(prompt) for prompt in prompts]
    bare.generate(tokens, starts, SETTLE)
    before = time.perf_counter()
    bare.generate(tokens, [start + SETTLE for start in starts], steps)
    return time.perf_counter() - before


def burst_times(bare: BareContext, prompts: Sequence[Sequence[int]], steps: int) -> tuple[float, float]:
    """Seconds until all of `prompts` have their first token, and until `steps` more of each are there."""
    bare.clear()
    before = time.perf_counter()
    tokens = bare.prefill(prompts)
    first = time.perf_counter() - before
    bare.generate(tokens, [len(prompt) for prompt in prompts], steps)
    return first, time.perf_counter() - before
