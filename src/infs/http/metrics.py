"""``/metrics``: what Prometheus reads."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from infs.http.endpoint import Operation
from infs.http.service import Service


async def metrics(service: Service, request: Request) -> Response:
    """Answer ``GET /metrics``."""
    shown = await service.server.metrics(request.headers.get("accept", ""))
    return Response(shown.body, headers={"content-type": shown.content_type})


OPERATIONS = (Operation(method="GET", path="/metrics", summary="Metrics", handler=metrics, media="text/plain"),)
