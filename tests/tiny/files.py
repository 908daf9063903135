"""What the makers of tiny models share: a writer that fills tensors with random values, and vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")


class TinyFile:
    """A GGUF file on its way. Tensors get random values, the same for the same `seed`, and what is in `plus` on top."""

    def __init__(
        self, path: Path, architecture: str, *, seed: int = 0, plus: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self._path = path
        self._plus = dict(plus or {})
        self._random = np.random.default_rng(seed)
        self.writer = gguf.GGUFWriter(path, architecture)
        self.writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    def tensor(self, name: str, *shape: int, scale: float = 0.2) -> None:
        """A matrix, or the like, of `shape` (rows first)."""
        values = self._random.normal(0.0, scale, shape).astype(np.float32)
        self.writer.add_tensor(name, (values + self._plus.get(name, 0.0)).astype(np.float32))

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        """The weight of a normalisation, near one."""
        self.writer.add_tensor(f"{name}.weight", (1.0 + 0.1 * self._random.normal(0.0, 1.0, size)).astype(np.float32))
        if bias:
            self.tensor(f"{name}.bias", size)

    def values(self, name: str, values: np.ndarray) -> None:
        """A tensor with these very values."""
        self.writer.add_tensor(name, values.astype(np.float32))

    def save(self) -> Path:
        """Write it all."""
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self._path


def add_byte_vocabulary(file: TinyFile, *, pre: str = "gpt-2", add_bos: bool = False, add_eos: bool = False) -> int:
    """A vocabulary of the 256 bytes and control tokens, the first of which ends a text. Returns its size.

    Args:
        pre: the name of the way to split a text into words.
        add_bos, add_eos: texts start with ``<|user|>``, and end with ``<|end|>``.
    """
    tokens = [*_byte_names(), *SPECIAL]
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer = file.writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["0 0"])  # of no use, but without any the file is refused
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(257)
    writer.add_add_bos_token(add_bos)
    writer.add_add_eos_token(add_eos)
    writer.add_vocab_size(len(tokens))
    return len(tokens)


def add_word_vocabulary(file: TinyFile, *, add_eos: bool | None = None, add_sep: bool | None = None) -> int:
    """A WordPiece vocabulary of the printable ASCII characters, as beginnings and insides of words.

    Args:
        add_eos, add_sep: what the file says of the ends of texts, and of what is between two; by default nothing.
    """
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *("\u2581" + letter for letter in letters), *letters]
    kinds = [gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(tokens) - 5)
    writer = file.writer
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    if add_eos is not None:
        writer.add_add_eos_token(add_eos)
    if add_sep is not None:
        writer.add_add_sep_token(add_sep)
    writer.add_vocab_size(len(tokens))
    return len(tokens)


def _byte_names() -> list[str]:
    """The characters that stand for the bytes 0 to 255 in vocabularies of GPT-2's kind."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]
