"""What must hold between a model and the options for its contexts; llama.cpp aborts over some of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import llama_cpp

from infs.engines.llama_cpp.gguf_file import has_tensor
from infs.engines.llama_cpp.options import LlamaOptions, RopeOptions
from infs.errors import LoadFailed

QUANTISED = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"})
BLOCK = 32  # values that each of these quantises together
DEFAULT_FREQ_BASE = 10_000.0
NO_LIMIT = 2**31 - 1
LONG_FACTORS = ("rope_factors_long.weight", "blk.0.rope_factors_long.weight")


class Checked(Protocol):
    """What is asked of a model; `LlamaModel` has it."""

    path: Path
    pointer: Any
    metadata: dict[str, str]
    trained_context: int

    @property
    def architecture(self) -> str: ...
    @property
    def has_cache(self) -> bool: ...


def check_options(model: Checked, options: LlamaOptions) -> None:
    """Raise `LoadFailed` for options of contexts that `model` cannot have."""
    _check_cache_types(model, options)
    if options.rope != RopeOptions():
        _check_rope(model, options.rope)


# --- cache types


def _check_cache_types(model: Checked, options: LlamaOptions) -> None:
    for name, kind, head in (
        ("cache_type_k", options.cache_type_k, "key"),
        ("cache_type_v", options.cache_type_v, "value"),
    ):
        if kind != "f16" and not model.has_cache:
            raise _refused(name, f"a {model.architecture} model has no cache of keys and values")
        size = next((size for size in _head_sizes(model, head) if size % BLOCK), None)
        if kind in QUANTISED and size is not None:
            raise _refused(
                name, f"{kind} stores {BLOCK} values together, and the model's heads have {size}; use f16 or bf16"
            )
    if options.cache_type_v in QUANTISED and options.flash_attention is False:
        raise _refused(
            "cache_type_v",
            f"{options.cache_type_v} needs flash attention, and options.flash_attention is false; leave that out, or "
            "use f16",
        )


def _head_sizes(model: Checked, head: str) -> list[int]:
    """The sizes of the model's attention heads, those of layers with a sliding window included."""
    key = f"{model.architecture}.attention.{head}_length"
    heads = max(1, int(llama_cpp.llama_model_n_head(model.pointer)))
    usual = model.metadata.get(key) or str(int(llama_cpp.llama_model_n_embd(model.pointer)) // heads)
    return [int(text) for text in (usual, model.metadata.get(f"{key}_swa")) if text and text.isdigit()]


# --- positions


def _check_rope(model: Checked, rope: RopeOptions) -> None:
    rotates = llama_cpp.llama_model_rope_type(model.pointer) != llama_cpp.LLAMA_ROPE_TYPE_NONE
    if not rotates or has_tensor(model.path, "position_embd.weight"):
        raise _refused("rope", f"a {model.architecture} model has no rotary positions")
    _check_numbers(rope)
    scaling = rope_scaling(model, rope)
    if scaling == "none" and rope.freq_scale is not None:
        raise _refused("rope.freq_scale", "nothing is scaled, since scaling is none; set rope.scaling")
    if rope.scaling in ("linear", "yarn") and freq_scale(model, rope) == 1.0:
        raise _refused(
            "rope.scaling",
            "freq_scale is 1, which scales nothing; 0.25, for example, makes the context four times as long",
        )
    if scaling == "longrope" and not has_tensor(model.path, *LONG_FACTORS):
        raise _refused("rope.scaling", "the model has no factors for longrope; use yarn or linear")
    _check_yarn(rope, scaling)


def _check_numbers(rope: RopeOptions) -> None:
    for name in rope.__struct_fields__:
        value = getattr(rope, name)
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0.0):
            raise _refused(f"rope.{name}", f"{value} is not a number of at least 0")


def _check_yarn(rope: RopeOptions, scaling: str) -> None:
    for name in ("yarn_ext_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx"):
        takes = ("yarn", "longrope") if name == "yarn_orig_ctx" else ("yarn",)
        if getattr(rope, name) is not None and scaling not in takes:
            raise _refused(f"rope.{name}", f"the scaling is {scaling}; set rope.scaling to yarn")
    # llama.cpp works the magnitude out itself wherever it extrapolates.
    if rope.yarn_attn_factor is not None and scaling == "yarn" and rope.yarn_ext_factor != 0.0:
        raise _refused("rope.yarn_attn_factor", "it only counts where rope.yarn_ext_factor is 0")


def rope_scaling(model: Checked, rope: RopeOptions) -> str:
    """The kind of scaling that holds: the one of the options, else the model's."""
    return rope.scaling or model.metadata.get(f"{model.architecture}.rope.scaling.type") or "linear"


def freq_scale(model: Checked, rope: RopeOptions) -> float:
    """The factor for positions that holds, 1 if nothing is scaled."""
    if rope_scaling(model, rope) == "none":
        return 1.0
    return rope.freq_scale or float(llama_cpp.llama_model_rope_freq_scale_train(model.pointer))


def usable_context(model: Checked, rope: RopeOptions) -> int:
    """Tokens that the model can be expected to see with `rope`: more than it was trained for, if that scales.

    With a higher base nobody can tell, and any length is taken.
    """
    trained_base = float(model.metadata.get(f"{model.architecture}.rope.freq_base", DEFAULT_FREQ_BASE))
    if rope.freq_base is not None and rope.freq_base > trained_base:
        return NO_LIMIT
    trained = float(llama_cpp.llama_model_rope_freq_scale_train(model.pointer)) or 1.0
    unscaled = rope.yarn_orig_ctx or model.trained_context * trained
    if rope == RopeOptions():
        return model.trained_context
    return min(NO_LIMIT, round(unscaled / freq_scale(model, rope)))


def _refused(name: str, why: str) -> LoadFailed:
    return LoadFailed(f"options.{name} cannot be used: {why}.", param=f"options.{name}")
