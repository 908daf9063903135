"""What its owner tells a running server: unload a model, read the configuration again.

The API keys guard these routes like all others. Without keys they must still not be in the hands of any web page that
a user of this machine happens to open, so what a browser sends for a page is refused unless that page's origin is
listed by name in `server.cors_origins`.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from infs.errors import ConfigError, RequestError
from infs.http.endpoint import Operation, json_response
from infs.http.errors import details
from infs.http.reading import check_names, parse_object, read_body, to_struct
from infs.http.service import Service

log = logging.getLogger("infs.http")


class OriginRefused(RequestError):
    """A web page asked for what only the owner of the server may."""

    code = "origin_not_allowed"
    status = 403


class WrongContentType(RequestError):
    """The body does not say that it is JSON."""

    code = "unsupported_media_type"
    status = 415


class ReloadRefused(RequestError):
    """The configuration is wrong; nothing has changed."""

    code = "reload_refused"


class UnloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to unload; its running requests are waited for, unless it is to be `now`."""

    model: str
    now: bool = False


class UnloadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many `instances` of the model have ended."""

    model: str
    instances: int


class ReloadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of models, by what the new configuration did to them.

    `restart` are keys that have changed and that hold only after a restart, such as ``server.port``.
    """

    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    unchanged: list[str] = []
    restart: list[str] = []


async def unload(service: Service, request: Request) -> Response:
    """Answer ``POST /admin/unload`` once the instances have ended."""
    fields = await _read(service, request)
    check_names(fields, UnloadBody)
    body = to_struct(fields, UnloadBody)
    details(request.scope)["model"] = body.model
    ended = await service.run(request.receive, lambda: service.server.unload(body.model, now=body.now))
    return json_response(UnloadAnswer(model=body.model, instances=ended))


async def reload(service: Service, request: Request) -> Response:
    """Answer ``POST /admin/reload`` once the new configuration holds, or is refused."""
    fields = await _read(service, request, optional=True)
    check_names(fields, NoFields)
    try:
        return json_response(await service.reload())
    except ConfigError as error:
        raise ReloadRefused(f"Nothing has changed: {error.message}", param=error.param) from error


class NoFields(msgspec.Struct):
    """A body that says nothing."""


async def _read(service: Service, request: Request, *, optional: bool = False) -> dict[str, Any]:
    """The fields of the body; where it is `optional` and empty, none."""
    _check_origin(service, request)
    body = await read_body(request, service.settings.max_body)
    if optional and not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WrongContentType("Send JSON, and say so: Content-Type: application/json.")
    return parse_object(body)


def _check_origin(service: Service, request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is None or (origin != "*" and origin in service.settings.cors_origins):
        return
    raise OriginRefused(
        f"Pages of {origin[:200]!r} may not do this. Name the origin in server.cors_origins if it is yours; "
        f"'*' does not count here."
    )


OPERATIONS = (
    Operation(
        method="POST",
        path="/admin/unload",
        summary="Unload a model",
        handler=unload,
        body=UnloadBody,
        answer=UnloadAnswer,
    ),
    Operation(
        method="POST",
        path="/admin/reload",
        summary="Read the configuration again",
        handler=reload,
        answer=ReloadAnswer,
    ),
)
