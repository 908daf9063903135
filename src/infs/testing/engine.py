"""An engine without a model, and a server with the smallest real one."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from infs.batching.text import StopMatcher
from infs.chat.questions import answer_of, check_questions, ways_to_ask
from infs.demo import MODEL_ID, demo_model
from infs.engines.base import ModelInfo, ModelSetup, RunContext
from infs.errors import InfsError, InvalidRequest, Unsupported
from infs.server import InferenceServer
from infs.types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResult,
    CompletionChoice,
    DecisionRequest,
    DecisionResult,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Event,
    FinishReason,
    GenerationRequest,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    Usage,
)

DIMENSIONS = 8


def demo_server(**model: Any) -> InferenceServer:
    """A server with the demo model, as an async context manager; `model` replaces settings of its configuration."""
    return InferenceServer({MODEL_ID: msgspec.structs.replace(demo_model(), **model)})


class FakeEngine:
    """Says back what it was told, word by word; vectors are hashes of the texts, and so are the odds of decisions.

    It takes `max_tokens` (words), `n` and `stop`, and refuses other generation settings as any engine must that
    cannot honour them.

    Args:
        words: what it says, instead of what it was told.
        gate: when given, each word waits for a permit of it: tests decide how far a stream gets.
        error: raised instead of the word number `error_at` (from 0).
        load_error: raised instead of loading.
    """

    def __init__(
        self,
        *,
        words: list[str] | None = None,
        gate: asyncio.Semaphore | None = None,
        error: InfsError | None = None,
        error_at: int = 0,
        load_error: Exception | None = None,
        max_sequences: int | None = None,
    ) -> None:
        self._words = words
        self._gate = gate
        self._error, self._error_at = error, error_at
        self._load_error = load_error
        self._max_sequences = max_sequences
        self.requests: list[Request[Any]] = []
        self.running = 0
        self.closed = False

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        """Nothing to load; says so in one step."""
        progress(Progress(stage="load", done=100, total=100, unit="percent"))
        if self._load_error is not None:
            raise self._load_error
        return ModelInfo(
            tasks=["text-completion", "chat-completion", "embedding", "decision"],
            max_sequences=self._max_sequences or setup.config.max_sequences,
            context_size=setup.config.context_size,
        )

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        """The words of each choice, then the result."""
        self.requests.append(request)
        self.running += 1
        try:
            if isinstance(request, EmbeddingRequest):
                yield self._embed(request)
                return
            if isinstance(request, DecisionRequest):
                yield _decide(request)
                return
            async for event in self._generate(request):
                yield event
        finally:
            self.running -= 1

    def status(self) -> dict[str, Any]:
        """How much it did."""
        return {"requests": len(self.requests), "running": self.running}

    async def close(self) -> None:
        """Remember it."""
        self.closed = True

    async def _generate(self, request: Request[Any]) -> AsyncGenerator[Event]:
        options = self._options(request)
        told = _told(request)
        choices: list[tuple[str, FinishReason]] = []
        count = 0
        for index in range(options.get("n", 1)):
            text, reason = "", "stop"
            matcher = StopMatcher(options.get("stop", []))
            words = self._words if self._words is not None else told
            for place, word in enumerate(words):
                if place == options.get("max_tokens"):
                    reason = "length"
                    break
                await self._wait(place)
                count += 1
                new = matcher.feed(word if place == 0 else f" {word}")
                text += new
                if new:
                    yield Delta(index=index, text=new)
                if matcher.found:
                    break
            rest = "" if matcher.found else matcher.flush()
            text += rest
            finish: FinishReason = "length" if reason == "length" else "stop"
            yield Delta(index=index, text=rest, finish_reason=finish)
            choices.append((text, finish))
        yield _result(request, choices, Usage(prompt_tokens=len(told), completion_tokens=count))

    async def _wait(self, place: int) -> None:
        if self._error is not None and place == self._error_at:
            raise self._error
        if self._gate is not None:
            await self._gate.acquire()
        else:
            await asyncio.sleep(0)

    def _options(self, request: Request[Any]) -> dict[str, Any]:
        assert isinstance(request, GenerationRequest)
        options = request.set_options()
        for name in options:
            if name not in ("max_tokens", "n", "stop", "temperature"):
                raise Unsupported(f"The fake engine has no {name}.", param=name)
        return options

    def _embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        size = request.dimensions or DIMENSIONS
        if size > DIMENSIONS:
            raise InvalidRequest(f"dimensions is {size}, and the vectors have {DIMENSIONS}.", param="dimensions")
        vectors = [_vector(item, size) for item in request.input]
        return EmbeddingResult(
            vectors=vectors, dimensions=size, usage=Usage(prompt_tokens=sum(len(item) for item in request.input))
        )


def _told(request: Request[Any]) -> list[str]:
    if isinstance(request, ChatCompletionRequest):
        return request.messages[-1].text.split()
    assert isinstance(request, TextCompletionRequest)
    prompt = request.prompt
    return prompt.split() if isinstance(prompt, str) else [str(token) for token in prompt]


def _result(request: Request[Any], choices: list[tuple[str, FinishReason]], usage: Usage) -> Event:
    if isinstance(request, ChatCompletionRequest):
        answers = [
            ChatChoice(index=index, message=AssistantMessage(content=text), finish_reason=reason)
            for index, (text, reason) in enumerate(choices)
        ]
        return ChatCompletionResult(choices=answers, usage=usage)
    texts = [
        CompletionChoice(index=index, text=text, finish_reason=reason) for index, (text, reason) in enumerate(choices)
    ]
    return TextCompletionResult(choices=texts, usage=usage)


def _decide(request: DecisionRequest) -> DecisionResult:
    check_questions(request)
    answers = []
    for question in request.questions:
        asked, *_ = ways_to_ask(question)
        odds = [1 + hashlib.sha256((asked.text + option).encode()).digest()[0] for option in asked.answers]
        answers.append(answer_of(question, [odd / sum(odds) for odd in odds], 1.0))
    return DecisionResult(answers=answers, usage=Usage(prompt_tokens=len(request.questions)))


def _vector(item: str | list[int], size: int) -> bytes:
    digest = hashlib.sha256(repr(item).encode()).digest()
    values = [digest[place] - 128.0 for place in range(size)]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return struct.pack(f"<{size}f", *(value / length for value in values))
