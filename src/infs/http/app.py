"""The application: routes, and what happens around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from infs.config import ServerConfig
from infs.http import admin, openai, status
from infs.http.endpoint import Operation
from infs.http.errors import method_not_allowed, route_not_found
from infs.http.middleware import REQUEST_ID, ApiKeys, RequestLog, TraceContext
from infs.http.openapi import description
from infs.http.service import DEFAULTS, Server, Service

OPEN_PATHS = ("/health", "/openapi.json", "/docs")


def create_app(server: Server, settings: ServerConfig = DEFAULTS) -> Starlette:
    """An ASGI application that serves `server`.

    Its lifespan starts the server, and closes it in the end, unless it was started before. Mounted in another
    application, whose lifespan is the one that runs, the first request starts it; closing it is up to the owner.
    """
    service = Service(server, settings)
    described: list[tuple[str, Operation]] = [("", operation) for operation in status.OPERATIONS]
    described += [(openai.PREFIXES[0], operation) for operation in openai.OPERATIONS]
    described += [("", operation) for operation in admin.OPERATIONS]
    own = [*status.OPERATIONS, *admin.OPERATIONS, *description(described)]
    app = Starlette(
        routes=[*(operation.route(service) for operation in own), *openai.routes_of(service)],
        middleware=_middleware(settings),
        exception_handlers={404: route_not_found, 405: method_not_allowed},
        lifespan=lambda _: _lifespan(service),
    )
    app.router.redirect_slashes = False  # behind a proxy it would send clients to an address that is not theirs
    app.state.service = service
    return app


def _middleware(settings: ServerConfig) -> list[Middleware]:
    around = [
        Middleware(RequestLog),
        Middleware(TraceContext),
        Middleware(ApiKeys, keys=settings.api_keys, open_paths=OPEN_PATHS),
    ]
    if settings.cors_origins:
        # Outside the keys: a browser asks whether it may, before it sends one.
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
        around.insert(1, cors)
    return around


@asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[None]:
    ours = not service.server.started
    try:
        await service.start()
        yield
    finally:
        if ours:
            await service.close()
