"""Traces of requests: a span for each, and below it one for each of its stages. What was said is not in them.

Spans are made when a request has ended, with the times that were taken down, so a token costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from infs.telemetry.ended import CANCELLED, LOAD, LOADING, Ended, Stage
from infs.trace_context import trace_context
from infs.version import VERSION

SETTINGS = {  # ours by the conventions' names
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
    "gen_ai.request.choice.count": "n",
}


class Tracing:
    """Tells `provider` of requests.

    Args:
        close: sends what has not been sent; may take its time.
    """

    def __init__(self, provider: TracerProvider, close: Callable[[], None] = lambda: None) -> None:
        self.close = close
        self._tracer = provider.get_tracer("infs", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def context(self) -> Context:
        """What a request that begins now is a part of: what an edge says, else what goes on in this program."""
        return self._propagator.extract(trace_context.get(), context=get_current())

    def tell(self, ended: Ended) -> None:
        """Spans of a request that has ended."""
        span = self._tracer.start_span(
            f"{ended.operation} {ended.request.model}",
            context=ended.context,
            kind=SpanKind.SERVER,
            attributes=_attributes(ended),
            start_time=ended.begin_ns,
        )
        if span.is_recording():
            self._stages(span, ended)
            if ended.error not in (None, CANCELLED):
                span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=ended.nanoseconds(ended.end))

    def _stages(self, parent: Span, ended: Ended) -> None:
        context = set_span_in_context(parent)
        for name, stages in _joined(ended.stages):
            span = self._tracer.start_span(name, context=context, start_time=ended.nanoseconds(stages[0].begin))
            for stage in stages if name == LOAD else ():
                span.add_event(stage.name, timestamp=ended.nanoseconds(stage.begin))
            span.end(end_time=ended.nanoseconds(stages[-1].end))


def _joined(stages: tuple[Stage, ...]) -> Iterator[tuple[str, list[Stage]]]:
    """Stages by the names of their spans: all that belongs to loading is one span, with an event for each."""
    name, joined = "", list[Stage]()
    for stage in stages:
        span = LOAD if stage.name in LOADING else stage.name
        if joined and span != name:
            yield name, joined
            joined = []
        name = span
        joined.append(stage)
    yield name, joined


def _attributes(ended: Ended) -> dict[str, AttributeValue]:
    said: dict[str, Any] = {
        "gen_ai.operation.name": ended.operation,
        "gen_ai.provider.name": "infs",
        "gen_ai.request.model": ended.request.model,
        "gen_ai.response.model": ended.request.model if ended.usage is not None else None,
        "gen_ai.response.finish_reasons": list(ended.finish_reasons) or None,
        "error.type": ended.error,
    }
    settings = ended.settings
    said |= {name: settings.get(setting) for name, setting in SETTINGS.items()}
    if ended.usage is not None:
        said["gen_ai.usage.input_tokens"] = ended.usage.prompt_tokens
        said["gen_ai.usage.output_tokens"] = ended.usage.completion_tokens
        said["gen_ai.usage.cache_read.input_tokens"] = ended.usage.cached_tokens
    return {name: value for name, value in said.items() if value is not None}
