"""Engines as users write them, good ones and bad ones. Workers import this module too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from msgspec import Struct, convert
from msgspec.structs import replace

from infs.engines.base import EngineSpec, ModelInfo, ModelSetup, RunContext
from infs.errors import ContextLengthExceeded, LoadFailed
from infs.testing import FakeEngine
from infs.types import (
    ChatCompletionRequest,
    CompletionChoice,
    Delta,
    Event,
    Message,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    Usage,
)


class EchoOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `Echo`.

    Attributes:
        times: how often it says it.
    """

    times: int = 1


class Echo:
    """Says the prompt again. What it is asked to do wrong, it does."""

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        self.options = convert(setup.config.options, EchoOptions)
        self.runner = setup.runner
        return ModelInfo(tasks=["text-completion"], details={"runner": setup.runner is not None})

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        assert isinstance(request, TextCompletionRequest)
        text = " ".join([str(request.prompt)] * self.options.times)
        yield Delta(text=text, finish_reason="stop")
        if request.prompt == "raise":
            raise ValueError("surprise")
        if request.prompt == "refuse":
            raise ContextLengthExceeded("too long", param="prompt")
        if request.prompt == "no event":
            yield {"type": "delta"}  # type: ignore[misc]
        if request.prompt == "no result":
            return
        choices = [CompletionChoice(index=0, text=text, finish_reason="stop")]
        yield TextCompletionResult(choices=choices, usage=Usage(prompt_tokens=1))
        if request.prompt == "go on":
            yield Delta(text="more")

    def status(self) -> dict[str, Any]:
        return {"times": self.options.times}

    async def close(self) -> None:
        """There is nothing to free."""


class NotAGenerator(Echo):
    """Its `run` cannot be iterated over."""

    async def run(self, request: Request[Any], context: RunContext) -> None:  # type: ignore[override]
        return None


class NoStatus(Echo):
    """Fails where nobody asked for anything to be computed."""

    def status(self) -> dict[str, Any]:
        raise ValueError("no status")


class LoadsNothing(Echo):
    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        raise LoadFailed("There is nothing to load.")


class LoadRaises(Echo):
    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        raise KeyError("key")


class CannotBeMade(Echo):
    def __init__(self) -> None:
        raise RuntimeError("not today")


class NoEngine:
    """Has some of what an engine has."""

    status = "fine"

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        return ModelInfo(tasks=[])


SPEC = EngineSpec(name="echo", factory="tests.custom:Echo", options="tests.custom:EchoOptions", needs_files=False)


class Asking(FakeEngine):
    """Has the model `ask` of its options answer, or says what that says, as `how` says.

    Args:
        how: ``stream`` it, ``drop`` it (stream, and rely on Python to close it), ``run`` it, or have a ``task`` run it
            that was made when the model was loaded.
    """

    def __init__(self, ask: str, how: str = "stream") -> None:
        super().__init__()
        self.ask, self.how = ask, how

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        assert setup.runner is not None
        self.runner = setup.runner
        self.jobs: asyncio.Queue[tuple[Request[Any], asyncio.Future[Event]]] = asyncio.Queue()
        if self.how == "load":
            await self.runner.run(ChatCompletionRequest(model=self.ask, messages=[Message(role="user", content="x")]))
        self.task = asyncio.create_task(self.work())
        return await super().load(setup, progress)

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        self.requests.append(request)
        asked = replace(request, model=self.ask, timeout=None)
        if self.how == "run":
            yield await self.runner.run(asked)
        elif self.how == "task":
            done: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
            self.jobs.put_nowait((asked, done))
            yield await done
        elif self.how == "drop":
            async for event in self.runner.stream(asked):
                yield event
        else:
            async with aclosing(self.runner.stream(asked)) as events:
                async for event in events:
                    yield event

    async def work(self) -> None:
        """Run what is asked of the task."""
        while True:
            request, done = await self.jobs.get()
            done.set_result(await self.runner.run(request))

    async def close(self) -> None:
        self.task.cancel()
        await super().close()
