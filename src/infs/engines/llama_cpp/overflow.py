"""Conversations that outgrow the context: where they may be cut, and which messages are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from infs.batching.prefix import common_prefix
from infs.errors import InvalidRequest
from infs.types import ChatCompletionRequest, Message

Tokenize = Callable[[ChatCompletionRequest], list[int]]
"""The tokens of a conversation; one that ends in the middle opens no answer."""


def staying(request: ChatCompletionRequest, keep: int, tokenize: Tokenize) -> int:
    """How many messages at the beginning always stay: those of the system, and those within the first `keep` tokens."""
    messages = request.messages
    stay = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    if keep:
        for end in range(stay + 1, len(messages)):
            beginning = _beginning(request, end, tokenize)
            if beginning is None or len(beginning) > keep + 1:  # white space behind a message may be one more
                break
            stay = end
    return stay


def _beginning(request: ChatCompletionRequest, end: int, tokenize: Tokenize) -> list[int] | None:
    """The tokens of the first `end` messages; none where the template does not take them alone."""
    try:
        return tokenize(msgspec.structs.replace(request, messages=request.messages[:end])) if end else []
    except InvalidRequest:  # a template may want a question first
        return None


def cuts(messages: Sequence[Message], stay: int) -> list[int]:
    """Where a conversation may go on behind its first `stay` messages: there, or with a later question of the user."""
    return [stay, *(index for index, message in enumerate(messages) if index > stay and message.role == "user")]


def shortened(
    request: ChatCompletionRequest, stay: int, fits: Callable[[ChatCompletionRequest], bool]
) -> ChatCompletionRequest:
    """`request` without as many messages behind the first `stay` as it takes to fit, but with the last question."""
    choices = cuts(request.messages, stay)
    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(_without(request, stay, choices[middle])):
            high = middle
        else:
            low = middle + 1
    return _without(request, stay, choices[low])


def _without(request: ChatCompletionRequest, stay: int, cut: int) -> ChatCompletionRequest:
    return msgspec.structs.replace(request, messages=[*request.messages[:stay], *request.messages[cut:]])


def places(
    request: ChatCompletionRequest, stay: int, tokens: list[int], tokenize: Tokenize
) -> tuple[int, tuple[int, ...]]:
    """How many of `tokens` the first `stay` messages are, and at which of them a question of the user begins.

    A conversation's beginning, as a prompt of its own, is the beginning of the whole one's prompt; where a template
    makes something else of it, that is no place to cut.
    """
    found: list[int] = []
    for cut in cuts(request.messages, stay):
        beginning = _beginning(request, cut, tokenize)
        if not beginning:
            continue
        shared = common_prefix(beginning, tokens)
        if shared >= len(beginning) - 1:
            found.append(shared)
    keep = found[0] if stay and found else 0
    return keep, tuple(place for place in found if place > keep)
