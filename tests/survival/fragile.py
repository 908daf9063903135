"""An engine for a worker that breaks in the ways that its prompts say, and says a word at a time where it does not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec

from infs.engines.base import EngineSpec, ModelInfo, ModelSetup, RunContext
from infs.types import (
    CompletionChoice,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Event,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    Trail,
    Usage,
)

WORDS = 20


class FragileOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`folder`: where it remembers what it did, for those that come after it. `load`: how often loading kills it."""

    folder: str
    load: int = 0


class Fragile:
    """A token is the number of a word. Prompts: see the tests."""

    def __init__(self) -> None:
        self._folder = Path()
        self._hanging = 0.0

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        self._folder = Path(setup.config.options["folder"])
        if self._count("load") <= setup.config.options.get("load", 0):
            os._exit(7)
        return ModelInfo(tasks=["text-completion", "embedding"], max_sequences=setup.config.max_sequences)

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        if isinstance(request, EmbeddingRequest):
            if self._count("embedding") == 1:
                os._exit(9)
            yield EmbeddingResult(vectors=[b"\0\0\0\0"], dimensions=1, usage=Usage())
            return
        assert isinstance(request, TextCompletionRequest)
        assert isinstance(request.prompt, str)
        known = context.trail[0] if context.trail else []
        for number in range(WORDS):
            if number >= len(known):
                await self._trouble(request.prompt, number, context)
            yield Trail(tokens=[number])
            yield Delta(text=f"{number} ")
        text = "".join(f"{number} " for number in range(WORDS))
        usage = Usage(completion_tokens=WORDS)
        yield TextCompletionResult(choices=[CompletionChoice(index=0, text=text, finish_reason="stop")], usage=usage)

    async def _trouble(self, prompt: str, number: int, context: RunContext) -> None:
        await asyncio.sleep(0.1 if prompt == "slow" else 0.005)
        what, _, place = prompt.partition(" at ")
        if str(number) != place:
            return
        if what == "die":
            self._count("deaths")
            os._exit(9)
        if what == "die once" and self._count(prompt) == 1:
            os._exit(9)
        if what == "hang once" and self._count(prompt) == 1:
            self._hanging = time.monotonic()
            await asyncio.sleep(1000)
        if what == "block once" and self._count(prompt) == 1:
            time.sleep(1000)  # noqa: ASYNC251 - what a badly made engine does

    def stalled(self) -> float:
        """How long it hangs."""
        return time.monotonic() - self._hanging if self._hanging else 0.0

    def status(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        """Nothing to free."""

    def _count(self, what: str) -> int:
        with (self._folder / what.replace(" ", "_")).open("a+") as file:
            file.write(".")
            file.flush()
            return file.tell()


FRAGILE = EngineSpec(
    name="fragile",
    factory="tests.survival.fragile:Fragile",
    options="tests.survival.fragile:FragileOptions",
    needs_files=False,
)
