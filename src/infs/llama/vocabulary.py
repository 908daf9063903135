"""Texts and tokens of a model."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import llama_cpp

from infs.engines.llama_cpp.model import LlamaModel
from infs.errors import InvalidRequest
from infs.llama.core import Core
from infs.llama.settings import check_text, tokens_of


class Vocabulary:
    """What a `Llama` inherits: see there."""

    _core: Core

    def tokenize(self, text: str, *, special: bool = True, add_bos: bool | None = None) -> list[int]:
        """The tokens of `text`.

        Args:
            special: texts of control tokens, such as ``<|im_start|>``, become these tokens; otherwise they are letters.
            add_bos: put the token first that starts a text; by default where the model wants it.

        Raises:
            InvalidRequest: it is no text, or the model has no such token.
        """
        with self._core.gate:
            model = self._core.loaded.model
            tokens = model.tokenize(check_text(text, "text"), add_special=False, parse_special=special)
            wanted = bool(llama_cpp.llama_vocab_get_add_bos(model.vocab)) if add_bos is None else add_bos
            return [_first(model), *tokens] if wanted else tokens

    def detokenize(self, tokens: Iterable[int], *, special: bool = True) -> str:
        """The text of `tokens`; control tokens are left out unless `special`.

        Bytes that are no character become U+FFFD: where a text may be cut within a character, join what
        `detokenize_bytes` gives.

        Raises:
            InvalidRequest: the model has no such token.
        """
        return self.detokenize_bytes(tokens, special=special).decode("utf-8", "replace")

    def detokenize_bytes(self, tokens: Iterable[int], *, special: bool = True) -> bytes:
        """The bytes of `tokens`; see `detokenize`."""
        found = tokens_of(tokens, "tokens")
        with self._core.gate:
            model = self._core.loaded.model
            model.check_tokens(found, "tokens")
            return b"".join(model.piece(token, special=special) for token in found)

    def lookup_token(self, text: str | bytes) -> int | None:
        """The token that stands for exactly `text`, if there is one; control tokens are found too."""
        with self._core.gate:
            return self._ids.get(text if isinstance(text, bytes) else check_text(text, "text").encode())

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        """The lowest token of each text."""
        model = self._core.loaded.model
        tokens = range(model.size - 1, -1, -1)
        return {piece: token for token in tokens if (piece := model.piece(token, special=True))}

    @property
    def bos_token(self) -> int | None:
        """The token that starts a text, if the model has one."""
        with self._core.gate:
            return _token(llama_cpp.llama_vocab_bos(self._core.loaded.model.vocab))

    @property
    def eos_token(self) -> int | None:
        """The token that ends a text, if the model has one. There may be more; see `end_tokens`."""
        with self._core.gate:
            return _token(llama_cpp.llama_vocab_eos(self._core.loaded.model.vocab))

    @property
    def end_tokens(self) -> list[int]:
        """All tokens that end a text."""
        with self._core.gate:
            return list(self._core.loaded.model.end_tokens)

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; they are numbered from 0."""
        return self._core.loaded.model.size


def _first(model: LlamaModel) -> int:
    token = _token(llama_cpp.llama_vocab_bos(model.vocab))
    if token is None:
        raise InvalidRequest("The model has no token that starts a text; leave add_bos out.", param="add_bos")
    return token


def _token(token: int) -> int | None:
    return int(token) if token >= 0 else None
