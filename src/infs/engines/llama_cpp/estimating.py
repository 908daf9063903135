"""What loading a model takes, before it is loaded: llama.cpp is asked with a simulated model, else the header."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from infs.batching.scheduler import SCORED_CHUNK
from infs.config import DeviceConfig
from infs.engines.base import MemoryUse, ModelSetup
from infs.engines.llama_cpp.abilities import tasks_of
from infs.engines.llama_cpp.contexts import new_context, sized_params
from infs.engines.llama_cpp.draft_loading import draft_device, own_options
from infs.engines.llama_cpp.embedder import embedding_params
from infs.engines.llama_cpp.header_estimate import (
    SERVING,
    SERVING_TOKEN,
    adapter_weights,
    control_bytes,
    estimate_from_header,
    has_tiers,
    projector_compute,
    reads_whole_images,
    wish,
)
from infs.engines.llama_cpp.kernels import TILE, tiled
from infs.engines.llama_cpp.locating import locate
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.places import Place, find_places
from infs.engines.llama_cpp.prompts import Prompts
from infs.engines.llama_cpp.reports import ContextReport, ModelReport, read_context, read_model, repacked
from infs.engines.llama_cpp.sizing import (
    DecoderSizes,
    check_context,
    default_context,
    draft_sizes,
    generation_sizes,
)
from infs.engines.memory import MIB, Tally, resident
from infs.errors import InfsError, LoadFailed
from infs.store.gguf_header import GgufHeader, GgufTensor, read_gguf

# What a process that uses a GPU takes of its memory beside the buffers: the driver's context, libraries' workspaces.
DRIVER = {"cuda": 512 * MIB, "rocm": 512 * MIB, "musa": 512 * MIB}
OTHER_DRIVER = 64 * MIB


def estimate(setup: ModelSetup, options: LlamaOptions, native: NativeLog) -> MemoryUse:
    """What `LlamaEngine.load` would take; see `Estimating`. Takes as long as reading the vocabulary.

    Raises:
        LoadFailed: there is no file, or it is no model.
    """
    if setup.path is None:
        raise LoadFailed(f"The model {setup.model!r} has no file.")
    try:
        return _Estimation(setup, setup.path, options, native).run()
    except LoadFailed as error:
        try:
            use = estimate_from_header(setup.path, setup.config, cache=setup.cache)
        except LoadFailed:
            raise error from None  # which is what loading would say
        # Loading may say so too. Until then the header says enough.
        logging.getLogger(__name__).info("The memory of %s is estimated from its header: %s", setup.path, error.message)
        return use


class _Estimation:
    """One estimate, on a thread of its own."""

    def __init__(self, setup: ModelSetup, path: Path, options: LlamaOptions, native: NativeLog) -> None:
        self._setup = setup
        self._path = path
        self._config = setup.config
        self._options = options
        self._native = native
        self._tally = Tally()
        self._places, self._machine = find_places(setup.config.device)

    def run(self) -> MemoryUse:
        model, report = self._open(self._path, self._config.device, self._options)
        try:
            header, projector = read_gguf(self._path), self._projector_header()
            generates = "chat-completion" in (tasks := tasks_of(model, self._config, self._options))
            self._count_weights("weights", header, report, self._options)
            self._count_adapters(model, report)
            if projector is not None:
                self._count_projector(projector)
            context = default_context(self._config, model.trained_context)
            check_context(context)
            if generates:
                self._count_generation(model, projector, context)
            if not generates or "embedding" in tasks:
                self._count_embedding(model, min(context, model.usable_context))
            # The vocabulary of the simulated model is that of the real one.
            self._tally.add("process", resident() + SERVING + SERVING_TOKEN * model.size)
        finally:
            model.close()
        self._count_drivers()
        tiers = generates and has_tiers(projector)
        if tiers and self._options.host_cache is not None:
            self._tally.add("cache", self._options.host_cache)
        return self._tally.use(spare=wish(self._options) if tiers else 0, machine=self._machine)

    # --- llama.cpp's own report

    def _open(self, path: Path, device: DeviceConfig, options: LlamaOptions) -> tuple[LlamaModel, ModelReport]:
        """The simulated model in `path`, and where its weights would be."""
        with self._native.listening() as lines:
            model = LlamaModel(path, device, options, self._native, simulate=True)
        return model, read_model(lines)

    def _context(self, model: LlamaModel, params: Any) -> ContextReport:
        """What a context would take; the simulated one is gone again."""
        with self._native.listening() as lines:
            context = new_context(model, params, self._native)
            llama_cpp.llama_free(context)
        return read_context(lines)

    # --- what there is

    def _count_weights(self, part: str, header: GgufHeader, report: ModelReport, options: LlamaOptions) -> None:
        by_device: dict[str, list[GgufTensor]] = {}
        for tensor in header.tensors:
            by_device.setdefault(report.device(tensor), []).append(tensor)
        copies = repacked(header, report)
        for device, tensors in by_device.items():
            place = self._places.of(device)
            if place is not None:
                self._add(part, sum(tensor.bytes for tensor in tensors), place)
            elif options.mmap:
                # All of the file from the first to the last of them is mapped, what has a copy included.
                self._tally.add(part, _span(tensors))
            else:
                self._tally.add(part, sum(tensor.bytes for tensor in tensors) - sum(copy.bytes for copy in copies))
        self._tally.add("repacked", sum(copy.bytes for copy in copies))
        self._count_tied(part, header, report)

    def _count_tied(self, part: str, header: GgufHeader, report: ModelReport) -> None:
        """Where the embedding, in main memory, is the output on a GPU too, the latter is a copy."""
        names = {tensor.name: tensor for tensor in header.tensors}
        embedding = names.get("token_embd.weight")
        if "output.weight" in names or embedding is None or not report.layers:
            return
        place = self._places.of(report.layers[max(report.layers)])
        if place is not None:
            self._add(part, embedding.bytes, place)

    def _count_adapters(self, model: LlamaModel, report: ModelReport) -> None:
        for name, lora in self._options.lora.items():
            for tensor in adapter_weights(locate(lora.file, self._setup.cache, f"options.lora.{name}.file")):
                self._add("adapters", tensor.bytes, self._places.of(report.device(tensor)))
        width, layers = (
            int(read(model.pointer)) for read in (llama_cpp.llama_model_n_embd, llama_cpp.llama_model_n_layer)
        )
        self._tally.add("adapters", control_bytes(self._options, width, layers))

    def _count_projector(self, header: GgufHeader) -> None:
        """It is on the first GPU as a whole, or in main memory."""
        place = self._places.first
        self._add("projector", sum(tensor.bytes for tensor in header.tensors), place)
        flash = self._options.flash_attention is not False
        self._add("projector", projector_compute(header, flash=flash), place)

    def _count_generation(self, model: LlamaModel, projector: GgufHeader | None, context: int) -> None:
        config, options = self._config, self._options
        sizes = generation_sizes(
            config, options, context=context, cuttable=model.cuttable, pinned=self._pinned(model, context)
        )
        padded = tiled(config.device, options, cuttable=model.cuttable, media=projector is not None)
        self._count_decoder(model, config.device, options, _with(sizes, TILE if padded else 0, projector))
        draft = options.speculation.draft
        if draft is None or options.speculation.mode == "off" or not model.cuttable:
            return
        path = locate(draft.file, self._setup.cache, "options.speculation.draft.file")
        device, own = draft_device(config.device, options), own_options(options)
        small, report = self._open(path, device, own)
        try:
            self._count_weights("draft", read_gguf(path), report, own)
            padded = tiled(device, own, cuttable=small.cuttable, media=False)
            self._count_decoder(
                small, device, own, _with(draft_sizes(sizes.cells, config.max_sequences), TILE if padded else 0, None)
            )
        finally:
            small.close()

    def _count_decoder(
        self, model: LlamaModel, device: DeviceConfig, options: LlamaOptions, sizes: DecoderSizes
    ) -> None:
        params = sized_params(device, options, sizes.context)
        # Of a step at most so many scores are wanted, so memory for more is reserved, but never touched: in main
        # memory that takes nothing.
        rows = max(params.n_seq_max, SCORED_CHUNK + self._config.max_sequences)
        if self._places.first is None and rows < params.n_batch:
            params.n_outputs_max = rows
        self._count_context(model, self._context(model, params), rows)

    def _count_embedding(self, model: LlamaModel, context: int) -> None:
        params = embedding_params(model, self._config.device, self._options, context)
        self._count_context(model, self._context(model, params), params.n_batch)

    def _count_context(self, model: LlamaModel, report: ContextReport, rows: int) -> None:
        """`rows`: of scores, for which memory is taken when they are wanted first."""
        self._add_all("context", report.cache)
        self._add_all("context", report.states)
        self._add_all("compute", report.compute)
        embeddings = int(llama_cpp.llama_model_n_embd_out(model.pointer))
        self._tally.add("output", 4 * rows * (model.size + embeddings))

    def _count_drivers(self) -> None:
        for name in list(self._tally.devices):
            self._tally.add("driver", DRIVER.get(name.partition(":")[0], OTHER_DRIVER), name)

    # --- the rest

    def _pinned(self, model: LlamaModel, context: int) -> int:
        """Tokens of what is preloaded."""
        preload = self._config.preload
        if preload is None or not (preload.prefix or preload.messages):
            return 0
        try:
            return len(Prompts(model, self._config, context=context).preload(preload)[0])
        except InfsError:  # images, which only a projector can count; or a mistake, which loading will tell
            return context - 2

    def _projector_header(self) -> GgufHeader | None:
        file = self._options.projector
        return None if file is None else read_gguf(locate(file, self._setup.cache, "options.projector"))

    def _add_all(self, part: str, sizes: Mapping[str, int]) -> None:
        for buffer, size in sizes.items():
            self._add(part, size, self._places.of(buffer))

    def _add(self, part: str, size: int, place: Place | None) -> None:
        if place is None:
            self._tally.add(part, size)
        else:
            self._tally.add(part, size, place.name, shared=place.shared)


def _with(sizes: DecoderSizes, padding: int, projector: GgufHeader | None) -> DecoderSizes:
    whole = projector is not None and reads_whole_images(projector)
    return DecoderSizes(
        cells=sizes.cells, sequences=sizes.sequences, batch=sizes.batch, padding=padding, whole_images=whole
    )


def _span(tensors: list[GgufTensor]) -> int:
    """Bytes from the first to the last of `tensors`, in each file."""
    ends: dict[int, tuple[int, int]] = {}
    for tensor in tensors:
        first, last = ends.get(tensor.part, (tensor.offset, 0))
        ends[tensor.part] = min(first, tensor.offset), max(last, tensor.offset + tensor.bytes)
    return sum(last - first for first, last in ends.values())
