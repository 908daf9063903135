"""Whatever JSON comes, the answer is 200 or 4xx with a proper body; never 500, never a hang."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infs.http.openai.bodies import ChatBody, CompletionBody, EmbeddingBody
from infs.http.openai.intake import ONLY
from infs.http.reading import MAX_DEPTH, check_depth, parse_object
from tests.http.fake_server import CHAT, FakeServer
from tests.http.test_parameters import TOOL, USER

GOOD: dict[str, tuple[type[msgspec.Struct], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatBody, {"model": CHAT, "messages": [USER]}),
    "/v1/completions": (CompletionBody, {"model": CHAT, "prompt": "a"}),
    "/v1/embeddings": (EmbeddingBody, {"model": CHAT, "input": "a"}),
}

WILD = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(2**62, 2**80)
scalars = st.none() | st.booleans() | numbers | st.text()
# Pieces of real requests, so that wild ones get past the first check.
pieces = st.sampled_from(
    [
        USER,
        TOOL,
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        {"type": "function", "function": {"name": "add"}},
        {"role": "tool", "content": "a"},
        {"include_usage": True},
        "auto",
        "required",
        "assistant",
        [],
        {},
    ]
)
values = st.recursive(
    scalars | pieces,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def names(kind: type[msgspec.Struct]) -> st.SearchStrategy[str]:
    """Mostly names that are known."""
    return st.sampled_from([*kind.__struct_encode_fields__, *ONLY]) | st.text(max_size=8)


def mild(response: httpx.Response) -> None:
    """Nothing worse than a refusal."""
    if response.status_code == 200:
        return
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["param"], str | None)


@pytest.mark.parametrize("path", GOOD)
def test_wild_fields(http: httpx.Client, fake: FakeServer, path: str) -> None:
    kind, good = GOOD[path]

    @WILD
    @given(st.dictionaries(names(kind), values, max_size=3))
    def check(wild: dict[str, Any]) -> None:
        # A hundred choices of a fake take their time, and show nothing.
        body = {**good, **{name: value for name, value in wild.items() if name != "n"}}
        mild(http.post(path, content=json.dumps(body)))

    check()
    assert fake.running == 0


@pytest.mark.parametrize("path", GOOD)
def test_wild_json(http: httpx.Client, path: str) -> None:
    @WILD
    @given(values)
    def check(wild: Any) -> None:
        mild(http.post(path, content=json.dumps(wild)))

    check()


def test_wild_messages(http: httpx.Client) -> None:
    keys = st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "refusal", "name", "reasoning"])
    roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
    messages = st.lists(st.builds(lambda role, rest: {**rest, "role": role}, roles, st.dictionaries(keys, values)))

    @WILD
    @given(messages)
    def check(wild: Any) -> None:
        mild(http.post("/v1/chat/completions", content=json.dumps({"model": CHAT, "messages": wild})))

    check()


def test_wild_bytes(http: httpx.Client) -> None:
    @WILD
    @given(st.binary(max_size=50), st.integers(0, 60))
    def check(wild: bytes, place: int) -> None:
        good = json.dumps({"model": CHAT, "prompt": "some text"}).encode()
        mild(http.post("/v1/completions", content=good[:place] + wild + good[place:]))

    check()


@given(st.dictionaries(st.text(), values, max_size=4))
def test_an_object_comes_through_as_it_is(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode()) == value


@given(values)
def test_ordinary_values_are_not_too_deep(value: Any) -> None:
    check_depth(value, "x")


def test_the_limit_of_depth() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    check_depth(value, "x")
    with pytest.raises(Exception, match="levels deep"):
        check_depth([[value]], "x")
