"""A model and its contexts without an engine around them: for what is told to llama.cpp, and what comes of it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import msgspec
import numpy as np

from infs.config import DeviceConfig
from infs.engines.llama_cpp.contexts import context_params, new_context
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.options import LlamaOptions
from tests.engines.llama import native_log

CPU = DeviceConfig(gpu=False, cpu_threads=1)


def options_of(**options: Any) -> LlamaOptions:
    """Options as a configuration has them."""
    return msgspec.convert(options, LlamaOptions)


@contextmanager
def bare_model(path: Path, **options: Any) -> Iterator[LlamaModel]:
    """A loaded model."""
    model = LlamaModel(path, CPU, options_of(**options), native_log())
    try:
        yield model
    finally:
        model.close()


@contextmanager
def bare_context(
    model: LlamaModel, *, cells: int = 256, sequences: int = 4, batch: int = 64, **options: Any
) -> Iterator[Any]:
    """A context of `model`, with one cache for all sequences."""
    params = context_params(CPU, options_of(**options))
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = cells, 64, batch, sequences
    params.kv_unified = True
    context = new_context(model, params, native_log())
    try:
        yield context
    finally:
        llama_cpp.llama_free(context)


def scores(model: LlamaModel, context: Any, tokens: list[int]) -> np.ndarray:
    """The scores behind `tokens`, which are computed in an empty cache; shape (vocabulary,)."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    return more_scores(model, context, tokens)


def more_scores(model: LlamaModel, context: Any, tokens: list[int]) -> np.ndarray:
    """The scores behind `tokens`, which follow what is in the cache for sequence 0."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
    return _last_scores(model, context)


def _last_scores(model: LlamaModel, context: Any) -> np.ndarray:
    pointer = llama_cpp.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (model.size,)).copy()


def scores_at(model: LlamaModel, context: Any, tokens: list[int], start: int) -> np.ndarray:
    """The scores behind `tokens`, which begin at position `start` of sequence 0."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)  # a batch only points to it
    batch = llama_cpp.llama_batch_get_one(array, len(tokens))
    batch.pos = (llama_cpp.llama_pos * len(tokens))(*range(start, start + len(tokens)))
    assert llama_cpp.llama_decode(context, batch) == 0
    return _last_scores(model, context)


def greedy(model: LlamaModel, context: Any, tokens: list[int], count: int) -> list[int]:
    """The `count` likeliest tokens, one after the other."""
    found = [int(scores(model, context, tokens).argmax())]
    while len(found) < count:
        found.append(int(more_scores(model, context, found[-1:]).argmax()))
    return found
