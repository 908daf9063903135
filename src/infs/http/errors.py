"""Errors as HTTP answers: ``{"error": {"message", "type", "param", "code"}}``, all four always there."""

from __future__ import annotations

import logging
import math

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from infs.errors import InfsError, ModelNotFound, RequestError

log = logging.getLogger("infs.http")

RETRY_AFTER = 1.0  # seconds, where the error itself does not say


class RouteNotFound(RequestError):
    """No route of that path."""

    code = "unknown_url"
    status = 404


class MethodNotAllowed(RequestError):
    """The path is there, the method is not."""

    code = "method_not_allowed"
    status = 405


class BodyTooLarge(RequestError):
    """The request is larger than `max_body`."""

    code = "body_too_large"
    status = 413


class ErrorObject(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong. `param` names the field to blame; `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error, and the last event of a stream that failed."""

    error: ErrorObject


def error_type(status: int) -> str:
    """The OpenAI name for this kind of error."""
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    if status in named:
        return named[status]
    return "invalid_request_error" if status < 499 else "server_error"


def error_body(error: InfsError) -> ErrorBody:
    """`error` as a body."""
    param = error.param or ("model" if isinstance(error, ModelNotFound) else None)
    return ErrorBody(
        error=ErrorObject(message=error.message, type=error_type(error.status), param=param, code=error.code)
    )


def error_response(error: InfsError, headers: dict[str, str] | None = None) -> Response:
    """`error` as an answer with its status; 401, 429 and 503 carry the headers that belong to them."""
    headers = dict(headers or {})
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (429, 503) or error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(max(1.0, error.retry_after or RETRY_AFTER)))
    return Response(msgspec.json.encode(error_body(error)), error.status, headers, "application/json")


def as_infs_error(error: Exception) -> InfsError:
    """`error` itself if it is one of ours; anything else is a defect: logged whole, and told in one line."""
    if isinstance(error, InfsError):
        return error
    log.error("A request failed in a way that nobody foresaw.", exc_info=error)
    return InfsError("Something failed inside the server; its log says what.")


async def route_not_found(request: Request, error: Exception) -> Response:
    """The answer to a path that nothing serves."""
    return error_response(RouteNotFound(f"There is nothing at {request.method} {request.scope['path']}; see /docs."))


async def method_not_allowed(request: Request, error: Exception) -> Response:
    """The answer to the wrong method, with the right ones in ``Allow``."""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    message = f"{request.scope['path']} does not take {request.method}; use {headers.get('Allow')}."
    return error_response(MethodNotAllowed(message), headers)


def details(scope: Scope) -> dict[str, str]:
    """What the log line of this request will say beside its status; handlers add to it."""
    found: dict[str, str] = scope.setdefault("infs.details", {})
    return found
