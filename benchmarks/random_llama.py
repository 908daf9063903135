"""A Llama of SmolLM-135M's shape with random weights, written as GGUF: as fast as a real one, and no download.

The text that it writes is nonsense, but it is text: the rows of the end tokens and of the single bytes in the
(tied) embedding are zero, so that a greedy choice never falls on them and every token is a readable word. A word
begins with a space and is one token, also when its text is read again, so that a conversation continues with the
very tokens that were generated.

A model that `copies` has layers that add nothing, and an output that names the word's successor: it goes round
in circles of `CIRCLE` words, whatever stands before the last one.
"""

from __future__ import annotations

import functools
import itertools
import os
import string
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPACE = "Ġ"  # how GPT-2's vocabulary writes a space
SPREAD = 0.02  # standard deviation of the weights
SEED = 135
FIRST_WORD = len(SPECIAL) + 256  # the token of the first word; before it are the special ones and the bytes
CIRCLE = 256  # words
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, and whether it `copies`. `name` and `version` make the name of its file."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int
    version: int = 2
    copies: bool = False


SMOL_135M = Shape("random-135m", 30, 576, 9, 3, 1536, 49152, 8192)
COPYING_135M = replace(SMOL_135M, name="random-135m-copies", copies=True)
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


def random_words(shape: Shape, count: int, length: int, seed: int) -> list[list[int]]:
    """`count` lists of `length` tokens, all of them words of a model of `shape`."""
    words: list[list[int]] = (
        np.random.default_rng(seed).integers(FIRST_WORD, shape.vocabulary, (count, length)).tolist()
    )
    return words


def text_of(shape: Shape, tokens: Sequence[int]) -> str:
    """The text of `tokens`, all of them words."""
    words = _words(shape.vocabulary - FIRST_WORD)
    return "".join(words[token - FIRST_WORD] for token in tokens).replace(SPACE, " ")


def byte_token(text: str) -> int:
    """The token of one ASCII character on its own."""
    return len(SPECIAL) + ord(text)


def successor(shape: Shape, token: int) -> int:
    """The word that a model which copies has follow the word `token`; the last circle may be a smaller one."""
    circle, place = divmod(token - FIRST_WORD, CIRCLE)
    size = min(CIRCLE, shape.vocabulary - FIRST_WORD - circle * CIRCLE)
    return FIRST_WORD + circle * CIRCLE + (place + 1) % size


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
    words = _words(shape.vocabulary - FIRST_WORD)
    tokens = [*SPECIAL, *_byte_names(), *words]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder")
    writer.add_token_list(tokens)
    writer.add_token_types([control] * len(SPECIAL) + [normal] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges([f"{word[:-1]} {word[-1]}" for word in words])
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_names() -> list[str]:
    """The 256 bytes as GPT-2's byte-level vocabulary writes them: each as one printable character."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = itertools.count(0x100)
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


@functools.cache
def _words(count: int) -> list[str]:
    """The `count` shortest words, by the alphabet within a length: each is a shorter one with a letter more."""
    lengths = (itertools.product(string.ascii_lowercase, repeat=length) for length in itertools.count(1))
    letters = itertools.chain.from_iterable(lengths)
    return [SPACE + "".join(word) for word in itertools.islice(letters, count)]


def _tensors(shape: Shape) -> Iterator[tuple[str, Matrix]]:
    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> Matrix:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(SPREAD)

    def closing(rows: int, columns: int) -> Matrix:
        """What a part of a layer ends in. (Zeros take as long to compute as anything else.)"""
        return matrix(rows, columns) * np.float32(not shape.copies)

    width, ones = shape.width, np.ones(shape.width, np.float32)
    kv_width = width // shape.heads * shape.kv_heads
    embedding = matrix(shape.vocabulary, width)
    embedding[:FIRST_WORD] = 0.0  # a score of 0, below the best of all others: never a greedy choice
    yield "token_embd.weight", embedding
    if shape.copies:
        yield "output.weight", _successors(shape, embedding)
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        start = f"blk.{layer}."
        yield start + "attn_norm.weight", ones
        yield start + "ffn_norm.weight", ones
        yield start + "attn_q.weight", matrix(width, width)
        yield start + "attn_k.weight", matrix(kv_width, width)
        yield start + "attn_v.weight", matrix(kv_width, width)
        yield start + "attn_output.weight", closing(width, width)
        yield start + "ffn_gate.weight", matrix(shape.feed_forward, width)
        yield start + "ffn_up.weight", matrix(shape.feed_forward, width)
        yield start + "ffn_down.weight", closing(width, shape.feed_forward)


def _successors(shape: Shape, embedding: Matrix) -> Matrix:
    """The output in which each word's successor has that word's embedding."""
    output = np.zeros_like(embedding)
    words = range(FIRST_WORD, shape.vocabulary)
    output[[successor(shape, word) for word in words]] = embedding[words]
    return output


if __name__ == "__main__":
    print(random_llama())
