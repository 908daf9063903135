"""Watches one request: all that is told about it is derived from the events that pass by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from infs.errors import InfsError, RequestCancelled
from infs.telemetry.ended import CANCELLED, DECODE, LOADING, PREFILL, QUEUE, TOOLS, Ended, Stage
from infs.types import Delta, Event, Progress, Request, Result, ToolUse, Usage

BATCH = 64  # times between tokens that are handed on together

Gaps = Callable[[list[float]], None]


class Observation:
    """One request on its way.

    Args:
        on_gaps: gets the times between the deltas of a choice, in seconds, some at a time.
        on_end: told once, however the request ends.
        context: handed on to `on_end`.
        clock: seconds, rising.
    """

    def __init__(
        self,
        request: Request[Any],
        *,
        on_gaps: Gaps,
        on_end: Callable[[Ended], None],
        context: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._request = request
        self._on_gaps = on_gaps
        self._on_end: Callable[[Ended], None] | None = on_end
        self._context = context
        self._clock = clock
        self._begin_ns = time.time_ns()
        self._begin = self._entered = clock()
        self._stage = QUEUE
        self._stages: list[Stage] = []
        self._placed = False
        self._first: float | None = None
        self._lasts: dict[int, float] = {}
        self._gaps: list[float] = []
        self._pieces = 0
        self._counted = 0
        self._calls = 0

    def placed(self) -> None:
        """The request has a place in an instance now, which begins with its prompt."""
        self._placed = True
        self._enter(PREFILL)

    async def watch(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The same events. How they end is how the request ends."""
        lasts, gaps, clock = self._lasts, self._gaps, self._clock
        try:
            async with aclosing(events):
                async for event in events:
                    if type(event) is Delta:
                        now = clock()
                        last = lasts.get(event.index)
                        if last is None or self._stage != DECODE:
                            self._speaks(now, new=last is None)
                        if last is not None:
                            gaps.append(now - last)
                            if len(gaps) >= BATCH:
                                self._hand_on()
                        lasts[event.index] = now
                    else:
                        self._take(event)
                    yield event
        except BaseException as error:
            self._ends(error=_code(error))
            raise
        finally:
            self._ends(error=CANCELLED)  # unless it has: closed, or without a result

    def _speaks(self, now: float, *, new: bool) -> None:
        """A choice says something for the first time (`new`), or again after an interruption."""
        self._pieces += new
        if self._first is None:
            self._first = now
        if self._stage != DECODE:
            self._enter(DECODE, now)

    def _take(self, event: Event) -> None:
        if isinstance(event, Result):
            reasons = tuple(choice.finish_reason for choice in getattr(event, "choices", ()))
            self._ends(usage=getattr(event, "usage", None) or Usage(), reasons=reasons)
        elif isinstance(event, Progress):
            if event.stage in (QUEUE, *LOADING):
                self._enter(event.stage)
        elif isinstance(event, ToolUse):
            self._calls += 1 if event.result is None else -1
            self._lasts.clear()  # while a tool runs nobody waits for a token
            self._enter(TOOLS if self._calls else QUEUE)

    def _enter(self, stage: str, now: float | None = None) -> None:
        if stage == self._stage:
            return
        now = self._clock() if now is None else now
        self._stages.append(Stage(self._stage, self._entered, now))
        self._stage, self._entered = stage, now

    def _hand_on(self) -> None:
        self._pieces += len(self._gaps)
        self._counted += len(self._gaps)
        self._on_gaps(self._gaps)
        self._gaps.clear()

    def _ends(self, *, usage: Usage | None = None, reasons: tuple[str, ...] = (), error: str | None = None) -> None:
        told, self._on_end = self._on_end, None
        if told is None:
            return
        self._hand_on()
        end = self._clock()
        ended = Ended(
            request=self._request,
            begin_ns=self._begin_ns,
            begin=self._begin,
            end=end,
            first_token=self._first,
            stages=(*self._stages, Stage(self._stage, self._entered, end)),
            placed=self._placed,
            usage=usage,
            finish_reasons=reasons,
            error=error,
            pieces=self._pieces,
            counted=self._counted,
            context=self._context,
        )
        told(ended)


def _code(error: BaseException) -> str:
    """What ended a request, as a word of a small set: the codes of errors."""
    if isinstance(error, GeneratorExit | asyncio.CancelledError | RequestCancelled):
        return CANCELLED
    return error.code if isinstance(error, InfsError) else InfsError.code
