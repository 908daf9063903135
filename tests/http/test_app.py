"""The application: what is around the routes, and how it is put together."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from infs.config import ServerConfig
from infs.errors import LoadFailed
from infs.http import create_app, openai
from infs.types import Request
from tests.http.conftest import SETTINGS, running
from tests.http.fake_server import CHAT, FakeServer, Hold
from tests.http.test_errors import error

BODY = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}]}
KEYS = ["first-key", "sécond"]


@asynccontextmanager
async def calling(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls `app` in this process; nobody runs its lifespan, as when it is mounted."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


# --- status, description --------------------------------------------------------------------------------------


def test_status_and_health(http: httpx.Client) -> None:
    assert set(http.get("/").json()) == {"version", "models", "running"}
    assert http.get("/health").json() == {"status": "ok"}
    assert http.head("/health").status_code == 200


def refs(value: Any) -> set[str]:
    """All references in a document."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*(refs(one) for one in value.values()))
    return set().union(*(refs(one) for one in value)) if isinstance(value, list) else set()


def test_the_description(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    paths = {"/", "/health", *(f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "models"))}
    paths |= {"/metrics", "/admin/unload", "/admin/reload"}
    assert set(document["paths"]) == {*paths, "/v1/models/{model}"}
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in refs(document)} <= set(schemas)
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    chat = schemas[body["$ref"].rpartition("/")[2]]
    assert set(chat["required"]) == {"model", "messages"}
    assert {"type": "number", "minimum": 0.0, "maximum": 1.0} in chat["properties"]["top_p"]["anyOf"]
    assert {"type": "boolean"} in chat["properties"]["logprobs"]["anyOf"]


def test_the_page_loads_nothing_else(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "POST /v1/chat/completions" in page.text
    assert "max_completion_tokens" in page.text
    assert "<script" not in page.text
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:)?//", page.text)
    targets = set(re.findall(r"href='#(\w+)'", page.text))
    assert targets
    assert targets <= set(re.findall(r"id='(\w+)'", page.text))


# --- CORS, keys, ids, log -------------------------------------------------------------------------------------


async def test_cors_for_all() -> None:
    async with calling(create_app(FakeServer())) as client:
        asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
        preflight = await client.options(
            "/v1/chat/completions", headers={**asked, "access-control-request-headers": "authorization,x-stainless-os"}
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        for response in (
            await client.post("/v1/chat/completions", json=BODY, headers={"origin": "https://a.example"}),
            await client.post("/v1/nothing", headers={"origin": "https://a.example"}),
        ):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_cors_for_some() -> None:
    settings = ServerConfig(cors_origins=["https://a.example"], api_keys=KEYS)
    async with calling(create_app(FakeServer(), settings)) as client:
        ours = await client.get("/v1/models", headers={"origin": "https://a.example"})
        assert ours.status_code == 401
        assert ours.headers["access-control-allow-origin"] == "https://a.example"
        other = await client.get("/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
        assert (await client.options("/v1/completions", headers=asked)).status_code == 200
    async with calling(create_app(FakeServer(), ServerConfig(cors_origins=[]))) as client:
        none = await client.get("/v1/models", headers={"origin": "https://a.example"})
        assert "access-control-allow-origin" not in none.headers


GUARDED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/openai/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/chat"),
    ("GET", "/"),
    ("GET", "/nothing"),
]


async def test_api_keys() -> None:
    fake = FakeServer()
    inner = create_app(fake, ServerConfig(api_keys=KEYS))
    for app, prefix in ((inner, ""), (Starlette(routes=[Mount("/ai", app=inner)]), "/ai")):
        async with calling(app) as client:
            for method, path in GUARDED:
                for sent in (None, "Bearer", "Bearer wrong", "Bearer first-key2", "Basic first-key", "first-key"):
                    headers = {} if sent is None else {"authorization": sent}
                    response = await client.request(method, prefix + path, headers=headers)
                    found = error(response, 401)
                    assert (found["type"], found["code"]) == ("authentication_error", "invalid_api_key")
                    assert response.headers["www-authenticate"] == "Bearer"
            assert not fake.requests
            for path in ("/health", "/openapi.json", "/docs"):
                assert (await client.get(prefix + path)).status_code == 200
            for key in KEYS:
                # Starlette reads headers as Latin-1; a key is the bytes of its UTF-8.
                headers_of_key = {b"authorization": b"bearer " + key.encode()}
                assert (await client.get(f"{prefix}/v1/models", headers=headers_of_key)).status_code == 200


async def test_request_ids() -> None:
    async with calling(create_app(FakeServer())) as client:
        first, second = [(await client.get("/health")).headers["x-request-id"] for _ in range(2)]
        assert first != second
        kept = await client.get("/nothing", headers={"x-request-id": "abc-1"})
        assert kept.headers["x-request-id"] == "abc-1"
        for odd in ("a b", "x" * 129, 'a"'):
            replaced = await client.get("/health", headers={"x-request-id": odd})
            assert replaced.headers["x-request-id"] != odd


async def test_one_line_in_the_log_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="infs.http")
    async with calling(create_app(FakeServer())) as client:
        await client.post("/v1/chat/completions", json=BODY, headers={"x-request-id": "id-1"})
        await client.post("/v1/chat/completions", json={**BODY, "stream": True})
        await client.post("/v1/chat/completions", json={"model": "no\nne", "messages": BODY["messages"]})
        await client.get("/v1/%0Afaked line")
        await client.get("/health")
    lines = [record.getMessage() for record in caplog.records if record.name == "infs.http"]
    assert len(lines) == 4
    assert re.fullmatch(r"POST /v1/chat/completions 200 \d+ ms id-1 model=chat", lines[0])
    assert re.search(r"POST /v1/chat/completions 200 .*model=chat", lines[1])
    assert re.search(r" 404 .*model=no\\nne error=model_not_found", lines[2])
    assert all("\n" not in line for line in lines)


# --- start and close ------------------------------------------------------------------------------------------


def test_its_lifespan_starts_and_closes_the_server() -> None:
    fake = FakeServer()
    with running(create_app(fake, SETTINGS)) as url:
        assert fake.started
        assert httpx.get(f"{url}/v1/models").status_code == 200
    assert fake.starts == 1
    assert fake.closing


def test_a_server_that_was_started_before_is_left_open() -> None:
    fake = FakeServer()
    fake.started = True
    with running(create_app(fake, SETTINGS)):
        pass
    assert fake.starts == 0
    assert not fake.closing


def test_a_server_that_cannot_start_says_why() -> None:
    fake = FakeServer()
    fake.start_error = LoadFailed("No such file.")
    with pytest.raises(LoadFailed, match="No such file"), running(create_app(fake, SETTINGS)):
        pass


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/chat"])
async def test_mounted_the_first_request_starts_the_server(path: str) -> None:
    fake = FakeServer()
    parent = Starlette(routes=[Mount("/ai", app=create_app(fake))])
    async with calling(parent) as client:
        assert (await client.get("/ai/health")).status_code == 200
        assert fake.starts == 0
        request = client.get if "models" in path else client.post
        options: dict[str, Any] = {} if "models" in path else {"json": BODY}
        answers = await asyncio.gather(*(request(f"/ai{path}", **options) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        assert fake.starts == 1
        assert error(await client.get("/ai/v1/nothing"), 404)["code"] == "unknown_url"


async def test_a_failed_start_is_tried_again() -> None:
    fake = FakeServer()
    fake.start_error = LoadFailed("Broken.")
    async with calling(create_app(fake)) as client:
        for body in (BODY, {**BODY, "stream": True}):
            response = await client.post("/v1/chat/completions", json=body)
            assert error(response, 500)["code"] == "load_failed"
        fake.start_error = None
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
    assert fake.starts == 3


async def test_who_leaves_during_the_start_does_not_stop_it() -> None:
    fake = FakeServer()
    fake.start_hold = Hold()
    async with calling(create_app(fake)) as client:
        first = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        second = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        await fake.starting.wait()
        first.cancel()
        await asyncio.wait((first,))
        fake.start_hold.release()
        assert (await second).status_code == 200
    assert fake.starts == 1


async def test_a_closed_server_is_not_started_again() -> None:
    fake = FakeServer()
    await fake.close()
    async with calling(create_app(fake)) as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "closing"})
        for body in (BODY, {**BODY, "stream": True}):
            response = await client.post("/v1/chat/completions", json=body)
            assert error(response, 503)["code"] == "server_closed"
            assert response.headers["retry-after"]
    assert fake.starts == 0


async def test_the_routes_alone() -> None:
    fake = FakeServer()
    async with calling(Starlette(routes=openai.routes(fake, ServerConfig(max_body=1000)))) as client:
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
        assert "[DONE]" in (await client.post("/openai/v1/chat/completions", json={**BODY, "stream": True})).text
        assert error(await client.post("/v1/completions", json={"model": CHAT}), 400)["param"] == "prompt"
        assert error(await client.post("/v1/completions", content=b"x" * 1001), 413)["code"] == "body_too_large"
    assert fake.starts == 1


async def test_two_applications_share_nothing() -> None:
    one, two = FakeServer(), FakeServer()
    await two.close()
    async with calling(create_app(one)) as first, calling(create_app(two)) as second:
        assert (await first.get("/health")).status_code == 200
        assert (await second.get("/health")).status_code == 503


def test_heavy_libraries_are_not_imported() -> None:
    import subprocess
    import sys

    heavy = ["pydantic", "fastapi", "httpx", "numpy", "jinja2", "llama_cpp", "llguidance", "huggingface_hub", "openai"]
    script = f"import sys, infs.http, infs.http.serving; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_request_is_not_changed_on_its_way(http: httpx.Client, fake: FakeServer) -> None:
    http.post("/v1/chat/completions", json=BODY)
    http.post("/v1/chat/completions", json={**BODY, "stream": True})
    assert fake.requests[0] == fake.requests[1]
    assert isinstance(fake.requests[0], Request)
