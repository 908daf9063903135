"""What comes back, whole and streamed, read as raw JSON."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from infs.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest, WorkerDied
from infs.types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionResult,
    CompletionChoice,
    Delta,
    Progress,
    Request,
    TextCompletionResult,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from tests.http.fake_server import CHAT, CREATED, EMBED, TEXT, FakeServer, Step, completed
from tests.http.test_parameters import chat, refused, text

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; the last is the text ``[DONE]`` of one that went well."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    data = [block.removeprefix("data: ") for block in blocks]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def chunks(response: httpx.Response) -> list[Any]:
    """The chunks of a stream that went well, and have one head."""
    *found, done = events(response)
    assert done == "[DONE]"
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in found}) == 1
    return found


def said(found: list[Any], index: int = 0) -> list[Any]:
    """The deltas (or texts) of one choice."""
    choices = [choice for one in found for choice in one["choices"] if choice["index"] == index]
    return [choice.get("delta", choice.get("text")) for choice in choices]


def script(*steps: Step) -> Any:
    """The same steps for every request."""

    def same(request: Request[Any]) -> Iterable[Step]:
        return steps

    return same


# --- chat -----------------------------------------------------------------------------------------------------


def test_a_chat_completion(http: httpx.Client) -> None:
    answer = chat(http).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": CHAT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_a_chat_completion_streamed(http: httpx.Client) -> None:
    found = chunks(chat(http, stream=True))
    assert said(found) == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": ", "},
        {"content": "world"},
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in found] == [None] * 4 + ["stop"]
    assert found[0]["object"] == "chat.completion.chunk"
    assert all("usage" not in one for one in found)
    assert all(one["choices"][0]["logprobs"] is None for one in found)


@pytest.mark.parametrize("ask", [chat, text])
def test_usage_in_a_stream(http: httpx.Client, ask: Any) -> None:
    *found, last = chunks(ask(http, stream=True, stream_options={"include_usage": True}))
    assert all(one["usage"] is None and one["choices"] for one in found)
    assert last["choices"] == []
    assert last["usage"] == USAGE
    for options in ({"include_usage": False}, {"include_usage": None}, {}):
        assert all("usage" not in one for one in chunks(ask(http, stream=True, stream_options=options)))


@pytest.mark.parametrize("ask", [chat, text])
def test_several_choices(http: httpx.Client, ask: Any) -> None:
    answer = ask(http, n=3).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["usage"]["prompt_tokens"] == 7
    found = chunks(ask(http, n=3, stream=True))
    assert said(found, 0) == said(found, 1) == said(found, 2)
    reasons = [one["choices"][0]["finish_reason"] for one in found]
    assert reasons.count("stop") == 3


def test_a_message_of_tool_calls(http: httpx.Client, fake: FakeServer) -> None:
    calls = [ToolCall(id="call_1", name="add", arguments='{"a":1}'), ToolCall(id="call_2", name="sub", arguments="{}")]
    pieces = [
        ToolCallDelta(index=0, id="call_1", name="add"),
        ToolCallDelta(index=0, arguments='{"a"'),
        ToolCallDelta(index=0, arguments=":1}"),
        ToolCallDelta(index=1, id="call_2", name="sub", arguments="{}"),
    ]
    choice = ChatChoice(
        index=0, message=AssistantMessage(tool_calls=calls, reasoning="Hm."), finish_reason="tool_calls"
    )
    fake.script = script(
        Delta(reasoning="Hm."),
        *(Delta(tool_calls=[piece]) for piece in pieces),
        Delta(finish_reason="tool_calls"),
        ChatCompletionResult(choices=[choice], usage=Usage()),
    )
    answer = chat(http).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
        ],
    }
    found = chunks(chat(http, stream=True))
    assert said(found) == [
        {"role": "assistant", "content": None},
        {"reasoning_content": "Hm."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "sub", "arguments": "{}"}}
            ]
        },
        {},
    ]
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_text_and_end_in_one_delta_are_two_chunks(http: httpx.Client, fake: FakeServer) -> None:
    def steps(request: Request[Any]) -> Iterable[Step]:
        return [Delta(text="Hi", finish_reason="length"), completed(request, "Hi")]  # type: ignore[arg-type]

    fake.script = steps
    found = chunks(chat(http, stream=True))
    assert said(found) == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]
    assert said(chunks(text(http, stream=True))) == ["Hi", ""]


@pytest.mark.parametrize("ask", [chat, text])
def test_an_engine_that_does_not_stream(http: httpx.Client, fake: FakeServer, ask: Any) -> None:
    def steps(request: Request[Any]) -> Iterable[Step]:
        return [Progress(stage="load", done=1), completed(request, "Hi", 2)]  # type: ignore[arg-type]

    fake.script = steps
    found = chunks(ask(http, stream=True, n=2))
    for index in (0, 1):
        assert said(found, index) in (
            [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}],
            ["Hi", ""],
        )


# --- log-probabilities ----------------------------------------------------------------------------------------

SMILE = "😀".encode()
TOKENS = [
    TokenLogprob(token="A", bytes=b"A", logprob=-0.25, top=[TopLogprob(token="A", bytes=b"A", logprob=-0.25)]),
    TokenLogprob(
        token="�",
        bytes=SMILE[:2],
        logprob=-1.0,
        top=[TopLogprob(token="�", bytes=SMILE[:3], logprob=float("-inf"))],
    ),
    TokenLogprob(token="�", bytes=SMILE[2:], logprob=-2.0),
    TokenLogprob(token="B", bytes=b"B", logprob=0.0),
]


def scored_chat(request: Request[Any]) -> Iterable[Step]:
    """A smile in two tokens."""
    yield Delta(text="A", logprobs=TOKENS[:1])
    yield Delta(text="", logprobs=TOKENS[1:2])
    yield Delta(text="😀B", logprobs=TOKENS[2:], finish_reason="stop")
    said = AssistantMessage(content="A😀B")
    choice = ChatChoice(index=0, message=said, finish_reason="stop", logprobs=TOKENS)
    yield ChatCompletionResult(choices=[choice], usage=Usage())


def scored_text(request: Request[Any]) -> Iterable[Step]:
    """The same, with an echoed token before it."""
    first = TokenLogprob(token="Once", bytes=b"Once", logprob=None)
    yield Delta(text="Once", logprobs=[first])
    yield Delta(text="A", logprobs=TOKENS[:1])
    yield Delta(text="😀B", logprobs=TOKENS[1:], finish_reason="stop")
    choice = CompletionChoice(index=0, text="OnceA😀B", finish_reason="stop", logprobs=[first, *TOKENS])
    yield TextCompletionResult(choices=[choice], usage=Usage())


def test_logprobs_of_chat(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = scored_chat
    logprobs = chat(http, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    content = logprobs["content"]
    assert content[0] == {
        "token": "A",
        "logprob": -0.25,
        "bytes": [65],
        "top_logprobs": [{"token": "A", "logprob": -0.25, "bytes": [65]}],
    }
    assert content[1]["token"] == "\\xf0\\x9f"
    assert content[1]["bytes"] == [0xF0, 0x9F]
    assert content[1]["top_logprobs"][0]["logprob"] == -9999.0
    assert content[2]["top_logprobs"] == []
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "A😀B"
    found = chunks(chat(http, logprobs=True, top_logprobs=1, stream=True))
    streamed = [one["choices"][0]["logprobs"] for one in found]
    assert [token for one in streamed if one for token in one["content"]] == content
    assert "".join(delta.get("content", "") for delta in said(found)) == "A😀B"


def test_logprobs_of_completions(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = scored_text
    logprobs = text(http, logprobs=1, echo=True).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["Once", "A", "bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "B"],
        "token_logprobs": [None, -0.25, -1.0, -2.0, 0.0],
        "top_logprobs": [
            None,
            {"A": -0.25},
            {"bytes:\\xf0\\x9f\\x98": -9999.0, "bytes:\\xf0\\x9f": -1.0},
            {"bytes:\\x98\\x80": -2.0},
            {"B": 0.0},
        ],
        "text_offset": [0, 4, 5, 5, 6],
    }
    found = [one["choices"][0] for one in chunks(text(http, logprobs=1, echo=True, stream=True))]
    for name, values in logprobs.items():
        assert [value for choice in found if choice["logprobs"] for value in choice["logprobs"][name]] == values


# --- text completions -----------------------------------------------------------------------------------------


def test_a_completion(http: httpx.Client) -> None:
    answer = text(http).json()
    assert answer.pop("id").startswith("cmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "text_completion",
        "model": TEXT,
        "choices": [{"index": 0, "text": "Hello, world", "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_a_completion_streamed(http: httpx.Client) -> None:
    found = chunks(text(http, stream=True))
    assert said(found) == ["Hello", ", ", "world", ""]
    assert [one["choices"][0]["finish_reason"] for one in found] == [None, None, None, "stop"]
    assert all("usage" not in one for one in found)


def speaking(request: Any) -> Iterable[Step]:
    """Says its prompt; the first prompt is the slowest."""
    word = str(request.prompt)
    for _ in range({"a": 5, "b": 2}.get(word, 0)):
        yield Progress(stage="prompt", done=0)
    for index in range(request.n):
        yield Delta(index=index, text=f"{word}{index}", finish_reason="stop")
    choices = [CompletionChoice(index=index, text=f"{word}{index}", finish_reason="stop") for index in range(request.n)]
    yield TextCompletionResult(choices=choices, usage=Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=1))


def test_several_prompts(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = speaking
    asked = {"prompt": ["a", "b", "c"], "n": 2}
    answer = text(http, **asked).json()
    expected = ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    summed = {
        "prompt_tokens": 30,
        "completion_tokens": 6,
        "total_tokens": 36,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert answer["usage"] == summed
    *found, last = chunks(text(http, **asked, stream=True, stream_options={"include_usage": True}))
    assert last["usage"] == summed
    assert ["".join(said(found, index)) for index in range(6)] == expected
    assert said(found[:1], 4) == ["c0"], "prompts run side by side"


def test_several_prompts_without_n_make_one_choice_each(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = speaking
    assert [choice["text"] for choice in text(http, prompt=["a", "b"]).json()["choices"]] == ["a0", "b0"]


def test_one_prompt_of_several_fails(http: httpx.Client, fake: FakeServer) -> None:
    def one_fails(request: Any) -> Iterable[Step]:
        if request.prompt == "b":
            return [InvalidRequest("b is bad", param="prompt")]
        return speaking(request)

    fake.script = one_fails
    refused(text(http, prompt=["a", "b", "c"]), "prompt", saying="b is bad")
    response = text(http, prompt=["a", "b", "c"], stream=True)
    if response.status_code == 400:
        refused(response, "prompt")
    else:
        assert events(response)[-1]["error"]["message"] == "b is bad"
    assert fake.running == 0


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [chat, text])
def test_a_failure_before_the_first_event_has_its_status(http: httpx.Client, fake: FakeServer, ask: Any) -> None:
    fake.script = script(Progress(stage="queue", done=0), WorkerDied("The worker died."))
    for body in ({}, {"stream": True}):
        response = ask(http, **body)
        assert response.status_code == 502
        assert response.json() == {
            "error": {"message": "The worker died.", "type": "server_error", "param": None, "code": "worker_died"}
        }


@pytest.mark.parametrize("ask", [chat, text])
def test_a_failure_in_mid_stream_is_the_last_event(http: httpx.Client, fake: FakeServer, ask: Any) -> None:
    fake.script = script(Delta(text="Hel"), GenerationFailed("It broke."))
    found = events(ask(http, stream=True))
    assert found[-1] == {
        "error": {"message": "It broke.", "type": "server_error", "param": None, "code": "generation_failed"}
    }
    assert all("error" not in one for one in found[:-1])


def test_a_defect_is_told_in_one_line(http: httpx.Client, fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    fake.script = script(ZeroDivisionError("secret"))
    response = chat(http)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert any(record.exc_info for record in caplog.records)
    fake.script = script(Delta(text="a"), ZeroDivisionError("secret"))
    last = events(chat(http, stream=True))[-1]
    assert "secret" not in last["error"]["message"]


def test_a_stream_without_a_result_is_a_failure(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = script(Delta(text="a"))
    assert events(chat(http, stream=True))[-1]["error"]["code"] == "generation_failed"


def test_errors_name_the_fields_of_the_body(http: httpx.Client, fake: FakeServer) -> None:
    fake.script = script(InvalidRequest("constraint.schema: no such keyword", param="constraint.schema"))
    for body in ({}, {"stream": True}):
        error = refused(chat(http, response_format={"type": "json_object"}, **body), "response_format.schema")
        assert error["message"] == "response_format.schema: no such keyword"
    fake.script = script(ContextLengthExceeded("Too long.", param="prompt"))
    assert refused(chat(http), "messages")["code"] == "context_length_exceeded"
    refused(text(http), "prompt")
    fake.script = script(InvalidRequest("no tool", param="tools[1].name"))
    refused(chat(http), "tools[1].function.name")


# --- embeddings and models ------------------------------------------------------------------------------------


def embed(http: httpx.Client, **body: Any) -> httpx.Response:
    """An embedding with what a test is about."""
    return http.post("/v1/embeddings", json={"model": EMBED, "input": "a", **body})


def test_embeddings(http: httpx.Client, fake: FakeServer) -> None:
    answer = embed(http, input=["a", "b"]).json()
    assert answer["object"] == "list"
    assert answer["model"] == EMBED
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert [one["object"] for one in answer["data"]] == ["embedding", "embedding"]
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert answer["data"][1]["embedding"] == pytest.approx([1.0, 1.1, 1.2, 1.3])


def test_embeddings_in_base64(http: httpx.Client) -> None:
    data = embed(http, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<4f", base64.b64decode(data)) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert isinstance(embed(http, encoding_format=None).json()["data"][0]["embedding"], list)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_inputs(http: httpx.Client, fake: FakeServer, given: Any, expected: Any) -> None:
    assert len(embed(http, input=given).json()["data"]) == len(expected)
    assert fake.requests[-1].input == expected


@pytest.mark.parametrize("given", ["", [], [""], ["a", ""], [[]], [[1], []], [1, "a"], None, {}])
def test_wrong_inputs(http: httpx.Client, fake: FakeServer, given: Any) -> None:
    refused(embed(http, input=given), "input")
    assert not fake.requests


def test_parameters_of_embeddings(http: httpx.Client, fake: FakeServer) -> None:
    assert len(embed(http, dimensions=3).json()["data"][0]["embedding"]) == 3
    assert embed(http, normalize=False, timeout=3, user="u", dimensions=None).status_code == 200
    assert (fake.requests[-1].normalize, fake.requests[-1].timeout) == (False, 3)
    refused(embed(http, dimensions=0), "dimensions")
    refused(embed(http, encoding_format="int8"), "encoding_format")
    refused(embed(http, temperature=1), "temperature")


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_models(http: httpx.Client, prefix: str) -> None:
    answer = http.get(f"{prefix}/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == [CHAT, TEXT, EMBED]
    for model in answer["data"]:
        assert model == {"id": model["id"], "object": "model", "created": CREATED, "owned_by": "infs"}
        assert http.get(f"{prefix}/models/{model['id']}").json() == model
    assert http.get(f"{prefix}/models/org%2Ftext%3A1").json()["id"] == TEXT


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
def test_both_prefixes_serve(http: httpx.Client, path: str) -> None:
    bodies: dict[str, Any] = {
        "chat/completions": {"messages": [{"role": "user", "content": "a"}]},
        "completions": {"prompt": "a"},
        "embeddings": {"input": "a"},
    }
    for prefix in ("/v1", "/openai/v1"):
        assert http.post(f"{prefix}/{path}", json={"model": CHAT, **bodies[path]}).status_code == 200
