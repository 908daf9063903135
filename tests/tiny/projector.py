"""Tiny projectors: what turns an image, or audio, into vectors for a tiny Llama."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.tiny.files import TinyFile
from tests.tiny.llama import WIDTH

LAYERS, HEADS, HIDDEN = 2, 4, 64
SIDE, PATCH = 16, 4  # pixels
IMAGE_CELLS = (SIDE // PATCH) ** 2
MELS, FRAMES, STACK = 16, 1500, 100
AUDIO_CELLS = 7  # of half a minute


def write_image_projector(path: Path, *, width: int = WIDTH, seed: int = 0) -> Path:
    """A vision transformer of the llava family for a model of `width`; an image becomes `IMAGE_CELLS` vectors."""
    file = _start(path, "vision", "mlp", width, seed)
    _add_image_numbers(file)
    file.tensor("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    file.tensor("v.position_embd.weight", IMAGE_CELLS, WIDTH)
    for index in range(LAYERS):
        _add_layer(file, f"v.blk.{index}")
    _linear(file, "mm.0", HIDDEN, WIDTH)
    _linear(file, "mm.2", width, HIDDEN)
    return file.save()


def write_grid_projector(path: Path, *, width: int = WIDTH, seed: int = 0) -> Path:
    """One of the Qwen2-VL family: a vector for each 8 x 8 pixels, whose positions are a grid."""
    file = _start(path, "vision", "qwen2vl_merger", width, seed)
    _add_image_numbers(file)
    for name in ("weight", "weight.1"):
        file.tensor(f"v.patch_embd.{name}", WIDTH, 3, PATCH, PATCH)
    for index in range(LAYERS):
        _add_layer(file, f"v.blk.{index}")
    file.norm("v.post_ln", WIDTH, bias=True)
    _linear(file, "mm.0", HIDDEN, 4 * WIDTH)
    _linear(file, "mm.2", width, HIDDEN)
    return file.save()


def write_whole_projector(path: Path, *, width: int = WIDTH, side: int = SIDE, seed: int = 0) -> Path:
    """One of the Gemma 3 family: the vectors of an image must be computed in one piece, one for each 4 x 4 pixels.

    Images are scaled to `side` x `side` pixels.
    """
    file = _start(path, "vision", "gemma3", width, seed)
    _add_image_numbers(file, side)
    file.writer.add_uint32("clip.vision.projector.scale_factor", 1)
    file.tensor("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    file.tensor("v.position_embd.weight", (side // PATCH) ** 2, WIDTH)
    for index in range(LAYERS):
        _add_layer(file, f"v.blk.{index}")
    file.norm("v.post_ln", WIDTH, bias=True)
    file.norm("mm.soft_emb_norm", WIDTH)
    file.tensor("mm.input_projection.weight", WIDTH, width)
    return file.save()


def write_audio_projector(path: Path, *, width: int = WIDTH, seed: int = 0) -> Path:
    """An encoder of the Whisper family for a model of `width`; half a minute becomes `AUDIO_CELLS` vectors."""
    file = _start(path, "audio", "voxtral", width, seed)
    file.writer.add_uint32("clip.audio.num_mel_bins", MELS)
    file.writer.add_uint32("clip.audio.projector.stack_factor", STACK)
    for number, channels in ((1, MELS), (2, WIDTH)):
        kernel = np.random.default_rng(seed + number).normal(0.0, 0.2, (WIDTH, channels, 3))
        file.writer.add_tensor(f"a.conv1d.{number}.weight", kernel.astype(np.float16))
        file.tensor(f"a.conv1d.{number}.bias", WIDTH, 1)
    file.tensor("a.position_embd.weight", FRAMES, WIDTH)
    for index in range(LAYERS):
        _add_layer(file, f"a.blk.{index}", key_bias=False)
    file.norm("a.post_ln", WIDTH, bias=True)
    file.tensor("mm.a.mlp.1.weight", HIDDEN, WIDTH * STACK, scale=0.05)
    file.tensor("mm.a.mlp.2.weight", width, HIDDEN)
    return file.save()


def _start(path: Path, kind: str, projector: str, width: int, seed: int) -> TinyFile:
    file = TinyFile(path, "clip", seed=seed)
    writer = file.writer
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_bool(f"clip.has_{kind}_encoder", True)
    writer.add_string("clip.projector_type", projector)
    writer.add_bool("clip.use_gelu", True)
    for name, value in (
        ("embedding_length", WIDTH),
        ("feed_forward_length", HIDDEN),
        ("block_count", LAYERS),
        ("projection_dim", width),
        ("attention.head_count", HEADS),
    ):
        writer.add_uint32(f"clip.{kind}.{name}", value)
    writer.add_float32(f"clip.{kind}.attention.layer_norm_epsilon", 1e-5)
    return file


def _add_image_numbers(file: TinyFile, side: int = SIDE) -> None:
    file.writer.add_uint32("clip.vision.image_size", side)
    file.writer.add_uint32("clip.vision.patch_size", PATCH)
    file.writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    file.writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def _add_layer(file: TinyFile, layer: str, *, key_bias: bool = True) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        file.tensor(f"{layer}.{name}.weight", WIDTH, WIDTH)
        if key_bias or name != "attn_k":
            file.tensor(f"{layer}.{name}.bias", WIDTH)
    file.norm(f"{layer}.ln1", WIDTH, bias=True)
    file.norm(f"{layer}.ln2", WIDTH, bias=True)
    _linear(file, f"{layer}.ffn_up", HIDDEN, WIDTH)
    _linear(file, f"{layer}.ffn_down", WIDTH, HIDDEN)


def _linear(file: TinyFile, name: str, rows: int, columns: int) -> None:
    file.tensor(f"{name}.weight", rows, columns)
    file.tensor(f"{name}.bias", rows)
