"""Traces: spans as the conventions have them, under whoever asked, sent to where OpenTelemetry's variables say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from infs.config import Config, TelemetryConfig, parse_config
from infs.errors import ConfigError, GenerationFailed, MissingExtra
from infs.http import create_app
from infs.server import InferenceServer
from infs.telemetry import Telemetry
from infs.telemetry.ended import Stage
from infs.telemetry.exporting import exporters, provider_of_environment
from infs.telemetry.tracing import _joined
from infs.testing import FakeEngine
from infs.types import ChatCompletionRequest, Message
from tests.toolbox.scripted import Scripted, add, calling, saying

SECRET = "the butler did it"
REQUEST = ChatCompletionRequest(model="m", messages=[Message(role="user", content=SECRET)], max_tokens=9)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(memory: InMemorySpanExporter) -> TracerProvider:
    """A provider that keeps spans in memory."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return provider


def server_of(engine: FakeEngine, provider: TracerProvider | None) -> InferenceServer:
    return InferenceServer({"m": {"engine": "fake"}}, {"fake": lambda: engine}, tracer_provider=provider)


def tree(spans: tuple[ReadableSpan, ...]) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one span of a request, and those below it in their order."""
    [top] = [span for span in spans if span.kind is SpanKind.SERVER]
    below = sorted((span for span in spans if span is not top), key=lambda span: span.start_time or 0)
    assert all(span.parent and top.context and span.parent.span_id == top.context.span_id for span in below)
    return top, below


async def test_a_request_is_a_span_with_its_stages_below(
    memory: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async with server_of(FakeEngine(), provider) as server:
        await server.run(REQUEST)
    top, below = tree(memory.get_finished_spans())
    assert [span.name for span in below] == ["queue", "load", "prefill", "decode"]
    times = [(span.start_time, span.end_time) for span in below]
    assert times[0][0] == top.start_time
    assert times[-1][1] == top.end_time
    assert [end for _, end in times[:-1]] == [start for start, _ in times[1:]], "without gaps"
    assert [event.name for event in below[1].events] == ["load"]
    assert (top.name, top.status.status_code) == ("chat m", StatusCode.UNSET)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "infs",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 4,
    }
    attributes = dict(top.attributes or {})
    assert {name: attributes[name] for name in expected} == expected
    assert SECRET not in "".join(span.to_json() for span in memory.get_finished_spans())


async def test_tools_have_a_span_and_what_fails_says_so(memory: InMemorySpanExporter, provider: TracerProvider) -> None:
    engine = Scripted(calling(("add", {"a": 2, "b": 3}), text="So"), saying("Five"))
    async with server_of(engine, provider) as server:
        await server.run(ChatCompletionRequest(model="m", messages=REQUEST.messages, tools=[add]))
    names = [span.name for span in tree(memory.get_finished_spans())[1]]
    assert names == ["queue", "load", "prefill", "decode", "tools", "queue", "prefill", "decode"]
    memory.clear()
    async with server_of(FakeEngine(error=GenerationFailed("broken")), provider) as server:
        with pytest.raises(GenerationFailed):
            await server.run(REQUEST)
    top, _ = tree(memory.get_finished_spans())
    assert top.status.status_code is StatusCode.ERROR
    assert dict(top.attributes or {})["error.type"] == "generation_failed"


def test_all_that_loading_is_made_of_is_one_span() -> None:
    names = ["queue", "memory", "download", "load", "prefill", "queue", "load"]
    stages = tuple(Stage(name, number, number + 1) for number, name in enumerate(names))
    joined = [(name, [stage.name for stage in stages]) for name, stages in _joined(stages)]
    assert joined[1] == ("load", ["memory", "download", "load"])
    assert [name for name, _ in joined] == ["queue", "load", "prefill", "queue", "load"]


async def test_a_request_belongs_to_the_trace_of_who_asks(
    memory: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async with server_of(FakeEngine(), provider) as server:
        with provider.get_tracer("caller").start_as_current_span("caller") as caller:
            await server.run(REQUEST)
        top, _ = tree(tuple(span for span in memory.get_finished_spans() if span.name != "caller"))
        assert top.parent is not None
        assert top.parent.span_id == caller.get_span_context().span_id
        memory.clear()

        transport = httpx.ASGITransport(create_app(server))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for stream in (True, False):
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream}
                for headers in ({"traceparent": f"00-{TRACE}-{PARENT}-01"}, {"traceparent": "nonsense"}, {}):
                    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
                    assert answer.status_code == 200
    tops = [span for span in memory.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [bool(top.parent) for top in tops] == [True, False, False] * 2
    for top in tops[::3]:
        assert top.parent is not None
        assert (f"{top.parent.trace_id:x}", f"{top.parent.span_id:016x}") == (TRACE, PARENT)


def test_traces_are_off_unless_they_are_wanted() -> None:
    assert parse_config({}).telemetry.traces is False
    assert Config().telemetry == TelemetryConfig()
    script = (
        "import sys; from infs.server import InferenceServer; InferenceServer({});"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry"])
def test_without_opentelemetry_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def find_spec(name: str) -> None:
        if missing == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {missing!r}")

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(MissingExtra, match=r"infs\[telemetry\]"):
        Telemetry(TelemetryConfig(traces=True))


class Fake:
    """An exporter that an installed package offers."""


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The exporters that are installed, by their names."""
    names = {"grpc_only": "x"}

    def points(group: str) -> list[EntryPoint]:
        assert group == "opentelemetry_traces_exporter"
        return [EntryPoint(name, f"{__name__}:Fake", group) for name in names]

    monkeypatch.setattr("infs.telemetry.exporting.entry_points", points)
    return names


@pytest.mark.parametrize(
    ("installed", "environ", "count"),
    [
        (["otlp_proto_grpc"], {}, 1),
        (["otlp_proto_http"], {"OTEL_TRACES_EXPORTER": " otlp "}, 1),
        (["zipkin", "otlp_proto_http"], {"OTEL_TRACES_EXPORTER": "zipkin,otlp"}, 2),
        ([], {"OTEL_TRACES_EXPORTER": "none"}, 0),
        (["otlp_proto_grpc"], {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, 1),
    ],
)
def test_exporters_are_those_of_the_environment(
    offered: dict[str, str], installed: list[str], environ: Mapping[str, str], count: int
) -> None:
    offered.clear()
    offered.update(dict.fromkeys(installed, ""))
    found: list[Any] = list(exporters(environ))
    assert [type(exporter) for exporter in found] == [Fake] * count


@pytest.mark.parametrize(
    ("environ", "error", "said"),
    [
        ({}, MissingExtra, "opentelemetry-exporter-otlp-proto-http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, MissingExtra, "opentelemetry-exporter-otlp-proto-grpc"),
        ({"OTEL_TRACES_EXPORTER": "jager"}, MissingExtra, "'jager' is not installed; there are: zipkin"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "smoke"}, ConfigError, "'smoke'; there are: http/protobuf, grpc"),
    ],
)
def test_what_is_not_installed_is_named(
    offered: dict[str, str], environ: Mapping[str, str], error: type[Exception], said: str
) -> None:
    offered.clear()
    offered["zipkin"] = ""
    with pytest.raises(error, match=said):
        exporters(environ)


async def test_what_was_made_here_is_ended_here_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, close = provider_of_environment({"OTEL_TRACES_EXPORTER": "none"})
    assert provider is not trace.get_tracer_provider(), "nothing global is set"
    close()

    ended: list[str] = []
    own = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(own, "shutdown", lambda: ended.append("own"))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: own)
    found, close = provider_of_environment({})
    assert found is own
    close()
    async with server_of(FakeEngine(), own) as server:
        await server.run(REQUEST)
    assert ended == [], "whoever made it ends it"
