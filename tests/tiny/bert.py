"""A tiny BERT: an encoder for embeddings, or a reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf

from tests.tiny.files import TinyFile, add_word_vocabulary

WIDTH, LAYERS, HEADS = 32, 2, 4
POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "rank": gguf.PoolingType.RANK}


def write_bert(
    path: Path,
    *,
    pooling: Literal["mean", "cls", "rank"],
    context: int = 64,
    seed: int = 0,
    template: str | None = None,
    add_eos: bool | None = None,
    add_sep: bool | None = None,
    width: int = WIDTH,
    layers: int = LAYERS,
) -> Path:
    """A BERT whose file names its `pooling`; with ``rank`` it has a head that gives one score.

    See `add_word_vocabulary`. `template` is for pairs of a query and a document.
    """
    file = TinyFile(path, "bert", seed=seed)
    writer = file.writer
    size = add_word_vocabulary(file, add_eos=add_eos, add_sep=add_sep)
    if template is not None:
        writer.add_string("tokenizer.chat_template.rerank", template)
    writer.add_name("tiny bert")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_pooling_type(POOLING[pooling])
    file.tensor("token_embd.weight", size, width)
    file.tensor("position_embd.weight", context, width)
    file.tensor("token_types.weight", 2, width)
    file.norm("token_embd_norm", width, bias=True)
    for index in range(layers):
        _add_layer(file, f"blk.{index}", width)
    if pooling == "rank":
        _linear(file, "cls", width, width)
        _linear(file, "cls.output", 1, width)
    return file.save()


def _add_layer(file: TinyFile, layer: str, width: int) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        _linear(file, f"{layer}.{name}", width, width)
    file.norm(f"{layer}.attn_output_norm", width, bias=True)
    _linear(file, f"{layer}.ffn_up", 2 * width, width)
    _linear(file, f"{layer}.ffn_down", width, 2 * width)
    file.norm(f"{layer}.layer_output_norm", width, bias=True)


def _linear(file: TinyFile, name: str, rows: int, columns: int) -> None:
    file.tensor(f"{name}.weight", rows, columns)
    file.tensor(f"{name}.bias", rows)
