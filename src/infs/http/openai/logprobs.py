"""Log-probabilities in the forms of chat and of text completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from infs.http.openai.answers import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob
from infs.types import TokenLogprob
from infs.types import TopLogprob as Candidate

# JSON has no infinity: what can never come is as unlikely as this.
LOWEST = -9999.0


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """`tokens` in the form of chat completions."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=_readable(token.token, token.bytes),
                logprob=_number(token.logprob or 0.0),
                bytes=list(token.bytes),
                top_logprobs=[_top(candidate) for candidate in token.top],
            )
            for token in tokens
        ]
    )


def _top(candidate: Candidate) -> TopLogprob:
    return TopLogprob(
        token=_readable(candidate.token, candidate.bytes),
        logprob=_number(candidate.logprob),
        bytes=list(candidate.bytes),
    )


class CompletionTokens:
    """The tokens of one text, in the form of text completions; knows where in the text the next one begins."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add(self, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """The next `tokens`."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.bytes))
        return CompletionLogprobs(
            tokens=[_label(token) for token in tokens],
            token_logprobs=[None if token.logprob is None else _number(token.logprob) for token in tokens],
            top_logprobs=[_candidates(token) for token in tokens],
            text_offset=offsets,
        )


def _candidates(token: TokenLogprob) -> dict[str, float] | None:
    """The likeliest candidates, and the chosen token among them; nothing where nothing came before."""
    if token.logprob is None:
        return None
    found = {_label(candidate): _number(candidate.logprob) for candidate in token.top}
    return {**found, _label(token): _number(token.logprob)}


def _label(token: TokenLogprob | Candidate) -> str:
    return _readable(token.token, token.bytes, "bytes:")


def _readable(text: str, data: bytes, prefix: str = "") -> str:
    """`text`, or escapes of `data` where that is a part of a character, which has no text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)
    return text


def _number(logprob: float) -> float:
    return max(logprob, LOWEST)
