"""Puts together what generates: contexts, adapters, caches, scheduler and loop, as the configuration says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import msgspec

from infs.batching.caches import ContextCache, Nothing
from infs.batching.memory import ColdMemory
from infs.batching.pacing import Pacing
from infs.batching.plan import Limits
from infs.batching.prefix import PrefixCache
from infs.batching.scheduler import Scheduler
from infs.batching.sequence import Sequence
from infs.batching.speculation import Speculator
from infs.batching.state import StateCache
from infs.batching.tiers import DiskCache, Tiers
from infs.config import ModelConfig
from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.draft import DraftModel
from infs.engines.llama_cpp.draft_loading import load_draft
from infs.engines.llama_cpp.fingerprint import fingerprint
from infs.engines.llama_cpp.generation import Generator, Posted
from infs.engines.llama_cpp.kernels import tile
from infs.engines.llama_cpp.locating import locate
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog, offloads
from infs.engines.llama_cpp.options import LlamaOptions, host_cache
from infs.engines.llama_cpp.sizing import generation_sizes
from infs.engines.llama_cpp.speeds import KnownSpeed, measure
from infs.errors import LoadFailed

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import Projector

LEAST = 32  # the same of the smallest
LAST_WORDS = 10.0  # seconds that writing down what is cached may take when a model is unloaded


@dataclass(slots=True)
class Machine:
    """Everything that generates with one model. Close it when the loop is not needed any more."""

    generator: Generator
    decoder: LlamaDecoder
    memory: ColdMemory | None
    draft: DraftModel | None
    adapters: Adapters
    projector: Projector | None = None
    pacing: Pacing | None = None
    speed: KnownSpeed | None = None

    def close(self) -> None:
        """End everything, and write down what is cached."""
        self.generator.close()
        if self.pacing is not None and self.speed is not None:
            self.speed.write(self.pacing.rate)
        if self.memory is not None:
            self.memory.close(LAST_WORDS)
        if self.draft is not None:
            self.draft.close()
        self.decoder.close()
        if self.projector is not None:
            self.projector.close()

    def counts(self) -> dict[str, Any]:
        """What was done so far, as plain data."""
        scheduler = self.generator.loop.scheduler
        tiers = self.memory.counts() if self.memory is not None else {}
        return {
            **msgspec.to_builtins(scheduler.counters),
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "cells": scheduler.limits.cells,
            "cells_used": scheduler.used,
            "cells_evicted": scheduler.cache.evicted,
            "step_tokens": scheduler.limits.step,
            "step_tokens_beside_streams": scheduler.limits.beside,
            "tiers": msgspec.to_builtins(tiers),
            "sequences": [
                *(_told(sequence, "running") for sequence in list(scheduler.running)),
                *(_told(sequence, "waiting") for sequence in list(scheduler.waiting)),
            ],
        }


def _told(sequence: Sequence, state: str) -> dict[str, Any]:
    """A sequence, for whoever looks; the fields are those of `infs.status.SequenceStatus`."""
    return {
        "request": sequence.request,
        "index": sequence.index,
        "state": state,
        "prompt_tokens": sequence.prompt,
        "cached_tokens": sequence.counts.cached,
        "generated_tokens": sequence.generated,
    }


class Builder:
    """Builds a `Machine` for a loaded model.

    Args:
        context: tokens of the longest sequence.
        cache: folder for what can be made again, where relative paths start; ``None`` keeps nothing on disk.
        spare: bytes of host memory that caches may take; ``None`` leaves that to the options.
    """

    def __init__(
        self,
        model: LlamaModel,
        config: ModelConfig,
        options: LlamaOptions,
        native: NativeLog,
        *,
        context: int,
        cache: Path | None = None,
        spare: int | None = None,
    ) -> None:
        self._model = model
        self._config = config
        self._options = options
        self._native = native
        self._context = context
        self._cache = cache
        self._host_bytes = host_cache(options, spare)

    def build(self, wake: Callable[[Posted], None], *, pinned: int = 0, start: bool = True) -> Machine:
        """The machine. Takes time: memory is allocated and speed is measured.

        Args:
            wake: see `Generator`.
            pinned: tokens that will be kept in the cache for good.
            start: start the loop's thread; otherwise somebody has to run the loop, see `Loop.turn`.

        Raises:
            LoadFailed: something does not fit, or a file is not what it should be.
        """
        config, options, model = self._config, self._options, self._model
        sizes = generation_sizes(config, options, context=self._context, cuttable=model.cuttable, pinned=pinned)
        decoder = LlamaDecoder(
            model,
            config.device,
            options,
            self._native,
            cells=sizes.cells,
            sequences=sizes.sequences,
            batch=sizes.batch,
            adapters=self.adapters,
            projector=self.projector,
        )
        batch = decoder.batch
        speed = self._speed()
        pacing = None if options.batch_tokens else self._pacing(batch, speed.read())
        memory = self._memory()
        draft = self._draft(decoder)
        scheduler = self._scheduler(decoder, memory, sizes.sequences, batch)
        generator = Generator(
            model,
            decoder,
            scheduler,
            context=self._context,
            wake=wake,
            adapters=self.adapters,
            memory=memory,
            guesser=self._guesser(draft),
            pacing=pacing,
            projector=self.projector,
        )
        machine = Machine(generator, decoder, memory, draft, self.adapters, self.projector, pacing, speed)
        if start:
            generator.loop.start()
        if pacing is not None:
            self._pace(machine, pacing)
        return machine

    def _pace(self, machine: Machine, pacing: Pacing) -> None:
        """Have steps be as large as they should be; where the speed is not known it is measured.

        That happens on the loop's thread, like all computing. Each thread that computes has OpenMP make threads for
        it, and with more of them than cores all of them wait for each other in the slow way from then on.
        """
        loop = machine.generator.loop
        if pacing.rate is None:
            try:
                loop.ask(lambda: measure(machine.decoder, pacing))
            except BaseException:
                machine.close()
                raise
        loop.ask(lambda: pacing.apply(loop.scheduler.limits))

    @functools.cached_property
    def adapters(self) -> Adapters:
        """What changes the model, for all of its contexts, loaded when it is first asked for.

        Raises:
            LoadFailed: a file is not there, not of its kind, or made for another model.
        """
        return Adapters(self._model, self._options, self._native, self._locate)

    @functools.cached_property
    def projector(self) -> Projector | None:
        """What reads images and audio, if it is configured, loaded when it is first asked for. The machine closes it.

        Raises:
            LoadFailed: the file is no projector, or one for another model.
        """
        if self._options.projector is None:
            return None
        from infs.engines.llama_cpp.media import Projector

        path = self._locate(self._options.projector, "options.projector")
        return Projector(self._model, path, self._config.device, self._options, self._native)

    def _scheduler(self, decoder: LlamaDecoder, memory: ColdMemory | None, sequences: int, batch: int) -> Scheduler:
        on_cpu = not offloads(self._config.device)
        limits = Limits(
            cells=decoder.cells,
            context=self._context,
            live=self._config.max_sequences,
            step=batch,
            # The CPU's kernels have one way for single tokens and another for many, and are slow for both at once.
            apart=on_cpu,
            grain=tile(self._config.device, self._options),
            # All cells slow every token down there, and from host memory they are back in no time.
            kept=0 if on_cpu and memory is not None and self._host_bytes and self._model.cuttable else None,
        )
        kind: type[PrefixCache | StateCache] = PrefixCache if self._model.cuttable else StateCache
        cache: ContextCache = kind(sequences, saves=memory is not None)  # type: ignore[assignment]
        return Scheduler(limits, cache, memory or Nothing())

    def _pacing(self, largest: int, rate: float | None) -> Pacing:
        grain = max(LEAST, tile(self._config.device, self._options))
        return Pacing(self._options.target_latency, largest, grain, rate)

    def _speed(self) -> KnownSpeed:
        what = [self.identity, msgspec.to_builtins(self._config.device)]
        folder = None if self._cache is None else self._cache / "speeds"
        return KnownSpeed(folder, msgspec.json.encode(what, order="sorted").decode())

    def _locate(self, text: str, key: str) -> Path:
        return locate(text, self._cache, key)

    def _memory(self) -> ColdMemory | None:
        """The tiers below the live cells, if any is wanted."""
        options = self._options
        on_disk = options.disk_cache > 0 and self._cache is not None
        if not (self._host_bytes or on_disk):
            return None
        if self.projector is not None and self.projector.mrope:
            return None  # cells that were written down have one position each
        disk = DiskCache(self._cache / "contexts", options.disk_cache) if on_disk and self._cache else None
        return ColdMemory(Tiers(host_bytes=self._host_bytes, disk=disk), f"{self.identity} ")

    @functools.cached_property
    def identity(self) -> str:
        """What must be equal for cells to be of use: the weights, all that changes what is computed, the library."""
        options = self._options
        parts = {
            "model": fingerprint(self._model.path),
            "library": llama_cpp.__version__,
            "keys": options.cache_type_k,
            "values": options.cache_type_v,
            # Values are laid out in another way without flash attention.
            "flash_attention": options.flash_attention,
            "rope": msgspec.to_builtins(options.rope),
            "lora": {name: self._file_identity(lora.file, name) for name, lora in options.lora.items()},
            "projector": options.projector and self._file_identity(options.projector, "options.projector"),
            "control": [
                [self._file_identity(vector.file, "control_vectors"), msgspec.to_builtins(vector)]
                for vector in options.control_vectors
            ],
        }
        return msgspec.json.encode(parts, order="sorted").decode()

    def _file_identity(self, text: str, key: str) -> str:
        return fingerprint(self._locate(text, key))

    def _draft(self, decoder: LlamaDecoder) -> DraftModel | None:
        speculation = self._options.speculation
        if speculation.draft is None or speculation.mode == "off":
            return None
        if not self._model.cuttable:
            raise LoadFailed(
                f"A {self._model.architecture} model cannot take back guesses, so it has no use for a draft model.",
                param="options.speculation.draft",
            )
        path = self._locate(speculation.draft.file, "options.speculation.draft.file")
        return load_draft(
            path,
            self._config.device,
            self._options,
            self._native,
            self._model,
            cells=decoder.cells,
            sequences=self._config.max_sequences,
        )

    def _guesser(self, draft: DraftModel | None) -> Speculator | None:
        speculation = self._options.speculation
        if speculation.mode == "off" or not self._model.cuttable:
            return None
        return Speculator(mode=speculation.mode, most=speculation.most, match=speculation.match, draft=draft)
