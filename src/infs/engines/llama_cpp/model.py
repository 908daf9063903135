"""A loaded GGUF file: its weights, its vocabulary and what its header says."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from infs.config import DeviceConfig
from infs.engines.llama_cpp.checks import check_options, usable_context
from infs.engines.llama_cpp.gguf_file import check_file, has_tensor
from infs.engines.llama_cpp.gpus import find_split
from infs.engines.llama_cpp.native import NativeLog, choose_devices
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.runs import LONGEST_RUN, cut_runs
from infs.errors import InvalidRequest, LoadFailed


class LlamaModel:
    """Weights and vocabulary. Thread-safe after loading: nothing changes any more.

    Args:
        progress: told of the share that is loaded, 0 to 1.
        simulate: read the vocabulary and what the header says, but no weights. Such a model computes nothing; its
            contexts take no memory for what they hold, and llama.cpp logs how much they would.

    Attributes:
        trained_context: tokens that the model was trained to see.
        usable_context: tokens that it can be expected to see with the positions of the options.

    Raises:
        LoadFailed: the file is not what it should be, or does not fit.
    """

    def __init__(
        self,
        path: Path,
        device: DeviceConfig,
        options: LlamaOptions,
        log: NativeLog,
        progress: Callable[[float], None] = lambda share: None,
        *,
        simulate: bool = False,
    ) -> None:
        check_file(path)
        self.path = path
        log.forget()
        self.pointer = _load(path, device, options, progress, simulate)
        if not self.pointer:
            raise LoadFailed(f"{path} could not be loaded; llama.cpp says: {log.last_errors() or 'nothing'}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.pointer)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self.vocab))
        self.metadata = self._read_metadata()
        # Read once: llama.cpp changes its own when a context scales positions.
        self.trained_context = int(llama_cpp.llama_model_n_ctx_train(self.pointer))
        self._pieces: dict[int, bytes] = {}
        try:
            check_options(self, options)
        except LoadFailed:
            self.close()
            raise
        self.usable_context = usable_context(self, options.rope)

    def close(self) -> None:
        """Free the weights; nothing may use them any more."""
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None

    # --- what the header says

    def _read_metadata(self) -> dict[str, str]:
        count = llama_cpp.llama_model_meta_count(self.pointer)
        keys = (self._meta(llama_cpp.llama_model_meta_key_by_index, index) for index in range(count))
        return {
            key: self._meta(llama_cpp.llama_model_meta_val_str_by_index, index) or ""
            for index, key in enumerate(keys)
            if key
        }

    def _meta(self, read: Callable[..., int], index: int) -> str:
        buffer = ctypes.create_string_buffer(1024)
        length = read(self.pointer, index, buffer, len(buffer))
        if length >= len(buffer):
            buffer = ctypes.create_string_buffer(length + 1)
            read(self.pointer, index, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja template in the file."""
        return self.template(None)

    def template(self, name: str | None) -> str | None:
        """The template in the file that is called `name`; the one for chats has no name."""
        text = llama_cpp.llama_model_chat_template(self.pointer, name.encode("utf-8") if name else None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def cuttable(self) -> bool:
        """Whether its cache can be cut at any token. (A recurrent state cannot.)"""
        return not (llama_cpp.llama_model_is_recurrent(self.pointer) or llama_cpp.llama_model_is_hybrid(self.pointer))

    @property
    def has_cache(self) -> bool:
        """Whether it has a cache of keys and values: no recurrent model and no encoder has one."""
        return not (llama_cpp.llama_model_is_recurrent(self.pointer) or "bert" in self.architecture)

    @property
    def generates(self) -> bool:
        """Whether it can continue a text: it has a decoder and is no embedding model by its attention."""
        causal = self.metadata.get(f"{self.architecture}.attention.causal", "true") == "true"
        return bool(llama_cpp.llama_model_has_decoder(self.pointer)) and causal and not self._encoder

    @property
    def ranks(self) -> bool:
        """Whether it has a head that gives a text a score."""
        told = self.metadata.get(f"{self.architecture}.pooling_type")
        return told == str(llama_cpp.LLAMA_POOLING_TYPE_RANK) or has_tensor(
            self.path, "cls.weight", "cls.output.weight"
        )

    @property
    def _encoder(self) -> bool:
        return "bert" in self.architecture or bool(llama_cpp.llama_model_has_encoder(self.pointer))

    @property
    def architecture(self) -> str:
        """Its family, such as ``llama``."""
        return self.metadata.get("general.architecture", "unknown")

    def details(self) -> dict[str, Any]:
        """Facts for people."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.pointer, buffer, len(buffer))
        return {
            "name": self.metadata.get("general.name", self.path.stem),
            "architecture": self.architecture,
            "description": buffer.value.decode("utf-8", "replace"),
            "parameters": int(llama_cpp.llama_model_n_params(self.pointer)),
            "bytes": int(llama_cpp.llama_model_size(self.pointer)),
            "vocabulary": self.size,
            "trained_context": self.trained_context,
        }

    # --- the vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The token ids of `text`; `add_special` adds what the model wants at the start (and end)."""
        pieces = cut_runs(text, self._special_texts) if self._splits_words and len(text) > LONGEST_RUN else [text]
        if len(pieces) == 1:
            return self._tokenize(text, add_special, parse_special)
        tokens = [token for piece in pieces for token in self._tokenize(piece, False, parse_special)]
        around = self._tokenize("", add_special, parse_special)
        before = int(llama_cpp.llama_vocab_get_add_bos(self.vocab))
        return [*around[:before], *tokens, *around[before:]]

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8")
        room = len(data) + 8
        for _ in range(2):
            tokens = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            room = -count
        raise ValueError("the text could not be tokenized")

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raise `InvalidRequest` for a token that the model does not have: llama.cpp would end the process."""
        wrong = next((token for token in tokens if not 0 <= token < self.size), None)
        if wrong is not None:
            raise InvalidRequest(f"{param} has token {wrong}; the model has tokens 0 to {self.size - 1}.", param=param)

    def least_tokens(self, text: str) -> int:
        """A number of tokens that `text` certainly has: for refusing a hopeless text without reading it."""
        if llama_cpp.llama_vocab_type(self.vocab) in (llama_cpp.LLAMA_VOCAB_TYPE_WPM, llama_cpp.LLAMA_VOCAB_TYPE_UGM):
            text = " ".join(text.split())  # runs of blanks are nothing to these
        return len(text.encode("utf-8")) // self.longest_piece

    @functools.cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token."""
        return max(1, *(len(self.piece(token, special=True)) for token in range(self.size)))

    @property
    def _splits_words(self) -> bool:
        """Whether a regular expression cuts texts into words, of which the tokens are made."""
        return bool(llama_cpp.llama_vocab_type(self.vocab) == llama_cpp.LLAMA_VOCAB_TYPE_BPE)

    @functools.cached_property
    def _special_texts(self) -> list[str]:
        """The texts of the tokens that are found in a text before it is split into words."""
        kinds = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        special = (t for t in range(self.size) if llama_cpp.llama_vocab_get_attr(self.vocab, t) & kinds)
        return [self.text([token]) for token in special]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that `token` stands for; those of a control token only if `special`."""
        if special:
            return self._read_piece(token, True)
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._read_piece(token, False)
        return found

    def _read_piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(128)
        length = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(0, length)]

    def text(self, tokens: list[int]) -> str:
        """The text of `tokens`, control tokens included."""
        return b"".join(self.piece(token, special=True) for token in tokens).decode("utf-8", "replace")

    @functools.cached_property
    def end_tokens(self) -> list[int]:
        """Every token that ends a generation."""
        return [t for t in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, t)]

    def control_texts(self) -> list[str]:
        """The texts of all control tokens."""
        control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        tokens = (t for t in range(self.size) if llama_cpp.llama_vocab_get_attr(self.vocab, t) & control)
        return [self.text([token]) for token in tokens]

    @property
    def bos(self) -> str:
        """The text of the token that starts a document, empty if there is none."""
        return self._special(llama_cpp.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> str:
        """The text of the token that ends a document, empty if there is none."""
        return self._special(llama_cpp.llama_vocab_eos(self.vocab))

    def _special(self, token: int) -> str:
        return self.text([token]) if token >= 0 else ""

    @property
    def fill_in_the_middle(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, a suffix and the middle, if the model knows such."""
        tokens = tuple(
            int(find(self.vocab))
            for find in (llama_cpp.llama_vocab_fim_pre, llama_cpp.llama_vocab_fim_suf, llama_cpp.llama_vocab_fim_mid)
        )
        return None if min(tokens) < 0 else (tokens[0], tokens[1], tokens[2])


def _load(
    path: Path, device: DeviceConfig, options: LlamaOptions, progress: Callable[[float], None], simulate: bool
) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers, devices = choose_devices(device)
    if devices is not None:
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
    split = find_split(device, options)
    shares = split.put(params) if split is not None else None
    params.no_alloc = simulate  # which aborts where files are mapped
    params.load_mode = {
        (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
        (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }[options.mmap and not simulate, device.mem_lock and not simulate]
    params.check_tensors = options.check_tensors

    failures: list[BaseException] = []

    def tell(share: float, user_data: Any) -> bool:
        try:
            progress(share)
        except BaseException as error:  # Ctrl+C too; it cannot pass through llama.cpp, which is told to stop
            failures.append(error)
        return not failures

    callback = llama_cpp.llama_progress_callback(tell)
    params.progress_callback = callback
    pointer = llama_cpp.llama_model_load_from_file(str(path).encode("utf-8"), params)
    del shares  # which `params` only borrowed
    if failures:
        llama_cpp.llama_model_free(pointer)
        raise failures[0]
    return pointer
