"""Which texts a grammar or a rule accepts, by llguidance itself with one token for each byte."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from infs.chat.structured import OutputRule
from infs.chat.triggers import TriggerWatch

END = 256


class _Bytes:
    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END,)

    def __init__(self, controls: Sequence[str] = ()) -> None:
        self.tokens = (
            *(bytes([value]) for value in range(256)),
            b"<end>",
            *(b"\xff" + text.encode() for text in controls),
        )

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def byte_tokenizer(controls: Sequence[str] = ()) -> LLTokenizer:
    """A tokenizer whose tokens are the bytes, an end, and control tokens with these texts."""
    wrapper = TokenizerWrapper(_Bytes(controls))
    return LLTokenizer(wrapper, n_vocab=257 + len(controls), eos_token=END, slices=[])


def control_ids(texts: Sequence[str]) -> dict[str, int]:
    """The ids that `byte_tokenizer` gives control tokens."""
    return {text: END + 1 + index for index, text in enumerate(texts)}


def accepts(grammar: str | None, text: str, controls: Sequence[str] = ()) -> bool:
    """Whether `text`, in which `controls` are control tokens, is a complete output under `grammar`."""
    assert grammar is not None
    return _Matching(grammar, controls).takes(text) is True


def follows(rule: OutputRule | None, text: str, controls: Sequence[str] = (), *, size: int = 1) -> bool:
    """Whether `text` is a complete output under `rule`, when plain text comes in pieces of `size` characters."""
    assert rule is not None
    if not rule.triggers:
        return accepts(rule.grammar, text, controls)
    watch, matching = TriggerWatch(rule), None
    for piece in _pieces(text, controls, size):
        if matching is not None:
            if not matching.consume(piece):
                return False
        elif (fed := watch.feed(piece.encode())) is not None:
            matching = _Matching(rule.grammar, controls)
            if not matching.consume(fed.decode(), plain=True):
                return False
    return matching is None or matching.accepting


def triggered(rule: OutputRule | None, text: str) -> bool:
    """Whether a trigger of `rule` comes in `text`."""
    assert rule is not None
    watch = TriggerWatch(rule)
    return any(watch.feed(bytes([byte])) is not None for byte in text.encode())


class _Matching:
    def __init__(self, grammar: str, controls: Sequence[str]) -> None:
        self._ids: Mapping[str, int] = control_ids(controls)
        self._matcher = LLMatcher(byte_tokenizer(controls), grammar, log_level=0)
        assert not self._matcher.is_error(), self._matcher.get_error()

    @property
    def accepting(self) -> bool:
        return bool(self._matcher.is_accepting())

    def takes(self, text: str) -> bool:
        return all(self.consume(piece) for piece in _pieces(text, [*self._ids], len(text) + 1)) and self.accepting

    def consume(self, text: str, *, plain: bool = False) -> bool:
        tokens = [self._ids[text]] if text in self._ids and not plain else list(text.encode())
        return bool(self._matcher.try_consume_tokens(tokens) == len(tokens))


def _pieces(text: str, controls: Sequence[str], size: int) -> Iterator[str]:
    parts = re.split(f"({'|'.join(map(re.escape, controls))})", text) if controls else [text]
    for part in parts:
        if part in controls:
            yield part
        else:
            yield from (part[start : start + size] for start in range(0, len(part), size))
