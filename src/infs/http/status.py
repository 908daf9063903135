"""How the server is: for people at ``/``, for load balancers at ``/health``, in numbers at ``/metrics``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from infs.http import metrics
from infs.http.endpoint import Operation, json_response
from infs.http.service import Service
from infs.status import ServerStatus


async def status(service: Service, request: Request) -> Response:
    """Answer ``GET /``."""
    return json_response(await service.server.status())


async def health(service: Service, request: Request) -> Response:
    """Answer ``GET /health``: 200 while requests are taken, 503 once the server is closing."""
    if service.closing:
        return json_response({"status": "closing"}, 503)
    return json_response({"status": "ok"})


OPERATIONS = (
    Operation(
        method="GET", path="/", summary="State of the server and its models", handler=status, answer=ServerStatus
    ),
    Operation(method="GET", path="/health", summary="Whether requests are taken", handler=health),
    *metrics.OPERATIONS,
)
