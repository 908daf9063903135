"""``/v1/models``: what there is to ask."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from infs.errors import ModelNotFound
from infs.http.endpoint import Operation, json_response
from infs.http.openai.answers import Model, Models
from infs.http.service import Service


async def list_models(service: Service, request: Request) -> Response:
    """Answer ``GET /v1/models``."""
    await service.start()
    created = service.server.created
    return json_response(Models(data=[Model(id=name, created=created) for name in service.server.models]))


async def one_model(service: Service, request: Request) -> Response:
    """Answer ``GET /v1/models/{id}``."""
    await service.start()
    name = request.path_params["model"]
    if name not in service.server.models:
        raise ModelNotFound(f"There is no model {name!r}; GET /v1/models lists those that there are.")
    return json_response(Model(id=name, created=service.server.created))


OPERATIONS = (
    Operation(method="GET", path="/models", summary="List the models", handler=list_models, answer=Models),
    Operation(method="GET", path="/models/{model:path}", summary="Show a model", handler=one_model, answer=Model),
)
