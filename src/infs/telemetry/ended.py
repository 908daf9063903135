"""What is known of a request once it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infs.types import GenerationRequest, Request, Usage

# OpenTelemetry's names of operations, by our names of tasks; those that it does not know keep theirs.
OPERATIONS = {"chat-completion": "chat", "text-completion": "text_completion", "embedding": "embeddings"}

QUEUE, MEMORY, DOWNLOAD, LOAD, PREFILL, DECODE, TOOLS = (
    "queue",
    "memory",
    "download",
    "load",
    "prefill",
    "decode",
    "tools",
)
LOADING = (MEMORY, DOWNLOAD, LOAD)

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a request was in from `begin` to `end`, in seconds of a clock that only rises."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A request that has ended.

    Attributes:
        begin_ns: Unix time of its begin, in nanoseconds.
        begin, end, first_token: seconds of the same clock; `first_token` is ``None`` where none came.
        stages: without gaps from `begin` to `end`; the same one may come several times.
        placed: it had a place in an instance.
        usage: ``None`` unless there was a result.
        finish_reasons: of each choice.
        error: the code of what went wrong, `CANCELLED` where its caller gave it up, ``None`` for a result.
        pieces: deltas that were told.
        counted: those of them that were counted as tokens while it ran.
        context: where its trace goes on, as the tracer had it at the begin.
    """

    request: Request[Any]
    begin_ns: int
    begin: float
    end: float
    first_token: float | None
    stages: tuple[Stage, ...]
    placed: bool
    usage: Usage | None
    finish_reasons: tuple[str, ...]
    error: str | None
    pieces: int
    counted: int
    context: Any = None

    @property
    def operation(self) -> str:
        """What was asked for, by OpenTelemetry's name."""
        return OPERATIONS.get(self.request.task, self.request.task)

    @property
    def generates(self) -> bool:
        """It was to write text."""
        return isinstance(self.request, GenerationRequest)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin

    @property
    def settings(self) -> Mapping[str, Any]:
        """The generation settings that it gives."""
        return self.request.set_options() if isinstance(self.request, GenerationRequest) else {}

    def seconds_in(self, *names: str) -> float:
        """How long it was in these stages."""
        return sum(stage.end - stage.begin for stage in self.stages if stage.name in names)

    def was_in(self, name: str) -> bool:
        """It was in this stage at all."""
        return any(stage.name == name for stage in self.stages)

    def nanoseconds(self, moment: float) -> int:
        """`moment`, in seconds of the clock, as Unix time in nanoseconds."""
        return self.begin_ns + round((moment - self.begin) * 1e9)
