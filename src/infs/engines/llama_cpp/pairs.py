"""How a reranker reads a query and a document: as one text of two parts."""

from __future__ import annotations

import re

import llama_cpp

from infs.chat.guard import Guard
from infs.engines.llama_cpp.model import LlamaModel
from infs.types import ChatCompletionRequest, Message

PLACES = re.compile(r"\{(query|document)\}")


class Pairs:
    """Makes the tokens of pairs: by the template for that in the model's file, else as encoders want them."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._template = model.template("rerank")
        self._guard = Guard(model.control_texts())
        vocab = model.vocab
        eos, sep = int(llama_cpp.llama_vocab_eos(vocab)), int(llama_cpp.llama_vocab_sep(vocab))
        end = _wanted(eos if eos >= 0 else sep, llama_cpp.llama_vocab_get_add_eos(vocab))
        between = _wanted(sep, llama_cpp.llama_vocab_get_add_sep(vocab))
        self._start = _wanted(int(llama_cpp.llama_vocab_bos(vocab)), llama_cpp.llama_vocab_get_add_bos(vocab))
        self._middle = end + between
        self._end = end or between  # older files of encoders only know what stands between

    def tokens(self, query: str, document: str) -> list[int]:
        """The tokens of one pair; texts of control tokens in it are just letters."""
        if self._template is None:
            return [*self._start, *self._plain(query), *self._middle, *self._plain(document), *self._end]
        texts = dict(zip(("query", "document"), self._masked(query, document), strict=True))
        rendered = PLACES.sub(lambda place: texts[place[1]], self._template)
        return [
            token
            for piece, special in self._guard.pieces(rendered)
            for token in self._model.tokenize(piece, add_special=False, parse_special=special)
        ]

    def _plain(self, text: str) -> list[int]:
        return self._model.tokenize(text, add_special=False, parse_special=False)

    def _masked(self, *texts: str) -> list[str]:
        messages = [Message(role="user", content=text) for text in texts]
        masked = self._guard.mask(ChatCompletionRequest(model="", messages=messages)).messages
        return [message.text for message in masked]


def _wanted(token: int, wanted: bool) -> list[int]:
    return [token] if wanted and token >= 0 else []
