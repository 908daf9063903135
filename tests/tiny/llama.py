"""A tiny Llama."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.tiny.files import TinyFile, add_byte_vocabulary

WIDTH, LAYERS, HEADS, HIDDEN = 32, 2, 4, 64


def write_llama(
    path: Path,
    *,
    template: str | None = None,
    context: int = 256,
    pre: str = "gpt-2",
    add_bos: bool = False,
    add_eos: bool = False,
    layers: int = LAYERS,
    heads: int = HEADS,
    kv_heads: int | None = None,
    architecture: str = "llama",
    seed: int = 0,
    plus: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A Llama with a vocabulary of bytes; without `template` its file has none. See `add_byte_vocabulary`.

    With `kv_heads` that do not divide its heads, it is one that llama.cpp loads, and then aborts over. `plus` is
    added to the weights of these names. As a ``qwen2vl`` it is the same with positions of several dimensions.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    file = TinyFile(path, architecture, seed=seed, plus=plus)
    writer = file.writer
    size = add_byte_vocabulary(file, pre=pre, add_bos=add_bos, add_eos=add_eos)
    writer.add_name("tiny llama")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(WIDTH // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "qwen2vl":
        writer.add_rope_dimension_sections([WIDTH // heads // 4, WIDTH // heads // 8, WIDTH // heads // 8, 0])
    if template is not None:
        writer.add_chat_template(template)
    file.tensor("token_embd.weight", size, WIDTH)
    for index in range(layers):
        _add_layer(file, f"blk.{index}", kv_heads * WIDTH // heads)
    file.norm("output_norm", WIDTH)
    file.tensor("output.weight", size, WIDTH)
    return file.save()


def _add_layer(file: TinyFile, layer: str, kv_width: int) -> None:
    file.norm(f"{layer}.attn_norm", WIDTH)
    for name, rows in (("attn_q", WIDTH), ("attn_k", kv_width), ("attn_v", kv_width), ("attn_output", WIDTH)):
        file.tensor(f"{layer}.{name}.weight", rows, WIDTH)
    file.norm(f"{layer}.ffn_norm", WIDTH)
    file.tensor(f"{layer}.ffn_gate.weight", HIDDEN, WIDTH)
    file.tensor(f"{layer}.ffn_up.weight", HIDDEN, WIDTH)
    file.tensor(f"{layer}.ffn_down.weight", WIDTH, HIDDEN)
