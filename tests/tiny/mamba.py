"""A tiny Mamba: a recurrent model, whose state cannot be cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.tiny.files import TinyFile, add_byte_vocabulary

WIDTH, LAYERS, STATE, KERNEL = 32, 2, 16, 4


def write_mamba(
    path: Path,
    *,
    context: int = 256,
    seed: int = 0,
    decay: float = 1.0,
    width: int = WIDTH,
    layers: int = LAYERS,
) -> Path:
    """A Mamba with a vocabulary of bytes and no chat template.

    With a `decay` of 1 it has forgotten a token after about 30 others; with less it remembers longer, by that factor.
    """
    file = TinyFile(path, "mamba", seed=seed)
    writer = file.writer
    size = add_byte_vocabulary(file)
    writer.add_name("tiny mamba")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(2 * width)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(width // 16)
    writer.add_layer_norm_rms_eps(1e-5)
    file.tensor("token_embd.weight", size, width)
    for index in range(layers):
        _add_layer(file, f"blk.{index}", decay, width)
    file.norm("output_norm", width)
    return file.save()


def _add_layer(file: TinyFile, layer: str, decay: float, width: int) -> None:
    inner, rank = 2 * width, width // 16
    file.norm(f"{layer}.attn_norm", width)
    file.tensor(f"{layer}.ssm_in.weight", 2 * inner, width)
    file.tensor(f"{layer}.ssm_conv1d.weight", inner, KERNEL)
    file.tensor(f"{layer}.ssm_conv1d.bias", inner)
    file.tensor(f"{layer}.ssm_x.weight", rank + 2 * STATE, inner)
    file.tensor(f"{layer}.ssm_dt.weight", inner, rank)
    file.tensor(f"{layer}.ssm_dt.bias", inner)
    file.values(f"{layer}.ssm_a", -decay * np.tile(np.arange(1, STATE + 1), (inner, 1)))  # below zero
    file.tensor(f"{layer}.ssm_d", inner)
    file.tensor(f"{layer}.ssm_out.weight", width, inner)
