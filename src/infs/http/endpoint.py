"""Operations: what the routes and the API's description are both made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infs.http.errors import as_infs_error, details, error_response
from infs.http.service import Service

Handler = Callable[[Service, Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a path.

    Attributes:
        path: as Starlette writes it, without the prefix of its API.
        body: the struct of its request, if it has one.
        answer: the struct of its answer, if that is JSON of a fixed shape.
        chunk: the struct of the events, if it can stream.
        media: the type of its answer.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    handler: Handler
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    chunk: type[msgspec.Struct] | None = None
    media: str = "application/json"

    def route(self, service: Service, prefix: str = "") -> Route:
        """The route of this operation; whatever fails in it is an answer with an error body."""

        async def endpoint(request: Request) -> Response:
            try:
                return await self.handler(service, request)
            except Exception as error:
                failure = as_infs_error(error)
                details(request.scope)["error"] = failure.code
                return error_response(failure)

        return Route(prefix + self.path, endpoint, methods=[self.method], name=self.summary)


def json_response(value: Any, status: int = 200) -> Response:
    """`value`, structs included, as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
