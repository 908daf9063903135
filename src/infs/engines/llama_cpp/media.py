"""Images and audio in prompts: a projector turns them into vectors that the model reads like those of tokens."""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from infs.config import DeviceConfig
from infs.engines.llama_cpp.gguf_file import GgufFile
from infs.engines.llama_cpp.media_formats import Kind, check_media, damaged
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog, cpu_threads
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import GenerationFailed, InvalidRequest, LoadFailed

STAND_INS = 2**62
MOST_CELLS = 2**32
KEPT_VECTORS = 256 * 1024 * 1024  # bytes of those computed last, which conversations ask for again
ONE_IMAGE = frozenset({"hunyuanvl"})  # projectors for which an image's place among the images counts


class MediaChunk:
    """A piece of an image or of audio, as the model reads it: one cell for each of its vectors.

    Attributes:
        id: the hash of what it is: the same bytes give the same id.
        kind: ``image`` or ``audio``.
        cells: vectors, and cells in the cache.
        positions: how many positions it takes in the sequence: `cells`, but with M-RoPE an image takes fewer.
        non_causal: all of it sees all of it, so it must be computed in one piece.
        tokens: stand-ins for tokens, one for each cell: the same only for the same cell of the same content. They
            are a block, as in `infs.batching.blocks`.
    """

    def __init__(self, native: Any, id: str, *, non_causal: bool) -> None:
        self.native = mtmd_cpp.mtmd_input_chunk_copy(native)
        weakref.finalize(self, mtmd_cpp.mtmd_input_chunk_free, self.native)
        self.id = id
        kind = mtmd_cpp.mtmd_input_chunk_get_type(self.native)
        self.kind: Kind = "audio" if kind == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_AUDIO else "image"
        self.cells = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(self.native))
        self.positions = int(mtmd_cpp.mtmd_input_chunk_get_n_pos(self.native))
        self.non_causal = non_causal
        first = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "little") % (STAND_INS - MOST_CELLS)
        self.tokens = [-1 - first - cell for cell in range(self.cells)]
        self.vectors: NDArray[np.float32] | None = None


class MediaPrompt:
    """A prompt with media: `tokens`, with the stand-ins of chunks, and the chunks by the index of their first one."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.chunks: dict[int, MediaChunk] = {}

    def add(self, part: list[int] | MediaChunk) -> None:
        """Go on with tokens, or with a chunk."""
        if isinstance(part, MediaChunk):
            self.chunks[len(self.tokens)] = part
            self.tokens += part.tokens
        else:
            self.tokens += part

    @property
    def length(self) -> int:
        """Positions that the whole prompt takes."""
        return len(self.tokens) - sum(chunk.cells - chunk.positions for chunk in self.chunks.values())


class Projector:
    """The second file of a model that sees or hears (mmproj), loaded. Thread-safe: one thing at a time.

    Attributes:
        vision, audio: what it can read.
        mrope: images take fewer positions than cells, and positions have several dimensions.
        non_causal: its images must be computed in one piece: a context's `n_ubatch` must hold all of one.

    Raises:
        LoadFailed: the file is no projector, or one for another model.
    """

    def __init__(
        self, model: LlamaModel, path: Path, device: DeviceConfig, options: LlamaOptions, log: NativeLog
    ) -> None:
        self._native: Any = None
        self._model = model
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        log.install(mtmd_cpp.mtmd_helper_log_set)
        try:
            self._type = _projector_type(path)
        except LoadFailed as error:
            raise LoadFailed(f"options.projector: {error.message}", param="options.projector") from error
        log.forget()
        self._native = mtmd_cpp.mtmd_init_from_file(str(path).encode("utf-8"), model.pointer, _params(device, options))
        if not self._native:
            raise LoadFailed(
                f"options.projector: {path} could not be loaded; llama.cpp says: {log.last_errors() or 'nothing'}",
                param="options.projector",
            )
        self._width = int(llama_cpp.llama_model_n_embd_inp(model.pointer))
        self.vision = bool(mtmd_cpp.mtmd_support_vision(self._native))
        self.audio = bool(mtmd_cpp.mtmd_support_audio(self._native))
        self.mrope = bool(mtmd_cpp.mtmd_decode_use_mrope(self._native))
        self.non_causal = bool(mtmd_cpp.mtmd_decode_use_non_causal(self._native, None))

    def close(self) -> None:
        """Free it; its chunks stay valid, but cannot be encoded any more."""
        with self._lock:
            if self._native:
                mtmd_cpp.mtmd_free(self._native)
                self._native = None

    def __del__(self) -> None:
        self.close()  # of a model whose load failed later on

    # --- reading

    def read(self, parts: Sequence[list[int] | bytes], param: str = "messages") -> MediaPrompt:
        """The prompt of `parts`, which are tokens, and the bytes of files with images or audio.

        What the model wants around media (such as ``<|vision_start|>``) is put there.

        Raises:
            InvalidRequest: a file cannot be decoded, or is of a kind that the model cannot read.
        """
        prompt = MediaPrompt()
        images = 0
        for part in parts:
            if isinstance(part, list):
                prompt.add(part)
                continue
            images += check_media(part, param) == "image"
            if images > 1 and self.one_image:
                raise InvalidRequest(f"{param}: this model takes one image in a prompt.", param=param)
            for piece in self.parts(part, param):
                prompt.add(piece)
        return prompt

    @property
    def one_image(self) -> bool:
        """Whether a prompt may have one image only."""
        return self._type in ONE_IMAGE

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can read."""
        kinds: dict[Kind, bool] = {"image": self.vision, "audio": self.audio}
        return frozenset(kind for kind, able in kinds.items() if able)

    def parts(self, data: bytes, param: str) -> list[list[int] | MediaChunk]:
        """The chunks that the file `data` becomes, and the tokens that the model wants around them.

        Raises:
            InvalidRequest: it cannot be decoded, or is of a kind that the model cannot read.
        """
        self._check_kind(data, param)
        return self._chunks(data, param)

    def _check_kind(self, data: bytes, param: str) -> Kind:
        kind = check_media(data, param)
        if not (self.vision if kind == "image" else self.audio):
            other = "images" if self.vision else "audio"
            raise InvalidRequest(f"{param} has {kind}; this model reads {other} only.", param=param)
        return kind

    def _chunks(self, data: bytes, param: str) -> list[list[int] | MediaChunk]:
        """The chunks that one file becomes, and tokens around them."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._check_open()
            chunks = mtmd_cpp.mtmd_input_chunks_init()
            bitmap = self._decode_file(data, param)
            try:
                part = mtmd_cpp.mtmd_input_part(None, bitmap)
                parts = (ctypes.POINTER(mtmd_cpp.mtmd_input_part) * 1)(ctypes.pointer(part))
                if mtmd_cpp.mtmd_tokenize_from_parts(self._native, chunks, parts, 1, False):
                    raise InvalidRequest(f"{param} has an image or audio that the model cannot read.", param=param)
                natives = [
                    mtmd_cpp.mtmd_input_chunks_get(chunks, index)
                    for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks))
                ]
                return [self._piece(native, f"{digest}:{index}") for index, native in enumerate(natives)]
            finally:
                mtmd_cpp.mtmd_bitmap_free(bitmap)
                mtmd_cpp.mtmd_input_chunks_free(chunks)

    def _decode_file(self, data: bytes, param: str) -> Any:
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = mtmd_cpp.mtmd_helper_bitmap_init_from_buf(self._native, buffer, len(data), False)
        if not bitmap:
            raise damaged(param)
        return bitmap

    def _piece(self, native: Any, id: str) -> list[int] | MediaChunk:
        if mtmd_cpp.mtmd_input_chunk_get_type(native) != mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
            non_causal = bool(mtmd_cpp.mtmd_decode_use_non_causal(self._native, native))
            return MediaChunk(native, id, non_causal=non_causal)
        count = ctypes.c_size_t()
        tokens = mtmd_cpp.mtmd_input_chunk_get_tokens_text(native, ctypes.byref(count))
        return list(tokens[: count.value]) if tokens and count.value else []

    # --- computing

    def encode(self, chunk: MediaChunk) -> NDArray[np.float32]:
        """The vectors of `chunk`, which keeps them; shape (cells, width of the model's input). May take seconds.

        Raises:
            GenerationFailed: with llama.cpp's code.
        """
        if chunk.vectors is not None:
            return chunk.vectors  # without waiting for what others have encoded
        with self._lock:
            found = self._recent.pop(chunk.id, None)
            vectors = self._encode(chunk) if found is None else found
            self._keep(chunk.id, vectors)
            chunk.vectors = vectors
            return vectors

    def encoded(self, chunk: MediaChunk) -> bool:
        """Whether `encode` would have nothing to compute."""
        return chunk.vectors is not None or chunk.id in self._recent

    def _encode(self, chunk: MediaChunk) -> NDArray[np.float32]:
        self._check_open()
        code = mtmd_cpp.mtmd_encode_chunk(self._native, chunk.native)
        if code:
            raise GenerationFailed(f"llama.cpp could not encode an {chunk.kind} chunk: {code}.")
        pointer = mtmd_cpp.mtmd_get_output_embd(self._native)
        vectors: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (chunk.cells, self._width)).copy()
        return vectors

    def _keep(self, id: str, vectors: NDArray[np.float32]) -> None:
        self._recent[id] = vectors
        while sum(kept.nbytes for kept in self._recent.values()) > KEPT_VECTORS:
            self._recent.popitem(last=False)

    def decode(self, context: Any, chunk: MediaChunk, *, seq: int, start: int) -> int:
        """Have `context` compute all of `chunk` into sequence `seq`, from position `start`; returns the next one.

        It is a batch of its own, or several, and gives no scores: a token must follow. To be called on the
        context's thread.

        Raises:
            GenerationFailed: the batches of `context` are too small, or it has no room, or fails.
        """
        batch = int(llama_cpp.llama_n_ubatch(context))
        if chunk.non_causal and chunk.cells > batch:
            raise GenerationFailed(
                f"An image takes {chunk.cells} tokens that must be computed together, and a batch holds {batch}; "
                "raise options.batch_tokens."
            )
        vectors = self.encode(chunk)
        after = llama_cpp.llama_pos(start)
        pointer = vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        no_callback = mtmd_cpp.mtmd_helper_post_decode_callback()
        code = mtmd_cpp.mtmd_helper_decode_image_chunk(
            self._native, context, chunk.native, pointer, start, seq, batch, ctypes.byref(after), no_callback, None
        )
        if code:
            raise GenerationFailed(f"llama.cpp could not compute an {chunk.kind} chunk of {chunk.cells}: {code}.")
        return int(after.value)

    def _check_open(self) -> None:
        if not self._native:
            raise GenerationFailed("The model's projector was unloaded.")


def _params(device: DeviceConfig, options: LlamaOptions) -> Any:
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu = device.gpu is not False
    params.n_threads = cpu_threads(device)
    params.print_timings = False
    params.flash_attn_type = {
        None: llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
        True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[options.flash_attention]
    return params


def _projector_type(path: Path) -> str:
    """The kind of the projector `path`; the llava family's files may not tell.

    Raises:
        LoadFailed: it is no projector.
    """
    with GgufFile(path) as file:
        if file.text("general.architecture") != "clip":
            raise LoadFailed(f"{path} is no projector: it is a model of its own. Name the file called mmproj.")
        return file.text("clip.projector_type") or file.text("clip.vision.projector_type") or ""
