"""Times requests on a server: prompts of a length, and answers side by side."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from itertools import cycle, islice
from typing import Any

import msgspec

from infs.errors import Unsupported
from infs.server import InferenceServer
from infs.types import (
    EmbeddingRequest,
    EmbeddingResult,
    Progress,
    Request,
    Result,
    TextCompletionRequest,
    TextCompletionResult,
)

WORDS = ("stone", "river", "cloud", "house", "green", "light", "paper", "water", "garden", "music", "winter", "bread")
SHORT = 16  # tokens of the prompts in front of answers
BEFORE_LOADING = ("queue", "download", "memory")

Tell = Callable[[Progress], None]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """The best of several rounds, and their median."""

    best: float
    median: float


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """One request: when it began, had its first token and ended, on one clock in seconds; and its tokens."""

    began: float
    first: float
    end: float
    prompt_tokens: int
    tokens: int


class PromptFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts of about that many tokens; `first_token` in seconds, ``None`` for embeddings."""

    tokens: int
    tokens_per_second: Figure
    first_token: Figure | None


class StreamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Answers side by side: tokens per second of all and of each, and seconds to the first token of one of them.

    The time is that from asking to the last token: deltas may come in bunches, so the first one says little about when
    its token was there. The prompts are short.
    """

    streams: int
    tokens_per_second: Figure
    each: Figure
    first_token: Figure


def figure(values: Sequence[float], *, low: bool = False) -> Figure:
    """The best of `values`, which is the highest one unless `low` is good."""
    return Figure(best=min(values) if low else max(values), median=statistics.median(values))


class Meter:
    """Measures `model` on `server`, which should have nothing else to do."""

    def __init__(self, server: InferenceServer, model: str, seed: int = 0) -> None:
        self._server = server
        self._model = model
        self._random = random.Random(seed)
        self._tokens_per_word = 1.0
        self._fixed_tokens = 0.0  # of what every prompt begins with
        self._embeds = False

    async def load(self, tell: Tell) -> float:
        """Load the model with its first, tiny request; seconds from files that are here to its first token."""
        begin = time.perf_counter()
        request = self._request(SHORT, 1)
        try:
            async with aclosing(self._server.stream(request)) as events:
                async for event in events:
                    if not isinstance(event, Progress):
                        break
                    tell(event)
                    if event.stage in BEFORE_LOADING:
                        begin = time.perf_counter()
        except Unsupported:
            self._embeds = True  # what that cannot do either says so itself
        return time.perf_counter() - begin

    @property
    def generates(self) -> bool:
        """Whether the model, which is loaded, continues texts; else it makes embeddings."""
        return not self._embeds

    async def calibrate(self) -> None:
        """Find out how many words are how many tokens. The first requests are slower, so they are none that count."""
        few, many = len(WORDS), 8 * len(WORDS)
        short = (await self._time(self._request(few, 1))).prompt_tokens
        long = (await self._time(self._request(many, 1))).prompt_tokens
        self._tokens_per_word = max(0.1, (long - short) / (many - few))
        self._fixed_tokens = short - few * self._tokens_per_word

    async def prompts(self, tokens: int, rounds: int) -> PromptFigures:
        """Prompts of `tokens` tokens, one after the other."""
        timed = [await self._time(self._request(tokens, 1)) for _ in range(rounds)]
        firsts = [one.first - one.began for one in timed]
        return PromptFigures(
            tokens=round(statistics.median(one.prompt_tokens for one in timed)),
            tokens_per_second=figure([one.prompt_tokens / seconds for one, seconds in zip(timed, firsts, strict=True)]),
            first_token=figure(firsts, low=True) if self.generates else None,
        )

    async def streams(self, count: int, tokens: int, rounds: int) -> StreamFigures:
        """Answers of `tokens` tokens, `count` of them side by side."""
        all_of, each, firsts = [], [], []
        for _ in range(rounds):
            timed = await asyncio.gather(*(self._time(self._request(SHORT, tokens)) for _ in range(count)))
            span = max(one.end for one in timed) - min(one.began for one in timed)
            all_of.append(sum(one.tokens for one in timed) / span)
            each.append(statistics.median(one.tokens / (one.end - one.began) for one in timed))
            firsts.append(statistics.median(one.first - one.began for one in timed))
        return StreamFigures(
            streams=count,
            tokens_per_second=figure(all_of),
            each=figure(each),
            first_token=figure(firsts, low=True),
        )

    def _request(self, prompt: int, tokens: int) -> Request[Any]:
        """A request with a prompt of about `prompt` tokens, which begins like no other."""
        count = max(1, round((prompt - self._fixed_tokens) / self._tokens_per_word))
        words = islice(cycle(WORDS), count)
        text = " ".join([f"{self._random.getrandbits(40):013d}", *words])
        if self._embeds:
            return EmbeddingRequest(model=self._model, input=[text])
        return TextCompletionRequest(
            model=self._model,
            prompt=text,
            max_tokens=tokens,
            ignore_eos=True,
            temperature=1.0,  # what repeats itself would be guessed
            seed=self._random.getrandbits(31),
        )

    async def _time(self, request: Request[Any]) -> Timed:
        begin = time.perf_counter()
        first: float | None = None
        async with aclosing(self._server.stream(request)) as events:
            async for event in events:
                if first is None and not isinstance(event, Progress):
                    first = time.perf_counter()
                if isinstance(event, Result):
                    end = time.perf_counter()
                    return _timed(event, begin, first or end, end)
        raise AssertionError("a stream ends in a result or an error")


def _timed(result: Result, begin: float, first: float, end: float) -> Timed:
    assert isinstance(result, TextCompletionResult | EmbeddingResult)
    return Timed(
        began=begin,
        first=first,
        end=end,
        prompt_tokens=result.usage.prompt_tokens,
        tokens=result.usage.completion_tokens,
    )
