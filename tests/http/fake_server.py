"""A scripted inference server: it does what a test says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from infs.config import ModelConfig
from infs.errors import ModelNotFound, ServerClosed
from infs.runner import Conveniences
from infs.status import Exposition
from infs.types import (
    UNSET,
    AssistantMessage,
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResult,
    CompletionChoice,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Event,
    GenerationRequest,
    Progress,
    R,
    Request,
    Result,
    TextCompletionRequest,
    TextCompletionResult,
    TokenLogprob,
    TopLogprob,
    Usage,
    validate,
)

CHAT, TEXT, EMBED = "chat", "org/text:1", "embed"
WORDS = ["Hello", ", ", "world"]
CREATED = 1_700_000_000


class Hold:
    """A step that waits: until it is released, or for ever."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self) -> None:
        """Wait for the test."""
        self._loop = asyncio.get_running_loop()
        await self._event.wait()

    def release(self) -> None:
        """Go on, from any thread; somebody must be waiting."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._event.set)


Step = Event | Exception | Hold
Script = Callable[[Request[Any]], Iterable[Step]]


class FakeServer(Conveniences):
    """The facade of `infs.server.InferenceServer`, over a script."""

    def __init__(self) -> None:
        self._models: dict[str, ModelConfig] = {name: ModelConfig() for name in (CHAT, TEXT, EMBED)}
        self.started = False
        self.closing = False
        self.starts = 0
        self.starting = asyncio.Event()
        self.start_error: Exception | None = None
        self.start_hold: Hold | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was; answer as usual."""
        self.script: Script = usual
        self.requests: list[Any] = []
        self.running = 0
        self.ended = 0
        self.unloads: list[tuple[str, bool]] = []
        self.unload_hold: Hold | None = None
        self.reloads = 0
        self.reload_hold: Hold | None = None
        self.reload_error: Exception | None = None

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """Three of them."""
        return self._models

    @property
    def created(self) -> int:
        """Some time ago."""
        return CREATED

    async def start(self) -> None:
        """Start, as the test says."""
        self.starts += 1
        self.starting.set()
        if self.start_hold is not None:
            await self.start_hold.wait()
        if self.start_error is not None:
            raise self.start_error
        self.started = True

    async def close(self, drain: float = 0.0) -> None:
        """Close."""
        self.closing = True
        self.started = False

    async def status(self) -> dict[str, Any]:
        """Some data."""
        return {"version": "0", "models": {name: {"state": "idle"} for name in self._models}, "running": self.running}

    async def metrics(self, accept: str = "") -> Exposition:
        """What was accepted."""
        return Exposition(body=f"# {accept}\n".encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def unload(self, model: str, *, now: bool = False) -> int:
        """As if there were two instances of it."""
        self._check_model(model)
        self.unloads.append((model, now))
        if self.unload_hold is not None:
            await self.unload_hold.wait()
        return 2

    async def reload(self) -> dict[str, Any]:
        """As if a model had been added, and the port been changed."""
        self.reloads += 1
        if self.reload_hold is not None:
            await self.reload_hold.wait()
        if self.reload_error is not None:
            raise self.reload_error
        return {"added": ["new"], "changed": [], "removed": [], "unchanged": [CHAT], "restart": ["server.port"]}

    def _check_model(self, name: str) -> None:
        if name not in self._models:
            raise ModelNotFound(f"There is no model {name!r}.")

    async def run(self, request: Request[R]) -> R:
        """The last event of the script."""
        async for event in self.stream(request):
            if isinstance(event, Result):
                return event  # type: ignore[return-value]
        raise AssertionError("a script ends in a result or an error")

    async def stream(self, request: Request[Any]) -> AsyncGenerator[Event]:
        """The steps of the script."""
        if self.closing:
            raise ServerClosed("The server is closed.")
        validate(request)
        self._check_model(request.model)
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Hold):
                    await step.wait()
                else:
                    yield step
                    await asyncio.sleep(0)
        finally:
            self.running -= 1
            self.ended += 1


def usual(request: Request[Any]) -> Iterable[Step]:
    """Every choice says "Hello, world"; vectors count up from the number of their input."""
    if isinstance(request, EmbeddingRequest):
        yield embedded(request)
        return
    assert isinstance(request, GenerationRequest)
    yield Progress(stage="prompt", done=3, total=3, unit="tokens")
    choices = range(1 if request.n is UNSET else request.n)
    logprobs = None if request.logprobs is UNSET or request.logprobs is None else request.logprobs
    for word in WORDS:
        for index in choices:
            yield Delta(index=index, text=word, logprobs=[] if logprobs is None else [scored(word, logprobs)])
    for index in choices:
        yield Delta(index=index, finish_reason="stop")
    tokens = None if logprobs is None else [scored(word, logprobs) for word in WORDS]
    yield completed(request, "".join(WORDS), len(choices), tokens)


def scored(word: str, top: int) -> TokenLogprob:
    """A token with `top` candidates."""
    candidates = [
        TopLogprob(token=f"{word}{rank}", bytes=f"{word}{rank}".encode(), logprob=-rank) for rank in range(top)
    ]
    return TokenLogprob(token=word, bytes=word.encode(), logprob=-0.5, top=candidates)


def completed(
    request: GenerationRequest[Any], text: str, n: int = 1, logprobs: list[TokenLogprob] | None = None
) -> Result:
    """A result of `n` equal choices."""
    usage = Usage(prompt_tokens=7, completion_tokens=3 * n, cached_tokens=2)
    if isinstance(request, TextCompletionRequest):
        texts = [
            CompletionChoice(index=index, text=text, finish_reason="stop", logprobs=logprobs) for index in range(n)
        ]
        return TextCompletionResult(choices=texts, usage=usage)
    assert isinstance(request, ChatCompletionRequest)
    said = AssistantMessage(content=text)
    choices = [ChatChoice(index=index, message=said, finish_reason="stop", logprobs=logprobs) for index in range(n)]
    return ChatCompletionResult(choices=choices, usage=usage)


def embedded(request: EmbeddingRequest) -> EmbeddingResult:
    """Vectors of four numbers, or as many as were asked for."""
    size = request.dimensions or 4
    vectors = [
        struct.pack(f"<{size}f", *(number + place / 10 for place in range(size)))
        for number in range(len(request.input))
    ]
    return EmbeddingResult(vectors=vectors, dimensions=size, usage=Usage(prompt_tokens=5))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for `condition`; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)
