"""Everything that goes wrong has the right status, and a body of four fields."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from infs import errors
from infs.http.errors import error_body, error_response
from tests.http.fake_server import CHAT, FakeServer
from tests.http.test_answers import script
from tests.http.test_parameters import chat

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response that has this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    found: dict[str, Any] = body["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert isinstance(found["message"], str)
    assert found["message"]
    assert isinstance(found["type"], str)
    assert found["code"] is None or isinstance(found["code"], str)
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"model": "chat",}',
        b"[]",
        b'"chat"',
        b"null",
        b"nonsense",
        b"\xff\xfe",
        b'{"model": "chat", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "chat", "messages": [{"role": "user", "content": "\\udc00 and more text"}]}',
        b'{"model": "\\ud83d"}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"model=chat&prompt=a",
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_json_object(http: httpx.Client, fake: FakeServer, path: str, body: bytes) -> None:
    found = error(http.post(path, content=body), 400)
    assert found["type"] == "invalid_request_error"
    assert not fake.requests


def test_surrogates_are_named(http: httpx.Client) -> None:
    found = error(http.post(PATHS[0], content=b'{"model": "\\ud800"}'), 400)
    assert "surrogate" in found["message"]
    whole = b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert http.post(PATHS[0], content=whole).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", None])
def test_the_content_type_does_not_matter(http: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = b'\xef\xbb\xbf{"model": "chat", "prompt": "a"}'
    assert http.post("/v1/completions", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": 5}, {"model": ["chat"]}])
def test_no_model(http: httpx.Client, path: str, model: dict[str, Any]) -> None:
    found = error(http.post(path, json=model), 400)
    assert found["param"] == "model"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(http: httpx.Client, stream: bool) -> None:
    found = error(chat(http, model="none", stream=stream), 404)
    assert (found["code"], found["param"], found["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "none" in found["message"]
    found = error(http.get("/v1/models/none/such"), 404)
    assert (found["code"], found["param"]) == ("model_not_found", "model")


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    for path in ("/v1", "/v1/nothing", "/v2/models", "/favicon.ico"):
        assert error(http.get(path), 404)["type"] == "invalid_request_error"
    assert error(http.post("/v1/responses", json={}), 404)["code"] == "unknown_url"
    for method, path, allowed in [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("PUT", "/v1/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", f"/v1/models/{CHAT}", {"GET", "HEAD"}),
        ("POST", "/health", {"GET", "HEAD"}),
    ]:
        response = http.request(method, path)
        assert error(response, 405)["code"] == "method_not_allowed"
        assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path",
    ["/%00", "/%ff%fe", "/%ED%A0%80", "/v1/models/%ED%A0%80", "/v1/models/", "/v1/models/%0d%0a", "/health/"],
)
def test_odd_paths(http: httpx.Client, path: str) -> None:
    assert error(http.get(path), 404)["type"] == "invalid_request_error"


def test_a_trailing_slash_is_another_path(http: httpx.Client) -> None:
    assert error(http.post("/v1/chat/completions/", json={}), 404)["code"] == "unknown_url"


@pytest.mark.parametrize("host", ["[", "a b", "", "x" * 5000])
def test_odd_hosts(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"host": host}).status_code == 200
    assert error(http.get("/nothing", headers={"host": host}), 404)
    assert chat(http, user="u").status_code == 200


def test_a_long_model_is_not_quoted_back(http: httpx.Client) -> None:
    response = chat(http, model="m" * 100_000)
    assert error(response, 400)["param"] == "model"
    assert len(response.content) < 2000


def test_a_body_that_is_too_large(http: httpx.Client, fake: FakeServer) -> None:
    large = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "a" * 1_000_000}]}).encode()
    found = error(http.post("/v1/chat/completions", content=large), 413)
    assert "1000000" in found["message"]
    pieces = (large[start : start + 10_000] for start in range(0, len(large), 10_000))
    error(http.post("/v1/chat/completions", content=pieces), 413)
    assert not fake.requests
    assert chat(http).status_code == 200, "the connection, or another, goes on"


def test_a_large_body_that_fits(http: httpx.Client, fake: FakeServer) -> None:
    assert chat(http, messages=[{"role": "user", "content": "ä" * 400_000}]).status_code == 200
    assert len(fake.requests[-1].messages[0].text) == 400_000


ALL = [
    (errors.InvalidRequest, 400, "invalid_request_error"),
    (errors.ContextLengthExceeded, 400, "invalid_request_error"),
    (errors.Unsupported, 400, "invalid_request_error"),
    (errors.QueueFull, 429, "rate_limit_error"),
    (errors.ServerClosed, 503, "server_error"),
    (errors.CapacityError, 503, "server_error"),
    (errors.RequestTimeout, 504, "server_error"),
    (errors.RequestCancelled, 499, "server_error"),
    (errors.WorkerDied, 502, "server_error"),
    (errors.LoadFailed, 500, "server_error"),
    (errors.DownloadFailed, 502, "server_error"),
    (errors.StorageFull, 507, "server_error"),
    (errors.InfsError, 500, "server_error"),
]


@pytest.mark.parametrize(("kind", "status", "name"), ALL)
@pytest.mark.parametrize("stream", [False, True])
def test_the_tree_of_errors(
    http: httpx.Client, fake: FakeServer, kind: type[errors.InfsError], status: int, name: str, stream: bool
) -> None:
    fake.script = script(kind("It went wrong.", param="messages"))
    response = chat(http, stream=stream)
    assert error(response, status) == {
        "message": "It went wrong.",
        "type": name,
        "param": "messages",
        "code": kind.code,
    }
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_retry_after(http: httpx.Client, fake: FakeServer) -> None:
    for seconds, header in [(None, "1"), (0.2, "1"), (2.5, "3")]:
        fake.script = script(errors.QueueFull("Full.", retry_after=seconds))
        assert chat(http).headers["retry-after"] == header


def test_every_class_of_the_tree_makes_a_body() -> None:
    def walk(kind: type[errors.InfsError]) -> list[type[errors.InfsError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in walk(sub))]

    for kind in walk(errors.InfsError):
        failure = kind("Why.")
        assert error_body(failure).error.code == kind.code
        response = error_response(failure)
        assert response.status_code == kind.status
        assert ("www-authenticate" in response.headers) == (kind.status == 401)
