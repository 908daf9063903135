"""Which instance has probably cached the beginning of a request, without looking at tokens.

A request has a chain of keys, one for each of its beginnings; each key is a hash of all before it. An instance
remembers the keys of what it ran, so the longest shared beginning is the last key of the chain that it knows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec

from infs.types import ChatCompletionRequest, DecisionRequest, Request, TextCompletionRequest

STEP = 512  # characters (or tokens) of a text between two keys
MAX_KEYS = 512  # of a request
REMEMBERED = 8192  # of an instance


def keys(request: Request[Any]) -> list[bytes]:
    """The beginnings of `request`, shortest first; empty for a task without a context to reuse."""
    if isinstance(request, ChatCompletionRequest):
        head = msgspec.msgpack.encode((request.tools, request.template_options))
        return _chain([head, *(msgspec.msgpack.encode(message) for message in request.messages)])[1:]
    if isinstance(request, TextCompletionRequest):
        return _chain(_pieces(request.prompt))
    if isinstance(request, DecisionRequest):  # about a conversation, which may have been a chat here
        head = msgspec.msgpack.encode(((), request.template_options))
        about = [text for text in (request.instructions, request.input) if text]
        return _chain([head, *map(msgspec.msgpack.encode, [*request.messages, *about])])[1:]
    return []


def _pieces(prompt: str | list[int]) -> Iterable[bytes]:
    for start in range(0, min(len(prompt), STEP * MAX_KEYS), STEP):
        yield msgspec.msgpack.encode(prompt[start : start + STEP])


def _chain(pieces: Iterable[bytes]) -> list[bytes]:
    state = hashlib.blake2b(digest_size=16)
    chain = []
    for piece in pieces:
        state.update(len(piece).to_bytes(8, "big") + piece)
        chain.append(state.digest())
    return chain[:MAX_KEYS]


class Memory:
    """The keys of what an instance ran lately."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def add(self, chain: list[bytes]) -> None:
        """Remember a request that runs now."""
        for key in chain:
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)

    def depth(self, chain: list[bytes]) -> int:
        """How many of the beginnings in `chain` are known."""
        return next((n for n in range(len(chain), 0, -1) if chain[n - 1] in self._keys), 0)
