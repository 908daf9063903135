"""The description of the API: an OpenAPI document, and a page for people made of it that loads nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from infs.http.endpoint import Operation, json_response
from infs.http.errors import ErrorBody
from infs.http.service import Service
from infs.types import TextCompletionRequest
from infs.version import VERSION

REF = "#/components/schemas/"

TITLE = "infs"
ABOUT = "Inference on your own machine. What is under /v1 is under /openai/v1 as well."


def document(operations: Sequence[tuple[str, Operation]]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of `operations`, each with the prefix of its path."""
    paths: dict[str, Any] = {}
    for prefix, operation in operations:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", prefix + operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": _schemas([operation for _, operation in operations]),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(path: str, operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media: {"schema": _schema(operation)}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": _ref(operation.chunk)}
    error = {"description": "An error", "content": {"application/json": {"schema": _ref(ErrorBody)}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {"200": {"description": "The answer", "content": content}, "default": error},
    }
    if names := re.findall(r"\{(\w+)\}", path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return described


def _schema(operation: Operation) -> dict[str, str]:
    return {"type": "string"} if operation.media.startswith("text/") else _ref(operation.answer)


def _ref(kind: type[msgspec.Struct] | None) -> dict[str, str]:
    return {"type": "object"} if kind is None else {"$ref": REF + kind.__name__}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    kinds = {kind for one in operations for kind in (one.body, one.answer, one.chunk) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components([*ordered, ErrorBody], ref_template=REF + "{name}")
    ranges = _ranges()
    for kind in ordered:
        properties = components[kind.__name__].get("properties", {})
        for name in properties.keys() & ranges.keys():
            properties[name] = _with_range(properties[name], ranges[name])
    return components


def _ranges() -> dict[str, dict[str, Any]]:
    """The limits of numbers, which the vocabulary has and the bodies leave to it, by the name of the field."""
    _, components = msgspec.json.schema_components([TextCompletionRequest], ref_template=REF + "{name}")
    limits = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    found = {}
    for name, schema in components[TextCompletionRequest.__name__]["properties"].items():
        for option in schema.get("anyOf", [schema]):
            if limit := {key: option[key] for key in limits if key in option}:
                found[name] = limit
    return found


def _with_range(schema: dict[str, Any], limit: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") in ("integer", "number"):
        return {**schema, **limit}
    if "anyOf" in schema:
        return {**schema, "anyOf": [_with_range(option, limit) for option in schema["anyOf"]]}
    return schema


# --- the page -------------------------------------------------------------------------------------------------

POLICY = "default-src 'self'; style-src 'unsafe-inline'"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}code{font-family:ui-monospace,monospace}td,th{text-align:left;"
    "padding:.1rem 1rem .1rem 0;vertical-align:top}h2{margin-top:2rem}h2 small{font-weight:normal}"
)


def page(described: dict[str, Any]) -> str:
    """The document as HTML."""
    info = described["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        "<meta name=viewport content='width=device-width'>",
        f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])} <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_section(path, method, operation))
    for name, schema in sorted(described["components"]["schemas"].items()):
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{_text(schema)}</p>")
        parts.append(_table(schema))
    return "".join(parts)


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code> <small>{escape(operation['summary'])}</small></h2>"]
    body = operation.get("requestBody")
    if body is not None:
        parts.append(f"<p>Send {_type(body['content']['application/json']['schema'])}</p>")
    for kind, content in operation["responses"]["200"]["content"].items():
        parts.append(f"<p>Get <code>{escape(kind)}</code>: {_type(content['schema'])}</p>")
    return "".join(parts)


def _table(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{_type(field)}<td>{'required' if name in required else ''}"
        f"<td>{_text(field)}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _text(schema: dict[str, Any]) -> str:
    return escape(str(schema.get("description", "")).replace("``", ""))


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(REF))
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " | ".join(_type(option) for option in schema["anyOf"] if option != {"type": "null"})
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any"))) + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": "&gt;", "maximum": "≤", "exclusiveMaximum": "&lt;"}
    return "".join(f" {sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)


def description(operations: Sequence[tuple[str, Operation]]) -> tuple[Operation, Operation]:
    """The operations that show the description of `operations`, made when first asked for."""
    described = lru_cache(maxsize=1)(lambda: document(operations))
    shown = lru_cache(maxsize=1)(lambda: page(described()))

    async def openapi_json(service: Service, request: Request) -> Response:
        return json_response(described())

    async def docs(service: Service, request: Request) -> Response:
        return HTMLResponse(shown(), headers={"content-security-policy": POLICY})

    return (
        Operation(method="GET", path="/openapi.json", summary="This description", handler=openapi_json),
        Operation(method="GET", path="/docs", summary="This description, for people", handler=docs),
    )
