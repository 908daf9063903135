"""What chat and text completions share: several requests run as one, answered whole or streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar, cast

from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response

from infs.errors import GenerationFailed
from infs.http.endpoint import json_response
from infs.http.openai import answers
from infs.http.openai.bodies import GenerationBody
from infs.http.openai.names import Names, renamed
from infs.http.service import Server, Service
from infs.http.sse import DONE, EventStream, event
from infs.http.tasks import interleave, together
from infs.types import ChatCompletionResult, Delta, Event, FinishReason, GenerationRequest, Result, TextCompletionResult

Completed = TypeVar("Completed", bound=ChatCompletionResult | TextCompletionResult)
Completed_contra = TypeVar("Completed_contra", bound=ChatCompletionResult | TextCompletionResult, contravariant=True)


class Form(Protocol[Completed_contra]):
    """How one endpoint writes what was generated. One for each answer: it may remember what it wrote."""

    prefix: str

    @property
    def answer(self) -> Callable[..., Struct]:
        """The struct of the whole answer."""
        ...

    @property
    def chunk(self) -> Callable[..., Struct]:
        """The struct of one event of a stream."""
        ...

    def choices(self, first: int, result: Completed_contra) -> Sequence[Struct]:
        """The choices of `result`, their indexes counted from `first`."""
        ...

    def opening(self, index: int, delta: Delta) -> Struct | None:
        """What comes before `delta`, the first of a choice, if anything."""
        ...

    def piece(self, index: int, delta: Delta) -> Struct | None:
        """What is new in a choice; nothing if `delta` brings only the end."""
        ...

    def closing(self, index: int, reason: FinishReason) -> Struct:
        """The end of a choice."""
        ...

    def deltas(self, result: Completed_contra) -> list[Delta]:
        """A result in one piece for each choice, for engines that do not stream."""
        ...


class Job(Struct, Generic[Completed], frozen=True, kw_only=True):
    """What to run for one HTTP request: `requests`, each of which makes `n` choices."""

    requests: Sequence[GenerationRequest[Completed]]
    n: int
    names: Names


async def complete(
    service: Service, http: Request, body: GenerationBody, job: Job[Completed], form: Form[Completed]
) -> Response:
    """The answer to `body`: run `job`, written in `form`, whole or streamed as was asked."""
    head = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return EventStream(service, _encoded(service.server, job, form, head, with_usage))

    async def work() -> list[Completed]:
        with renamed(job.names):
            return await together([service.server.run(request) for request in job.requests])

    results = await service.run(http.receive, work)
    choices = [choice for number, result in enumerate(results) for choice in form.choices(number * job.n, result)]
    usage = answers.usage_of([result.usage for result in results])
    return json_response(form.answer(**head, choices=choices, usage=usage))


async def _encoded(
    server: Server, job: Job[Completed], form: Form[Completed], head: dict[str, Any], with_usage: bool
) -> AsyncGenerator[bytes, None]:
    usage: answers.Usage | None = None
    async with aclosing(_pieces(server, job, form)) as pieces:
        async for piece in pieces:
            if isinstance(piece, answers.Usage):
                usage = piece
            else:
                yield event(form.chunk(**head, choices=[piece], usage=None if with_usage else UNSET))
    if with_usage:
        yield event(form.chunk(**head, choices=[], usage=usage))
    yield DONE


async def _pieces(
    server: Server, job: Job[Completed], form: Form[Completed]
) -> AsyncGenerator[Struct | answers.Usage, None]:
    """Pieces of choices as they come, and last the usage of all."""
    results: list[Completed] = []
    opened: set[int] = set()
    streams = [server.stream(request) for request in job.requests]
    with renamed(job.names):
        async with aclosing(interleave(streams)) as events:
            async for number, happened in events:
                for delta in _deltas(happened, form, number * job.n, opened, results):
                    for piece in _written(form, number * job.n + delta.index, delta, opened):
                        yield piece
    if len(results) < len(job.requests):
        raise GenerationFailed("The model's engine ended without a result.")
    yield answers.usage_of([result.usage for result in results])


def _deltas(
    happened: Event, form: Form[Completed], first: int, opened: set[int], results: list[Completed]
) -> list[Delta]:
    if isinstance(happened, Delta):
        return [happened]
    if isinstance(happened, Result):
        result = cast("Completed", happened)
        results.append(result)
        return [delta for delta in form.deltas(result) if first + delta.index not in opened]
    return []  # progress has no place in this API


def _written(form: Form[Any], index: int, delta: Delta, opened: set[int]) -> list[Struct]:
    opening = form.opening(index, delta) if index not in opened else None
    opened.add(index)
    closing = form.closing(index, delta.finish_reason) if delta.finish_reason is not None else None
    return [piece for piece in (opening, form.piece(index, delta), closing) if piece is not None]
