"""What the engines of these examples, and their programs, have in common."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from msgspec import Struct, convert
from msgspec.structs import replace

from infs import (
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    Event,
    ModelConfig,
    Progress,
    Runner,
    ToolUse,
    Usage,
    demo_model,
)
from infs.engines.base import ModelInfo, ModelSetup
from infs.errors import InfsError, LoadFailed

Options = TypeVar("Options", bound=Struct)


class CombiningEngine(Generic[Options]):
    """An engine for chats that computes nothing itself: it has other models of the server do it.

    A subclass says what its options are, and has a `run`.
    """

    options_type: ClassVar[type[Struct]]
    options: Options
    runner: Runner

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        """Keep what is needed; the other models are loaded when they are asked."""
        if setup.runner is None:
            raise LoadFailed(
                f"The engine of {setup.model!r} uses other models, which it cannot do in a worker process."
            )
        self.runner = setup.runner
        self.options = convert(setup.config.options, self.options_type)  # type: ignore[assignment]
        return ModelInfo(tasks=["chat-completion"], max_sequences=setup.config.max_sequences)

    async def answer(self, request: ChatCompletionRequest, spent: Usage) -> AsyncGenerator[Event]:
        """The events of `request`, which another model answers; what was `spent` before counts too."""
        # The time of the request goes on here. A second clock for the second request would start at zero.
        async with aclosing(self.runner.stream(replace(request, timeout=None))) as events:
            async for event in events:
                if isinstance(event, ChatCompletionResult):
                    yield replace(event, usage=total([spent, event.usage]))
                else:
                    yield event

    def status(self) -> dict[str, Any]:
        """Nothing that the status of the other models does not say."""
        return {}

    async def close(self) -> None:
        """There is nothing to free."""


def total(usages: Iterable[Usage]) -> Usage:
    """What several requests took together."""
    several = list(usages)
    return Usage(**{name: sum(getattr(usage, name) for usage in several) for name in Usage.__struct_fields__})


# --- for the programs


def add_model(parser: argparse.ArgumentParser, name: str, what: str, *, projector: bool = False) -> None:
    """Give a program the option ``--name``, which names a model; one that reads media has a projector as well."""
    parser.add_argument(f"--{name}", metavar="MODEL", required=projector, default="demo", help=f"{what}: a file or URL")
    if projector:
        parser.add_argument("--projector", metavar="FILE", help="its mmproj file, where it has one")


def model_of(text: str, projector: str | None = None) -> ModelConfig:
    """The configuration of the model that somebody named: a file, a URL, or ``demo``."""
    if text == "demo":
        return demo_model()
    options = {"projector": str(Path(projector).resolve())} if projector else {}
    if re.match("[a-z]{2,}:", text):
        return ModelConfig(url=text, options=options)
    return ModelConfig(file=str(Path(text).resolve()), options=options)


def tell(events: Iterable[Event]) -> None:
    """Write an answer as it comes, and to standard error what happens meanwhile."""
    for event in events:
        if isinstance(event, Delta):
            print(event.text, end="", flush=True)
        elif isinstance(event, ToolUse) and event.result is not None:
            print(f"[{event.call.name} {event.call.arguments}: {event.result}]", file=sys.stderr)
        elif isinstance(event, Progress) and event.detail:
            print(f"[{event.detail}: {event.done} of {event.total}]", file=sys.stderr)
    print()


def start(program: Callable[[], None]) -> None:
    """Run `program`; what goes wrong is said in one line."""
    try:
        program()
    except InfsError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
