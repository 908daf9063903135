"""``/v1/embeddings``: texts turned into vectors."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from infs.errors import InvalidRequest
from infs.http.endpoint import Operation, json_response
from infs.http.openai.answers import Embedding, Embeddings, EmbeddingUsage
from infs.http.openai.bodies import EmbeddingBody
from infs.http.openai.inputs import split_inputs
from infs.http.openai.intake import make, read
from infs.http.service import Service
from infs.types import EmbeddingRequest


async def embeddings(service: Service, request: Request) -> Response:
    """Answer ``POST /v1/embeddings``."""
    body = await read(service, request, EmbeddingBody)
    asked = _request(body)
    result = await service.run(request.receive, lambda: service.server.run(asked))
    write: Callable[[bytes], str | list[float]] = _base64 if body.encoding_format == "base64" else _numbers
    data = [Embedding(index=index, embedding=write(vector)) for index, vector in enumerate(result.vectors)]
    used = result.usage.prompt_tokens
    usage = EmbeddingUsage(prompt_tokens=used, total_tokens=used)
    return json_response(Embeddings(data=data, model=body.model, usage=usage))


def _request(body: EmbeddingBody) -> EmbeddingRequest:
    inputs = split_inputs(body.input, "input")
    for number, item in enumerate(inputs):
        if not item:
            raise InvalidRequest(f"Input {number} is empty; there is nothing to embed.", param="input")
    given: dict[str, Any] = {"dimensions": body.dimensions, "normalize": body.normalize, **body.asking}
    options = {name: value for name, value in given.items() if value is not None}
    return make(EmbeddingRequest, {}, model=body.model, input=inputs, **options)


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


OPERATION = Operation(
    method="POST",
    path="/embeddings",
    summary="Turn texts into vectors",
    handler=embeddings,
    body=EmbeddingBody,
    answer=Embeddings,
)
