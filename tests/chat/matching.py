"""Which texts a grammar accepts, by llguidance itself with one token for each byte."""

from __future__ import annotations

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

END = 256


class _Bytes:
    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def byte_tokenizer() -> LLTokenizer:
    """A tokenizer whose tokens are the bytes."""
    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=END, slices=[])


def accepts(grammar: str | None, text: str) -> bool:
    """Whether `text` is a complete output under `grammar`."""
    assert grammar is not None
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return bool(matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting())
