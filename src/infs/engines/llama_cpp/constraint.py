"""What may come next in a sequence: masks over the vocabulary, computed beside the forward pass, and what must come."""

from __future__ import annotations

import ctypes
from concurrent.futures import Future, ThreadPoolExecutor

import llama_cpp
import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from infs.chat.structured import OutputRule
from infs.chat.triggers import TriggerWatch
from infs.engines.llama_cpp.model import LlamaModel
from infs.errors import GenerationFailed, InvalidRequest

MOST_FORCED = 256  # tokens that are appended at once


def grammar_tokenizer(model: LlamaModel, ends: frozenset[int]) -> llguidance.LLTokenizer:
    """The vocabulary as llguidance wants it. Takes up to a second; make one for each model, and set of `ends`.

    Only control tokens, and those that end the output, are special to a grammar. A token that the model's makers
    added for a text, such as ``<tool_call>``, is that text: so a grammar for tool calls lets the model use the token
    it was trained with.
    """
    control = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    special = {t for t in range(model.size) if llama_cpp.llama_vocab_get_attr(model.vocab, t) & control} | ends
    tokens = [(b"\xff" if token in special else b"") + model.piece(token, special=True) for token in range(model.size)]
    tokenize = ctypes.cast(llama_cpp.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    return llguidance.LLTokenizer.from_llamacpp(
        tokens=tokens, vocab_ptr=model.vocab, tokenize_fptr=tokenize, eos_token=sorted(ends) or None
    )


class Masks:
    """Computes masks on a thread of its own, while the model computes scores.

    Constraints are collected as their tokens are known; `start` is called right before the model computes.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="infs-masks")
        self._wanted: list[TokenConstraint] = []

    def want(self, constraint: TokenConstraint) -> None:
        """The next mask of `constraint` will be needed."""
        self._wanted.append(constraint)

    def start(self) -> None:
        """Begin with all that are wanted."""
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            ready = self._thread.submit(_compute_all, wanted)
            for constraint in wanted:
                constraint.ready = ready

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)


def _compute_all(constraints: list[TokenConstraint]) -> None:
    for constraint in constraints:
        constraint.compute()


class TokenConstraint:
    """What may come next in one sequence. Used by the loop's thread; `compute` by another one, in between.

    Args:
        rule: with triggers, it holds only from the first of them on.

    Attributes:
        active: it holds now.
        ready: what computes the next mask, if somebody does.

    Raises:
        InvalidRequest: the grammar names a special token that the model does not have.
    """

    def __init__(self, tokenizer: llguidance.LLTokenizer, rule: OutputRule, size: int, masks: Masks) -> None:
        self.ready: Future[None] | None = None
        self._matcher = llguidance.LLMatcher(tokenizer, rule.grammar)
        if self._matcher.is_error():
            raise InvalidRequest(f"The grammar cannot be used: {self._matcher.get_error()}", param="grammar")
        self._watch = TriggerWatch(rule) if rule.triggers else None
        self.active = self._watch is None
        self._tokenizer = tokenizer
        self._size = size
        self._masks = masks
        self._bits = np.zeros((1, (size + 31) // 32), np.int32)
        self._fresh = False

    def want_mask(self) -> None:
        """The scores of the next token are about to be computed."""
        if self.active and not self._fresh and self.ready is None:
            self._masks.want(self)

    def compute(self) -> None:
        """Find out what may come next."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        self._fresh = True

    def mask(self, scores: NDArray[np.float32]) -> None:
        """Set the scores of all tokens that may not come next to minus infinity, in place."""
        self._join()
        if not self._fresh:
            self.compute()
        self._check()
        forbidden = np.unpackbits(np.invert(self._bits).view(np.uint8), bitorder="little", count=self._size)
        np.copyto(scores, -np.inf, where=forbidden.view(np.bool_))

    def accept(self, token: int, piece: bytes) -> bool:
        """`token` came, whose text is `piece`; true when nothing can follow it."""
        if self._watch is not None and not self.active:
            return self._look(self._watch, piece)
        self._join()
        self._fresh = False
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """The tokens that must come next, if there is only one way to go on."""
        if not self.active:
            return []
        self._join()
        return list(self._matcher.compute_ff_tokens())[:MOST_FORCED]

    def _look(self, watch: TriggerWatch, piece: bytes) -> bool:
        """Before a trigger; with it the grammar begins, unless what stands behind is against it: then it is text."""
        found = watch.feed(piece)
        while found is not None:
            tokens = self._tokenizer.tokenize_bytes(found) if found else []
            taken = self._matcher.try_consume_tokens(tokens)
            if taken == len(tokens):
                self.active = True
                return bool(self._matcher.is_stopped())
            self._matcher.reset()
            found = watch.feed(b"")
        return False

    def _join(self) -> None:
        if self.ready is not None:
            self.ready.result()
            self.ready = None

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationFailed(f"The grammar could not be followed: {self._matcher.get_error()}")
