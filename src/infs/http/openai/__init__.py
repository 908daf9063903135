"""The OpenAI API."""

from __future__ import annotations

from starlette.routing import Route

from infs.config import ServerConfig
from infs.http.endpoint import Operation
from infs.http.openai import chat, completions, embeddings, models
from infs.http.service import DEFAULTS, Server, Service

OPERATIONS: tuple[Operation, ...] = (
    chat.OPERATION,
    completions.OPERATION,
    embeddings.OPERATION,
    *models.OPERATIONS,
)

PREFIXES = ("/v1", "/openai/v1")


def routes(server: Server, settings: ServerConfig = DEFAULTS) -> list[Route]:
    """The routes of this API, for an application of your own; the first request starts `server`.

    They bring their own error bodies and the limits of `settings`; keys and CORS are the application's.
    """
    return routes_of(Service(server, settings))


def routes_of(service: Service) -> list[Route]:
    """The routes of this API under both of its prefixes."""
    return [operation.route(service, prefix) for prefix in PREFIXES for operation in OPERATIONS]


__all__ = ["OPERATIONS", "PREFIXES", "routes", "routes_of"]
