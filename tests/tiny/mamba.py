"""A tiny Mamba: a recurrent model, whose state cannot be cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.tiny.files import TinyFile, add_byte_vocabulary

WIDTH, LAYERS, INNER, STATE, KERNEL, RANK = 32, 2, 64, 16, 4, 2


def write_mamba(path: Path, *, context: int = 256, seed: int = 0, decay: float = 1.0) -> Path:
    """A Mamba with a vocabulary of bytes and no chat template.

    With a `decay` of 1 it has forgotten a token after about 30 others; with less it remembers longer, by that factor.
    """
    file = TinyFile(path, "mamba", seed=seed)
    writer = file.writer
    size = add_byte_vocabulary(file)
    writer.add_name("tiny mamba")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    file.tensor("token_embd.weight", size, WIDTH)
    for index in range(LAYERS):
        _add_layer(file, f"blk.{index}", decay)
    file.norm("output_norm", WIDTH)
    return file.save()


def _add_layer(file: TinyFile, layer: str, decay: float) -> None:
    file.norm(f"{layer}.attn_norm", WIDTH)
    file.tensor(f"{layer}.ssm_in.weight", 2 * INNER, WIDTH)
    file.tensor(f"{layer}.ssm_conv1d.weight", INNER, KERNEL)
    file.tensor(f"{layer}.ssm_conv1d.bias", INNER)
    file.tensor(f"{layer}.ssm_x.weight", RANK + 2 * STATE, INNER)
    file.tensor(f"{layer}.ssm_dt.weight", INNER, RANK)
    file.tensor(f"{layer}.ssm_dt.bias", INNER)
    file.values(f"{layer}.ssm_a", -decay * np.tile(np.arange(1, STATE + 1), (INNER, 1)))  # below zero
    file.tensor(f"{layer}.ssm_d", INNER)
    file.tensor(f"{layer}.ssm_out.weight", WIDTH, INNER)
