"""`Telemetry`: what a server tells about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from infs.config import TelemetryConfig
from infs.status import Exposition, ServerStatus
from infs.telemetry.described import Described
from infs.telemetry.ended import Ended
from infs.telemetry.observation import Observation
from infs.telemetry.requests import RequestMetrics
from infs.telemetry.serving import READINGS, ServerCollector
from infs.types import Request

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from infs.telemetry.tracing import Tracing

DEFAULTS = TelemetryConfig()


class Telemetry:
    """Metrics and, where they are wanted, traces of one server. Everything happens on the server's event loop.

    Args:
        config: what is wanted.
        provider: where traces go, which are wanted then; by default what the variables of OpenTelemetry say.

    Raises:
        MissingExtra: traces are wanted, and OpenTelemetry or the exporter is not installed.
        ConfigError: the variables of OpenTelemetry ask for what there is not.
    """

    def __init__(self, config: TelemetryConfig = DEFAULTS, *, provider: TracerProvider | None = None) -> None:
        self.registry = CollectorRegistry()
        self._requests = RequestMetrics(self.registry)
        self._server = ServerCollector()
        self.registry.register(self._server)
        self._tracing = _tracing(provider) if config.traces or provider is not None else None

    @property
    def described(self) -> list[Described]:
        """All metrics, in words."""
        return [*self._requests.described, *(reading.described() for reading in READINGS)]

    def observe(self, request: Request[Any]) -> Observation:
        """An observation of `request`, which begins now. Its model must be one of the configuration: it is a label."""
        return Observation(
            request,
            on_gaps=lambda gaps: self._requests.between_tokens(request.model, gaps),
            on_end=self._ended,
            context=self._tracing.context() if self._tracing is not None else None,
        )

    def _ended(self, ended: Ended) -> None:
        self._requests.ended(ended)
        if self._tracing is not None:
            self._tracing.tell(ended)

    def expose(self, status: ServerStatus | Mapping[str, Any], accept: str = "") -> Exposition:
        """All metrics, in the text format that `accept`, the header of that name, prefers.

        Args:
            status: how the server is; as plain data it may lack anything.
        """
        self._server.update(status if isinstance(status, ServerStatus) else msgspec.convert(status, ServerStatus))
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        return Exposition(body=encode(self.registry), content_type=content_type)

    async def close(self) -> None:
        """Send what has not been sent."""
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)


def _tracing(provider: TracerProvider | None) -> Tracing:
    from infs.telemetry.exporting import check_installed, provider_of_environment

    check_installed()
    from infs.telemetry.tracing import Tracing

    if provider is not None:
        return Tracing(provider)
    return Tracing(*provider_of_environment())
