"""What changes a tiny Llama: a LoRA adapter, a control vector."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.tiny.files import TinyFile
from tests.tiny.llama import LAYERS, WIDTH

TARGETS = ("attn_q", "attn_v", "attn_output")
RANK = 4


def lora_matrices(seed: int = 7, *, width: int = WIDTH) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The A (rank, width) and the B (width, rank) of each target, by the name of the weight that they change."""
    random = np.random.default_rng(seed)
    return {
        f"blk.{layer}.{target}.weight": (
            random.normal(0.0, 0.3, (RANK, width)).astype(np.float32),
            random.normal(0.0, 0.3, (width, RANK)).astype(np.float32),
        )
        for layer in range(LAYERS)
        for target in TARGETS
    }


def lora_deltas(*, scale: float = 1.0, alpha: float = 8.0, seed: int = 7) -> dict[str, np.ndarray]:
    """What the adapter adds to the weights, by their names."""
    return {name: scale * alpha / RANK * (b @ a) for name, (a, b) in lora_matrices(seed).items()}


def write_lora(
    path: Path,
    *,
    architecture: str = "llama",
    kind: str = "lora",
    alpha: float = 8.0,
    width: int = WIDTH,
    invocation: list[int] | None = None,
    seed: int = 7,
) -> Path:
    """A LoRA adapter for a tiny Llama, or one that is wrong in one of the arguments."""
    file = TinyFile(path, architecture)
    file.writer.add_type(gguf.GGUFType.ADAPTER)
    file.writer.add_string(gguf.Keys.Adapter.TYPE, kind)
    file.writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    if invocation is not None:
        file.writer.add_array("adapter.alora.invocation_tokens", invocation)
    for name, (a, b) in lora_matrices(seed, width=width).items():
        file.values(f"{name}.lora_a", a)
        file.values(f"{name}.lora_b", b)
    return file.save()


def control_directions(seed: int = 3, *, layers: int = LAYERS, width: int = WIDTH) -> dict[int, np.ndarray]:
    """The vector of each layer, by its number, which starts at 1."""
    random = np.random.default_rng(seed)
    return {layer: random.normal(0.0, 1.0, width).astype(np.float32) for layer in range(1, layers)}


def write_control_vector(
    path: Path, *, layers: int = LAYERS, width: int = WIDTH, first: int = 1, half: bool = False, seed: int = 3
) -> Path:
    """A control vector for a tiny Llama of `layers`, whose layers count from `first`; with `half` of 16-bit values."""
    file = TinyFile(path, "controlvector")
    file.writer.add_string("controlvector.model_hint", "llama")
    for layer, vector in control_directions(seed, layers=layers, width=width).items():
        values = vector.astype(np.float16 if half else np.float32)
        file.writer.add_tensor(f"direction.{layer - 1 + first}", values)
    return file.save()
