"""Choosing a token by scores that are in an array, and not in a context any more."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from infs.engines.llama_cpp.sampling import Sampler
from infs.errors import GenerationFailed

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def pick(sampler: Sampler, scores: NDArray[np.float32]) -> int:
    """What `sampler` chooses by `scores`, shape (vocabulary,), which stay as they are."""
    if sampler.greedy:
        return int(scores.argmax())
    candidates = np.zeros(len(scores), CANDIDATE)
    candidates["id"] = np.arange(len(scores))
    candidates["logit"] = scores
    array: Any = llama_cpp.llama_token_data_array()
    array.data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
    array.size, array.selected, array.sorted = len(scores), -1, False
    llama_cpp.llama_sampler_apply(sampler.chain, ctypes.byref(array))
    if not 0 <= array.selected < array.size:
        raise GenerationFailed("llama.cpp chose no token.")
    return int(array.data[array.selected].id)
