"""A llama.cpp context as a `Decoder`: one unified key-value cache, batches filled through NumPy views."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from infs.batching.base import CacheOp, Chunk, Copy, Remove
from infs.config import DeviceConfig
from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.contexts import new_context, sized_params
from infs.engines.llama_cpp.kernels import TILE, Tiles, tiled
from infs.engines.llama_cpp.media_cells import MediaCells
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.sizing import DecoderSizes
from infs.errors import GenerationFailed

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import Projector

ADDRESS = np.uintp


class Batch:
    """The arrays of a `llama_batch` for up to `size` tokens of one sequence each."""

    def __init__(self, size: int) -> None:
        self.tokens = np.zeros(size, np.int32)
        self.positions = np.zeros(size, np.int32)
        self.seqs = np.zeros(size, np.int32)
        self.logits = np.zeros(size, np.int8)
        counts = np.ones(size, np.int32)
        # llama_batch wants a pointer to each token's own list of sequences: here, to one place of `seqs`.
        pointers = (self.seqs.ctypes.data + np.arange(size) * self.seqs.itemsize).astype(ADDRESS)
        self._keep = (counts, pointers)
        self.native = llama_cpp.llama_batch()
        self.native.embd = None
        self.native.token = _pointer(self.tokens, ctypes.c_int32)
        self.native.pos = _pointer(self.positions, ctypes.c_int32)
        self.native.n_seq_id = _pointer(counts, ctypes.c_int32)
        self.native.seq_id = _pointer(pointers, ctypes.POINTER(ctypes.c_int32))
        self.native.logits = _pointer(self.logits, ctypes.c_int8)

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Put `chunks` into the arrays; for each, the index of the first token whose scores are wanted."""
        if all(len(chunk.tokens) == 1 for chunk in chunks):
            return self._fill_singles(chunks)
        rows, at = [], 0
        self.logits.fill(0)
        for chunk in chunks:
            end = at + len(chunk.tokens)
            self.tokens[at:end] = chunk.tokens
            self.positions[at:end] = np.arange(chunk.start, chunk.start + end - at)
            self.seqs[at:end] = chunk.seq
            self.logits[end - chunk.logits : end] = 1
            rows.append(end - chunk.logits)
            at = end
        self.native.n_tokens = at
        return rows

    def _fill_singles(self, chunks: Sequence[Chunk]) -> list[int]:
        """The usual step, in which everybody generates: an assignment for each array instead of for each token."""
        count = len(chunks)
        self.tokens[:count] = [chunk.tokens[0] for chunk in chunks]
        self.positions[:count] = [chunk.start for chunk in chunks]
        self.seqs[:count] = [chunk.seq for chunk in chunks]
        self.logits[:count] = [chunk.logits for chunk in chunks]
        self.native.n_tokens = count
        # A single token without scores (of a prompt in pieces) has its row behind it, like any other chunk.
        return [index + 1 - chunk.logits for index, chunk in enumerate(chunks)]

    def compute(self, context: Any) -> None:
        """Have `context` compute what was filled in.

        Raises:
            GenerationFailed: with llama.cpp's code.
        """
        code = llama_cpp.llama_decode(context, self.native)
        if code != 0:
            raise GenerationFailed(f"llama.cpp could not compute a batch of {self.native.n_tokens}: {code}.")


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


class LlamaDecoder:
    """The context for generation. Used by one thread.

    Args:
        cells: tokens that the cache holds for all sequences together.
        sequences: number of sequence ids.
        batch: tokens of the largest step.
        adapters: what `select` chooses among.
        projector: reads the media that tokens stand in for.

    Attributes:
        batch: tokens of the largest step that it can do.
        movable: cells can be moved to other positions.
        piece: tokens that are computed in one piece, at most.
        media: what computes media, for a model that reads any.

    Raises:
        LoadFailed: the cache does not fit into memory.
    """

    def __init__(
        self,
        model: LlamaModel,
        device: DeviceConfig,
        options: LlamaOptions,
        log: NativeLog,
        *,
        cells: int,
        sequences: int,
        batch: int,
        adapters: Adapters | None = None,
        projector: Projector | None = None,
    ) -> None:
        tiles = tiled(device, options, cuttable=model.cuttable, media=projector is not None)
        self._tiles = Tiles.of(model) if tiles else None
        self.cells = max(cells, sequences + 1)  # llama.cpp wants as many as there are sequences
        sizes = DecoderSizes(
            cells=cells,
            sequences=sequences,
            batch=batch,
            padding=TILE if tiles else 0,
            whole_images=projector is not None and projector.non_causal,
        )
        self.context = new_context(model, sized_params(device, options, sizes.context), log)
        self.model = model
        self.sequences = sequences
        self.batch = min(batch, int(llama_cpp.llama_n_batch(self.context)))  # llama.cpp cuts it for short contexts
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.movable = bool(llama_cpp.llama_memory_can_shift(self._memory))
        self._batch = Batch(self.batch)
        self.piece = int(llama_cpp.llama_n_ubatch(self.context))
        self.media = None if projector is None else MediaCells(projector, self.context, self._compute)
        self._translates = projector is not None and projector.mrope
        self._passage = sequences  # a sequence id through which cells come and go
        self._adapters = adapters
        if adapters is not None:
            adapters.attach(self.context)

    def apply(self, ops: Sequence[CacheOp]) -> None:
        memory = self._memory
        if self._translates and self.media is not None:
            ops = [self.media.translate(op) for op in ops]
        for op in ops:
            if isinstance(op, Remove):
                llama_cpp.llama_memory_seq_rm(memory, op.seq, op.start, op.end)
            elif isinstance(op, Copy):
                # Where a state cannot be cut it is copied whole, which is what the range stands for.
                start, end = (op.start, op.end) if self.model.cuttable else (-1, -1)
                llama_cpp.llama_memory_seq_cp(memory, op.source, op.target, start, end)
            else:
                llama_cpp.llama_memory_seq_add(memory, op.seq, op.start, op.end, op.delta)

    def select(self, group: Hashable) -> None:
        if self._adapters is not None:
            self._adapters.apply(self.context, self._adapters.key() if group is None else group)  # type: ignore[arg-type]

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        return self._compute(chunks) if self.media is None else self._with_media(self.media, chunks)

    def _compute(self, chunks: Sequence[Chunk]) -> list[int]:
        missing = self._tiles.missing(chunks) if self._tiles is not None else 0
        if not missing:
            rows = self._batch.fill(chunks)
            self._batch.compute(self.context)
            return rows
        *rows, _ = self._batch.fill([*chunks, Chunk(self._passage, 0, [0] * missing, 0)])
        try:
            self._batch.compute(self.context)
        finally:
            llama_cpp.llama_memory_seq_rm(self._memory, self._passage, -1, -1)
        return rows

    def _with_media(self, media: MediaCells, chunks: Sequence[Chunk]) -> list[int]:
        left = media.lead(chunks)
        texts = [chunk for chunk in left if chunk.tokens]
        rows = iter(self._compute(texts) if texts else [])
        return [next(rows) if chunk.tokens else 0 for chunk in left]

    def save(self, seq: int, start: int, end: int) -> bytearray:
        if not self.model.cuttable:
            return self._serialise(seq)
        llama_cpp.llama_memory_seq_cp(self._memory, seq, self._passage, start, end)
        try:
            return self._serialise(self._passage)
        finally:
            llama_cpp.llama_memory_seq_rm(self._memory, self._passage, -1, -1)

    def _serialise(self, seq: int) -> bytearray:
        size = llama_cpp.llama_state_seq_get_size(self.context, seq)
        data = bytearray(size)  # filled in place: it may be gigabytes, and is copied by nobody
        view = np.frombuffer(data, np.uint8)
        written = llama_cpp.llama_state_seq_get_data(self.context, _pointer(view, ctypes.c_uint8), size, seq)
        del view  # it would keep the size as it is
        del data[written:]
        return data

    def restore(self, seq: int, data: bytes | bytearray, start: int, end: int) -> bool:
        buffer, passage = np.frombuffer(data, np.uint8), self._passage
        # Not into `seq` itself, which would lose what it has if llama.cpp cannot read the data.
        read = llama_cpp.llama_state_seq_set_data(self.context, _pointer(buffer, ctypes.c_uint8), len(data), passage)
        if read and not self.model.cuttable:
            start, end = -1, -1
            llama_cpp.llama_memory_seq_rm(self._memory, seq, -1, -1)
        if read:
            llama_cpp.llama_memory_seq_cp(self._memory, passage, seq, start, end)
        llama_cpp.llama_memory_seq_rm(self._memory, passage, -1, -1)
        return bool(read)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        if self.media is not None:
            self.media.positions.clear()

    def scores(self, row: int) -> NDArray[np.float32]:
        """The scores of the whole vocabulary in `row`, as a view that the next `decode` overwrites."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        address = ctypes.addressof(pointer.contents)
        view: NDArray[np.float32] = np.ctypeslib.as_array((ctypes.c_float * self.model.size).from_address(address))
        return view

    def close(self) -> None:
        """Free the context."""
        if self.context:
            if self._adapters is not None:
                self._adapters.detach(self.context)
            llama_cpp.llama_free(self.context)
            self.context = None
