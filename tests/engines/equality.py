"""What a request is answered while nobody else is there, and the comparison of other answers with that."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec

from infs.config import DeviceConfig, ModelConfig
from infs.demo import demo_model
from infs.server import InferenceServer
from infs.types import UNSET, ChatChoice, CompletionChoice, TokenLogprob

TIE = 0.0005  # nats: what the rounding of other kernels, for other batches, can do to a difference of scores
QUANTISED_TIE = 0.15  # the same where states are quantised on the way, as with the demo model (up to 0.1 was seen)
FLASH_TIE = 0.05  # the same with flash attention, which on the CPU adds up in 16 bits (up to 0.03 was seen)
QUANTISED_FLASH_TIE = 0.3  # both at once, as the demo model is by default (up to 0.23 was seen)

CONTROL = re.compile(rb"<\|\w+\|>")  # tokens that are not part of a text, in the vocabularies used here

EXACT = {"flash_attention": False, "cache_type_k": "f32", "cache_type_v": "f32"}
PLAIN = {"disk_cache": 0, "host_cache": 0, "speculation": {"mode": "off"}}
"""Options with which nothing is done but computing; with `EXACT`, as exactly as llama.cpp can."""

STATES = {"cache_type_k": "f16", "cache_type_v": "f16"}
"""In place of what `EXACT` says, for models without keys and values: their states are exact in any case."""


def server_of(path: Path | None = None, *, cache: Path | None = None, **model: Any) -> InferenceServer:
    """A server whose model ``m`` is `path`, or the demo model: plain but for what `model` and its options say."""
    base = demo_model() if path is None else tiny_model(path)
    model["options"] = {**PLAIN, **EXACT, **model.get("options", {})}
    return InferenceServer({"m": msgspec.structs.replace(base, **model)}, cache_path=cache)


def tiny_model(path: Path) -> ModelConfig:
    """The configuration of a tiny model: greedy, without an end, and on one thread."""
    return ModelConfig(
        file=str(path),
        completion_defaults={"temperature": 0.0, "ignore_eos": True},
        device=DeviceConfig(gpu=False, cpu_threads=1),
    )


def plain_server(path: Path | None = None, **model: Any) -> AbstractAsyncContextManager[InferenceServer]:
    """A server that does one request after the other."""
    return server_of(path, max_sequences=1, **model)


async def plain_answers(server: InferenceServer, requests: Iterable[Any], *, tie: float = TIE) -> list[Any]:
    """The first choices of `requests`, each alone in an empty cache, with the log-probabilities of 50 candidates.

    Each is asked for twice: as it is, which must say the same as with log-probabilities.
    """
    choices = []
    for request in requests:
        told = [
            await server.run(msgspec.structs.replace(request, n=1, cache_salt=secrets.token_hex(), **extra))
            for extra in ({}, {"logprobs": 50})
        ]
        assert all(result.usage.cached_tokens == 0 for result in told)
        exact, scored = (result.choices[0] for result in told)
        assert_same_or_tie(scored, exact, tie=tie)
        choices.append(scored)
    return choices


def assert_same_or_tie(
    plain: ChatChoice | CompletionChoice, other: ChatChoice | CompletionChoice, *, tie: float = TIE
) -> None:
    """`other` has the tokens of `plain` (which has log-probabilities), or differs first where two were equally likely.

    What follows the first difference is not compared: it is another text. `tie` is the largest difference, in nats, of
    log-probabilities that are as good as equal. If `other` has log-probabilities, those of equal tokens differ no more.
    """
    tokens = plain.logprobs
    assert tokens is not None
    _assert_same_scores(tokens, other.logprobs or [], tie)
    said, exact = bytes_of(other), other.logprobs is not None
    if said == b"".join(_shown(token.bytes, exact) for token in tokens):
        return
    done = b""
    for token in tokens:
        if not said.startswith(done + _shown(token.bytes, exact)):
            break
        done += _shown(token.bytes, exact)
    else:
        raise AssertionError(f"{text_of(other)!r} goes on behind {text_of(plain)!r}")
    rest = said[len(done) :]
    rivals = [top.logprob for top in token.top if _goes_on(top.bytes, rest, other)]
    gap = (token.logprob or 0.0) - max(rivals, default=float("-inf"))
    assert gap < tie, f"after {done!r}: {rest[:40]!r} instead of {token.token!r}, {gap:.4f} behind"


def assert_all_same_or_tie(plain: Sequence[Any], results: Sequence[Any], *, tie: float = TIE) -> None:
    """All choices of each result are like the plain ones."""
    for one, result in zip(plain, results, strict=True):
        for choice in result.choices:
            assert_same_or_tie(one, choice, tie=tie)


def text_of(choice: ChatChoice | CompletionChoice) -> str:
    """What was said."""
    return choice.text if isinstance(choice, CompletionChoice) else choice.message.content or ""


def bytes_of(choice: ChatChoice | CompletionChoice) -> bytes:
    """What was said; with log-probabilities, control tokens included."""
    if choice.logprobs is not None:
        return b"".join(token.bytes for token in choice.logprobs)
    return text_of(choice).encode()


def _assert_same_scores(plain: list[TokenLogprob], other: list[TokenLogprob], tie: float) -> None:
    """Up to the first difference of tokens, each has the same log-probability."""
    for place, (one, two) in enumerate(zip(plain, other, strict=False)):
        if one.bytes != two.bytes:
            break
        gap = abs((one.logprob or 0.0) - (two.logprob or 0.0))
        assert gap < tie, f"token {place}, {one.token!r}: {two.logprob} instead of {one.logprob}"


def _shown(token: bytes, exact: bool) -> bytes:
    """What `token` adds to what `bytes_of` gives."""
    return b"" if not exact and CONTROL.fullmatch(token) else token


def _goes_on(candidate: bytes, rest: bytes, other: ChatChoice | CompletionChoice) -> bool:
    """Whether a text with `rest` still to come may have gone on with the token `candidate`."""
    if not rest:
        return other.finish_reason == "stop" and CONTROL.fullmatch(candidate) is not None
    return bool(candidate) and rest.startswith(candidate)


def salted(request: Any, salt: str | None) -> Any:
    """`request`, which shares cached tokens only with those of the same salt."""
    return msgspec.structs.replace(request, cache_salt=UNSET if salt is None else salt)
