"""The parameters of llama.cpp contexts, and contexts."""

from __future__ import annotations

from typing import Any

import llama_cpp

from infs.config import DeviceConfig
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog, cpu_threads
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.sizing import ContextSizes
from infs.errors import LoadFailed

CACHE_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # the bindings do not name it
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
}
ROPE_SCALING = {
    "none": llama_cpp.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN,
    "longrope": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LONGROPE,
}
ROPE_FIELDS = {
    "scaling": "rope_scaling_type",
    "freq_base": "rope_freq_base",
    "freq_scale": "rope_freq_scale",
    "yarn_ext_factor": "yarn_ext_factor",
    "yarn_attn_factor": "yarn_attn_factor",
    "yarn_beta_fast": "yarn_beta_fast",
    "yarn_beta_slow": "yarn_beta_slow",
    "yarn_orig_ctx": "yarn_orig_ctx",
}


def sized_params(device: DeviceConfig, options: LlamaOptions, sizes: ContextSizes) -> Any:
    """Parameters of a context of these sizes, whose sequences share its cells."""
    params = context_params(device, options)
    for name in ContextSizes.__struct_fields__:
        setattr(params, name, getattr(sizes, name))
    params.kv_unified = True
    return params


def context_params(device: DeviceConfig, options: LlamaOptions) -> Any:
    """Parameters that contexts for generation and for embeddings share."""
    params = llama_cpp.llama_context_default_params()
    params.n_threads = params.n_threads_batch = cpu_threads(device)
    params.no_perf = True
    on_gpu = device.gpu is not False
    params.offload_kqv = params.op_offload = on_gpu
    params.flash_attn_type = {
        None: llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
        True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
        False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }[options.flash_attention]
    params.type_k, params.type_v = CACHE_TYPES[options.cache_type_k], CACHE_TYPES[options.cache_type_v]
    for name, field in ROPE_FIELDS.items():
        value = getattr(options.rope, name)
        if value is not None:
            setattr(params, field, ROPE_SCALING[value] if name == "scaling" else value)
    return params


def new_context(model: LlamaModel, params: Any, log: NativeLog) -> Any:
    """A context of `model`, or a `LoadFailed` that says what llama.cpp said."""
    log.forget()
    context = llama_cpp.llama_init_from_model(model.pointer, params)
    if not context:
        raise LoadFailed(
            f"No context of {params.n_ctx} tokens could be made; llama.cpp says: {log.last_errors() or 'nothing'} "
            "A smaller context_size, or options.cache_tokens, needs less memory."
        )
    return context
