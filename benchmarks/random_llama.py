"""A Llama of SmolLM-135M's shape with random weights, written as GGUF: as fast as a real one, and no download.

The text that it writes is nonsense, but it is text: the rows of the end tokens and of the single bytes in the
(tied) embedding are zero, so that a greedy choice never falls on them and every token is a readable word.
"""

from __future__ import annotations

import itertools
import os
import string
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPREAD = 0.02  # standard deviation of the weights
SEED = 135


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama. `name` and `version` make the name of its file."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int
    version: int = 1


SMOL_135M = Shape("random-135m", 30, 576, 9, 3, 1536, 49152, 8192)
TINY = Shape("random-tiny", 2, 64, 2, 1, 128, 1024, 512)


def random_llama(shape: Shape = SMOL_135M, folder: Path | None = None) -> Path:
    """The path of the file, which is written if it is not there yet.

    Args:
        folder: where it is kept; a folder for benchmarks in the system's temporary one by default.
    """
    folder = folder or Path(tempfile.gettempdir()) / "infs-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{shape.name}-v{shape.version}.gguf"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}.part")
        write(shape, part)
        part.replace(target)
    return target


def write(shape: Shape, target: Path) -> None:
    """Write a Q8_0 GGUF of `shape` to `target`, always with the same weights."""
    writer = gguf.GGUFWriter(target, "llama")
    _write_sizes(writer, shape)
    _write_tokenizer(writer, shape)
    for name, values in _tensors(shape):
        kind = GGMLQuantizationType.Q8_0 if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.vocabulary)


def _write_tokenizer(writer: gguf.GGUFWriter, shape: Shape) -> None:
    words, merges = _words(shape.vocabulary - len(SPECIAL) - 256)
    tokens = [*SPECIAL, *_byte_names(), *words]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * len(SPECIAL) + [normal] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)


def _byte_names() -> list[str]:
    """The 256 bytes as GPT-2's byte-level vocabulary writes them: each as one printable character."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = itertools.count(0x100)
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _words(count: int) -> tuple[list[str], list[str]]:
    """`count` words and their merges: a space with a letter, two letters, and two of those pairs."""
    letters = string.ascii_lowercase
    first = [*(("Ġ", letter) for letter in letters), *itertools.product(letters, letters)]
    pairs = [a + b for a, b in itertools.product(letters, letters)]
    order = np.random.default_rng(SEED).permutation(len(pairs) ** 2)[: max(0, count - len(first))]
    second = [(pairs[place // len(pairs)], pairs[place % len(pairs)]) for place in order.tolist()]
    chosen = [*first, *second][:count]
    return [a + b for a, b in chosen], [f"{a} {b}" for a, b in chosen]


def _tensors(shape: Shape) -> Iterator[tuple[str, Matrix]]:
    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> Matrix:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(SPREAD)

    width, ones = shape.width, np.ones(shape.width, np.float32)
    kv_width = width // shape.heads * shape.kv_heads
    embedding = matrix(shape.vocabulary, width)
    embedding[: len(SPECIAL) + 256] = 0.0  # a score of 0, below the best of all others: never a greedy choice
    yield "token_embd.weight", embedding
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        start = f"blk.{layer}."
        yield start + "attn_norm.weight", ones
        yield start + "ffn_norm.weight", ones
        yield start + "attn_q.weight", matrix(width, width)
        yield start + "attn_k.weight", matrix(kv_width, width)
        yield start + "attn_v.weight", matrix(kv_width, width)
        yield start + "attn_output.weight", matrix(width, width)
        yield start + "ffn_gate.weight", matrix(shape.feed_forward, width)
        yield start + "ffn_up.weight", matrix(shape.feed_forward, width)
        yield start + "ffn_down.weight", matrix(width, shape.feed_forward)


if __name__ == "__main__":
    print(random_llama())
