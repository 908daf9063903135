"""Decisions, which are read from scores, for callers of every kind."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import aclosing

from infs.engines.llama_cpp.decisions import Decisions
from infs.errors import InvalidRequest, RequestTimeout
from infs.llama.background import Background
from infs.llama.loading import Generating
from infs.types import DecisionRequest, DecisionResult


def decide(generating: Generating, background: Background, request: DecisionRequest) -> Future[DecisionResult]:
    """Begin with `request`.

    Raises:
        InvalidRequest: the calling thread is just running the loop.
        ServerClosed: the model was closed.
    """
    generator = generating.machine.generator
    if generator.loop.mine:
        raise InvalidRequest("The thread that runs the loop cannot wait for what the loop has not done yet.")
    return background.submit(lambda: _answer(Decisions(generator, generating.prompts, request), request.timeout))


async def _answer(decisions: Decisions, timeout: float | None) -> DecisionResult:
    try:
        async with asyncio.timeout(timeout):
            return await _last(decisions)
    except TimeoutError as error:
        raise RequestTimeout(f"The request took longer than its timeout of {timeout:g} seconds.") from error


async def _last(decisions: Decisions) -> DecisionResult:
    async with aclosing(decisions.events()) as events:
        async for event in events:
            if isinstance(event, DecisionResult):
                return event
    raise AssertionError("the last event is the result")
