"""Where traces go, by the variables that OpenTelemetry defines for that.

Nothing global is set: a provider that the program has set is used, else one is made for this server alone.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from infs.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

EXPORTERS = "opentelemetry_traces_exporter"
PACKAGES = {
    "otlp_proto_http": "opentelemetry-exporter-otlp-proto-http",
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "zipkin_json": "opentelemetry-exporter-zipkin-json",
    "zipkin_proto": "opentelemetry-exporter-zipkin-proto-http",
}
PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def check_installed() -> None:
    """Raise `MissingExtra` unless OpenTelemetry is there."""
    try:
        found = importlib.util.find_spec("opentelemetry.sdk.trace")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingExtra('Traces need OpenTelemetry, which is not installed: pip install "infs[telemetry]"')


def provider_of_environment(environ: Mapping[str, str] = os.environ) -> tuple[TracerProvider, Callable[[], None]]:
    """Where traces go, and what is to be called at the end.

    Raises:
        MissingExtra: the exporter that the variables name is not installed.
        ConfigError: they name a protocol that there is not.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current, lambda: None  # whoever made it ends it
    provider = TracerProvider(shutdown_on_exit=False)
    for exporter in exporters(environ):
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, provider.shutdown


def exporters(environ: Mapping[str, str]) -> list[SpanExporter]:
    """What ``OTEL_TRACES_EXPORTER`` names: OTLP by default."""
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    names = [name.strip() for name in named.split(",")]
    return [_exporter(name, environ) for name in names if name and name != "none"]


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    offered = {point.name: point for point in entry_points(group=EXPORTERS)}
    if name == "otlp":
        name = _otlp(offered, environ)
    if name not in offered:
        package = PACKAGES.get(name, "the package that has it")
        there = ", ".join(sorted(offered)) or "none"
        raise MissingExtra(
            f"The exporter of traces {name!r} is not installed; there are: {there}. Install {package}, or name another "
            "one in OTEL_TRACES_EXPORTER."
        )
    kind: Any = offered[name].load()
    exporter: SpanExporter = kind()
    return exporter


def _otlp(offered: Mapping[str, EntryPoint], environ: Mapping[str, str]) -> str:
    """OTLP over the protocol that is wanted; without a wish over HTTP, unless only the other one is installed."""
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol is None:
        return next((name for name in PROTOCOLS.values() if name in offered), "otlp_proto_http")
    if protocol.strip() not in PROTOCOLS:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; there are: {', '.join(PROTOCOLS)}.",
            param="OTEL_EXPORTER_OTLP_PROTOCOL",
        )
    return PROTOCOLS[protocol.strip()]
