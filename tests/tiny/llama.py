"""A tiny Llama."""

from __future__ import annotations

from pathlib import Path

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
    kv_heads: int = HEADS,
    seed: int = 0,
) -> Path:
    """A Llama with a vocabulary of bytes; without `template` its file has none. See `add_byte_vocabulary`.

    With `kv_heads` that do not divide its heads, it is one that llama.cpp loads, and then aborts over.
    """
    file = TinyFile(path, "llama", seed=seed)
    writer = file.writer
    size = add_byte_vocabulary(file, pre=pre, add_bos=add_bos, add_eos=add_eos)
    writer.add_name("tiny llama")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if template is not None:
        writer.add_chat_template(template)
    file.tensor("token_embd.weight", size, WIDTH)
    for index in range(LAYERS):
        _add_layer(file, f"blk.{index}", kv_heads * WIDTH // HEADS)
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
