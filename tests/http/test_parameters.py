"""Every parameter that clients send: it arrives in the vocabulary, or it is refused by its name."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import inspect

from infs.http.openai.bodies import ChatBody, CompletionBody, EmbeddingBody
from infs.types import (
    GENERATION_OPTIONS,
    UNSET,
    ChatCompletionRequest,
    ChoiceConstraint,
    GrammarConstraint,
    ImagePart,
    JsonConstraint,
    LogitBias,
    LoraScale,
    Message,
    NamedConstraint,
    NamedTool,
    RegexConstraint,
    Request,
    TextCompletionRequest,
    TextPart,
    Tool,
    ToolCall,
    UnsetType,
)
from tests.http.fake_server import CHAT, TEXT, FakeServer

DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"
USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": ["integer", "null"], "default": None}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA, "strict": True}}
OTHER = {"type": "function", "function": {"name": "sub"}}


def chat(http: httpx.Client, **body: Any) -> httpx.Response:
    """A chat completion with what a test is about."""
    return http.post("/v1/chat/completions", json={"model": CHAT, "messages": [USER], **body})


def text(http: httpx.Client, **body: Any) -> httpx.Response:
    """A text completion with what a test is about."""
    return http.post("/v1/completions", json={"model": TEXT, "prompt": "Once", **body})


def refused(response: httpx.Response, param: str | None, *, saying: str = "") -> dict[str, Any]:
    """The error of a response that must be 400 and blame `param`."""
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert saying in error["message"]
    return error


# More than one form, or more than one parameter: these have tests of their own.
SPECIAL = {"constraint", "stop", "logit_bias", "logprobs", "best_of", "reasoning_budget"}
RENAMED = {"client": "user"}


def setting_types() -> dict[str, inspect.Type]:
    """The types of what any request for text may say, by the names of the body."""
    kind = inspect.type_info(TextCompletionRequest)
    assert isinstance(kind, inspect.StructType)
    names = {*Request.__struct_fields__, *GENERATION_OPTIONS} - {"model", *SPECIAL}
    return {RENAMED.get(field.name, field.name): field.type for field in kind.fields if field.name in names}


def forms(kind: inspect.Type) -> list[inspect.Type]:
    """The types of JSON values that `kind` allows, but null."""
    if isinstance(kind, inspect.UnionType):
        return [form for part in kind.types for form in forms(part)]
    return [] if isinstance(kind, inspect.NoneType) or getattr(kind, "cls", None) is UnsetType else [kind]


def fitting(kind: inspect.Type) -> Any:
    """A value of `kind`; of a number, the least or the largest that there may be."""
    (form,) = forms(kind)
    match form:
        case inspect.IntType(ge=ge, le=le) | inspect.FloatType(ge=ge, le=le):
            return next((limit for limit in (le, ge) if limit is not None), 9)
        case inspect.StrType():
            return "some text"
        case inspect.BoolType():
            return True
        case inspect.LiteralType(values=values):
            return values[-1]
        case inspect.ListType(item_type=item):
            return [fitting(item)]
        case inspect.StructType(fields=fields):
            return {field.encode_name: fitting(field.type) for field in fields}
    raise AssertionError(f"no value for {form}")


def unfitting(kind: inspect.Type) -> list[Any]:
    """Values of the right type that are no values of `kind`."""
    (form,) = forms(kind)
    match form:
        case inspect.IntType() | inspect.FloatType():
            below = [] if form.ge is None else [form.ge - 1]
            above = [] if form.le is None else [form.le + 1]
            return [*below, *above, *([] if form.gt is None else [form.gt])]
        case inspect.StrType(max_length=int(most)):
            return ["x" * (most + 1)]
        case inspect.LiteralType(values=values):
            last = values[-1]
            return [last + 1 if isinstance(last, int) else f"{last}-"]
    return []


TYPES = setting_types()
SETTINGS = {name: fitting(kind) for name, kind in TYPES.items()}
WRONG = [(name, value) for name, kind in TYPES.items() for value in unfitting(kind)]
TEXTS = {name for name, value in SETTINGS.items() if isinstance(value, str)}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("ask", [chat, text])
def test_a_setting_arrives_and_null_does_not(http: httpx.Client, fake: FakeServer, ask: Any, name: str) -> None:
    field = next((field for field, other in RENAMED.items() if other == name), name)
    assert ask(http, **{name: SETTINGS[name]}).status_code == 200
    assert msgspec.to_builtins(getattr(fake.requests[-1], field)) == SETTINGS[name]
    assert ask(http, **{name: None}).status_code == 200
    assert getattr(fake.requests[-1], field) == getattr(ask_nothing(ask, http, fake), field)


def ask_nothing(ask: Any, http: httpx.Client, fake: FakeServer) -> Any:
    """The request without any setting."""
    assert ask(http).status_code == 200
    return fake.requests[-1]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_out_of_its_range_is_refused(http: httpx.Client, fake: FakeServer, name: str, value: Any) -> None:
    refused(chat(http, **{name: value}), name)
    refused(text(http, **{name: value}), name)
    assert not fake.requests


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_wrong_type_is_refused(http: httpx.Client, name: str) -> None:
    refused(chat(http, **{name: {"a": 1}}), name)
    refused(chat(http, **{name: 1 if name in TEXTS else "1"}), name)


def test_adapters_are_refused_by_their_place(http: httpx.Client, fake: FakeServer) -> None:
    assert chat(http, lora=[{"name": "a"}, {"name": "b", "scale": -0.5}]).status_code == 200
    assert fake.requests[-1].lora == [LoraScale(name="a", scale=1.0), LoraScale(name="b", scale=-0.5)]
    refused(chat(http, lora=[{"scale": 1}]), "lora[0].name")
    refused(chat(http, lora=[{"name": "a"}, {"name": "b", "scale": 101}]), "lora[1].scale")
    refused(chat(http, lora=[{"name": "a", "weight": 1}]), "lora[0].weight")
    refused(chat(http, lora=["a"]), "lora[0]")
    refused(http.post("/v1/embeddings", json={"model": TEXT, "input": "a", "lora": [{"name": "a"}]}), "lora")


def test_every_setting_of_the_vocabulary_has_a_parameter() -> None:
    # A constraint has a parameter for each of its kinds.
    assert set(GENERATION_OPTIONS) - {"constraint", "reasoning_budget"} <= set(CompletionBody.__struct_fields__)
    assert set(GENERATION_OPTIONS) - {"constraint", "best_of"} <= set(ChatBody.__struct_fields__)
    assert {"cache_salt", "lora", "priority", "user", "mirostat", "timeout"} < set(SETTINGS)
    assert {name for name, _ in WRONG} == set(SETTINGS) - {
        *("seed", "ignore_eos", "lora", "dry_sequence_breakers"),  # which have no range
    }


def test_the_page_has_every_parameter() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for body in (ChatBody, CompletionBody, EmbeddingBody):
        assert [name for name in body.__struct_fields__ if not re.search(rf"`{name}[`:.]", page)] == []


def test_unset_stays_unset(http: httpx.Client, fake: FakeServer) -> None:
    chat(http)
    text(http)
    assert fake.requests == [
        ChatCompletionRequest(model=CHAT, messages=[Message(role="user", content="Hi")]),
        TextCompletionRequest(model=TEXT, prompt="Once"),
    ]


# --- what only chats have -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "wrong"),
    [("reasoning_budget", [0, 5], [-1, "5", 0.5, True]), ("max_tool_rounds", [1, 5], [0, -1, "5", 0.5, True])],
)
def test_limits_of_a_chat(http: httpx.Client, fake: FakeServer, name: str, values: list[int], wrong: list[Any]) -> None:
    for value in values:
        assert chat(http, **{name: value}).status_code == 200
        assert getattr(fake.requests[-1], name) == value
    assert chat(http, **{name: None}).status_code == 200
    assert fake.requests[-1] == ask_nothing(chat, http, fake)
    for value in wrong:
        refused(chat(http, **{name: value}), name)


@pytest.mark.parametrize("name", ["reasoning_budget", "max_tool_rounds", "messages", "reasoning_effort"])
def test_elsewhere_they_are_refused_for_what_they_are(http: httpx.Client, fake: FakeServer, name: str) -> None:
    refused(text(http, **{name: 5}), name, saying=f"'{name}' is a parameter of chat completions")
    embedding = http.post("/v1/embeddings", json={"model": TEXT, "input": "a", name: 5})
    refused(embedding, name, saying=f"'{name}' is a parameter of chat completions")
    assert text(http, **{name: None}).status_code == 200
    assert len(fake.requests) == 1


# --- more than one name, more than one form -------------------------------------------------------------------


def test_max_completion_tokens(http: httpx.Client, fake: FakeServer) -> None:
    for body in ({"max_completion_tokens": 3}, {"max_completion_tokens": 3, "max_tokens": 3}):
        assert chat(http, **body).status_code == 200
        assert fake.requests[-1].max_tokens == 3
    refused(chat(http, max_completion_tokens=3, max_tokens=4), "max_completion_tokens", saying="max_tokens")
    refused(chat(http, max_completion_tokens=-1), "max_completion_tokens", saying="max_completion_tokens")
    refused(text(http, max_completion_tokens=3), "max_completion_tokens", saying="Did you mean 'max_tokens'")


def test_repeat_last_n(http: httpx.Client, fake: FakeServer) -> None:
    assert text(http, repeat_last_n=8).status_code == 200
    assert fake.requests[-1].penalty_last_n == 8
    refused(text(http, repeat_last_n=8, penalty_last_n=9), "repeat_last_n")
    refused(text(http, repeat_last_n=-5), "repeat_last_n")


def test_stop(http: httpx.Client, fake: FakeServer) -> None:
    chat(http, stop="a")
    chat(http, stop=["a", "b"])
    chat(http, stop=[])
    assert [request.stop for request in fake.requests] == [["a"], ["a", "b"], []]
    assert chat(http, stop=["x"] * 16).status_code == 200
    refused(chat(http, stop=["x"] * 17), "stop")
    refused(chat(http, stop=""), "stop")
    refused(chat(http, stop=["a", 1]), "stop[1]")


def test_logit_bias(http: httpx.Client, fake: FakeServer) -> None:
    assert chat(http, logit_bias={"5": -100, "7": 1.5}).status_code == 200
    assert fake.requests[-1].logit_bias == [LogitBias(token=5, bias=-100), LogitBias(token=7, bias=1.5)]
    assert chat(http, logit_bias=[{"token": "cat", "bias": 3}]).status_code == 200
    assert fake.requests[-1].logit_bias == [LogitBias(token="cat", bias=3)]
    refused(chat(http, logit_bias={"cat": 3}), "logit_bias", saying="list")
    refused(chat(http, logit_bias={"5": 101}), "logit_bias[0].bias")
    refused(chat(http, logit_bias={"99999999999": 1}), "logit_bias")
    refused(chat(http, logit_bias={"9999999999": 1}), "logit_bias[0].token")
    refused(chat(http, logit_bias={"٣": 1}), "logit_bias")


def test_logprobs_of_chat(http: httpx.Client, fake: FakeServer) -> None:
    chat(http, logprobs=True)
    chat(http, logprobs=True, top_logprobs=4)
    chat(http, logprobs=False)
    chat(http, top_logprobs=0)
    assert [request.logprobs for request in fake.requests] == [0, 4, UNSET, UNSET]
    refused(chat(http, top_logprobs=2), "top_logprobs", saying="logprobs")
    refused(chat(http, logprobs=True, top_logprobs=101), "top_logprobs", saying="top_logprobs: ")
    refused(chat(http, logprobs=3), "logprobs")


def test_logprobs_of_completions(http: httpx.Client, fake: FakeServer) -> None:
    text(http, logprobs=0)
    text(http, logprobs=5)
    assert [request.logprobs for request in fake.requests] == [0, 5]
    refused(text(http, logprobs=True), "logprobs")
    refused(text(http, logprobs=-1), "logprobs")


# --- constraints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({"response_format": {"type": "text"}}, UNSET),
        ({"response_format": {"type": "json_object"}}, JsonConstraint()),
        ({"response_format": {"type": "json_object", "whitespace": "compact"}}, JsonConstraint(whitespace="compact")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}, "whitespace": "flexible"}},
            JsonConstraint(schema={}, whitespace="flexible"),
        ),
        ({"grammar": {"name": "person"}}, NamedConstraint(name="person")),
        ({"grammar": 'root ::= "a"'}, GrammarConstraint(grammar='root ::= "a"')),
        (
            {"grammar": {"definition": 'start: "a"', "syntax": "lark"}},
            GrammarConstraint(grammar='start: "a"', syntax="lark"),
        ),
        ({"grammar": {"definition": "g", "syntax": None}}, GrammarConstraint(grammar="g")),
        ({"regex": "[ab]+"}, RegexConstraint(pattern="[ab]+")),
        ({"choice": ["yes", "no"]}, ChoiceConstraint(options=["yes", "no"])),
    ],
)
def test_constraints(http: httpx.Client, fake: FakeServer, body: dict[str, Any], constraint: Any) -> None:
    for ask in (chat, text):
        assert ask(http, **body).status_code == 200
        assert fake.requests[-1].constraint == constraint


@pytest.mark.parametrize("strict", [True, False, None])
def test_json_schema(http: httpx.Client, fake: FakeServer, strict: bool | None) -> None:
    asked = {"name": "thing", "description": "A thing.", "schema": SCHEMA, "strict": strict}
    assert chat(http, response_format={"type": "json_schema", "json_schema": asked}).status_code == 200
    # Null in a schema is a value, and what was said beside it is said in it.
    assert fake.requests[-1].constraint == JsonConstraint(
        schema={"title": "thing", "description": "A thing.", **SCHEMA}
    )


def test_wrong_constraints(http: httpx.Client) -> None:
    refused(chat(http, response_format={"type": "xml"}), "response_format.type")
    refused(chat(http, response_format={"type": "json_schema"}), "response_format.json_schema")
    missing = {"type": "json_schema", "json_schema": {"name": "a"}}
    refused(chat(http, response_format=missing), "response_format.json_schema.schema")
    refused(chat(http, response_format={"type": "json_object"}, regex="a"), "regex", saying="Only one")
    refused(chat(http, choice=[]), "choice.options")
    refused(chat(http, grammar={"definition": "a", "syntax": "ebnf"}), "grammar.syntax")
    for grammar in ({}, {"name": "a", "definition": "b"}, {"name": "a", "syntax": "gbnf"}, {"syntax": "lark"}):
        refused(chat(http, grammar=grammar), "grammar", saying="a name alone")
    refused(chat(http, response_format={"type": "json_object", "whitespace": "none"}), "response_format.whitespace")


def test_schemas_are_not_nested_without_end(http: httpx.Client, fake: FakeServer) -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"items": deep}
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": deep}}
    refused(chat(http, response_format=asked), "response_format.json_schema.schema", saying="deep")
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    refused(chat(http, tools=[tool]), "tools[0].function.parameters", saying="deep")
    refused(chat(http, chat_template_kwargs=deep), "chat_template_kwargs", saying="deep")
    assert not fake.requests


# --- tools ----------------------------------------------------------------------------------------------------


def test_tools(http: httpx.Client, fake: FakeServer) -> None:
    assert chat(http, tools=[TOOL, OTHER], parallel_tool_calls=False).status_code == 200
    asked = fake.requests[-1]
    assert asked.tools == [
        Tool(name="add", description="Adds.", parameters=SCHEMA, strict=True),
        Tool(name="sub"),
    ]
    assert asked.parallel_tool_calls is False
    assert asked.tool_choice == "auto"
    assert chat(http, tools=[], tool_choice="none").status_code == 200


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "add"}}, NamedTool(names=["add"])),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "sub"}}]},
            },
            NamedTool(names=["sub"], required=False),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": name}} for name in ("sub", "add")],
                },
            },
            NamedTool(names=["sub", "add"]),
        ),
    ],
)
def test_tool_choice(http: httpx.Client, fake: FakeServer, choice: Any, expected: Any) -> None:
    assert chat(http, tools=[TOOL, OTHER], tool_choice=choice).status_code == 200
    assert fake.requests[-1].tool_choice == expected


def test_wrong_tools(http: httpx.Client) -> None:
    named = {"type": "function", "function": {"name": "mul"}}
    refused(chat(http, tools=[TOOL], tool_choice=named), "tool_choice.function.name", saying="mul")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    refused(chat(http, tools=[TOOL], tool_choice=allowed), "tool_choice.allowed_tools.tools", saying="mul")
    refused(chat(http, tool_choice="required"), "tool_choice", saying="no tools")
    refused(chat(http, tools=[TOOL], tool_choice="always"), "tool_choice")
    refused(chat(http, tools=[TOOL, TOOL]), "tools[1].function.name", saying="add")
    refused(chat(http, tools=[{"type": "custom", "custom": {"name": "a"}}]), "tools[0].type")
    bad = {"type": "function", "function": {"name": "no spaces"}}
    refused(chat(http, tools=[bad]), "tools[0].function.name")
    refused(chat(http, tools=[{"type": "function", "function": {}}]), "tools[0].function.name")


# --- messages -------------------------------------------------------------------------------------------------


def test_messages(http: httpx.Client, fake: FakeServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    echoed: dict[str, Any] = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Or "}, {"type": "text", "text": "not."}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,eA==", "detail": "auto"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm.", **echoed},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "name": "Bob", "tool_calls": None},
        {"role": "assistant", "refusal": "Never."},
        {"role": "system", "content": "Later."},
        {"role": "user", "content": "", "name": "Ann"},
    ]
    assert chat(http, messages=messages).status_code == 200
    assert fake.requests[-1].messages == [
        Message(role="system", content="Be brief."),
        Message(role="system", content=[TextPart(text="Or "), TextPart(text="not.")]),
        Message(role="user", content=[ImagePart(data=b"x")]),
        Message(
            role="assistant",
            reasoning="Hm.",
            tool_calls=[ToolCall(id="call_1", name="add", arguments='{"a": 1}')],
        ),
        Message(role="tool", tool_call_id="call_1", content=[TextPart(text="2")]),
        Message(role="assistant", content=[TextPart(text="No.")], name="Bob"),
        Message(role="assistant", content="Never."),
        Message(role="system", content="Later."),
        Message(role="user", content="", name="Ann"),
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "system", "content": None}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "owner", "content": "a"}, "messages[1].role"),
        ({"role": "function", "name": "f", "content": "a"}, "messages[1].role"),
        ({"content": "a"}, "messages[1].role"),
        ({"role": "user", "content": "a", "color": 1}, "messages[1].color"),
        ({"role": "tool", "content": "a"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "a", "tool_call_id": "x"}, "messages[1].tool_call_id"),
        ({"role": "user", "content": "a", "refusal": "x"}, "messages[1].refusal"),
        ({"role": "assistant", "content": "a", "refusal": "x"}, "messages[1].refusal"),
        ({"role": "assistant", "reasoning": "a", "reasoning_content": "b"}, "messages[1].reasoning"),
        ({"role": "assistant", "content": "a", "annotations": [{}]}, "messages[1].annotations"),
        ({"role": "assistant", "content": "a", "function_call": {"name": "f"}}, "messages[1].function_call"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[1].tool_calls[0].function"),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]},
            "messages[1].content[0].input_audio.data",
        ),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "smell"}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]},
            "messages[1].content[0].image_url.detail",
        ),
        ("hello", "messages[1]"),
    ],
)
def test_wrong_messages(http: httpx.Client, fake: FakeServer, message: Any, param: str) -> None:
    refused(chat(http, messages=[USER, message]), param)
    assert not fake.requests


def test_no_messages(http: httpx.Client) -> None:
    refused(chat(http, messages=[]), "messages")
    refused(chat(http, messages=None), "messages")
    refused(chat(http, messages="hello"), "messages")


def test_template_options(http: httpx.Client, fake: FakeServer) -> None:
    chat(http, reasoning_effort="low")
    chat(http, reasoning_effort="none")
    chat(http, chat_template_kwargs={"a": None})
    chat(http, reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert [request.template_options for request in fake.requests] == [
        {"reasoning_effort": "low", "enable_thinking": True},
        {"reasoning_effort": "none", "enable_thinking": False},
        {"a": None},
        {"reasoning_effort": "high", "enable_thinking": False},
    ]
    refused(chat(http, reasoning_effort="enormous"), "reasoning_effort")
    refused(chat(http, chat_template_kwargs=[1]), "chat_template_kwargs")


def test_continue_final_message(http: httpx.Client, fake: FakeServer) -> None:
    assert chat(http, continue_final_message=True).status_code == 200
    assert fake.requests[-1].continue_final_message is True


# --- text completions -----------------------------------------------------------------------------------------


def test_echo_suffix_and_best_of(http: httpx.Client, fake: FakeServer) -> None:
    assert text(http, echo=True, suffix=" end.", best_of=3, n=2).status_code == 200
    asked = fake.requests[-1]
    assert (asked.echo, asked.suffix, asked.best_of, asked.n) == (True, " end.", 3, 2)
    refused(text(http, best_of=1, n=2), "best_of", saying="at least n")
    refused(text(http, best_of=0), "best_of")
    refused(text(http, best_of=2, stream=True), "best_of", saying="stream")
    assert text(http, best_of=1, stream=True).status_code == 200
    refused(chat(http, best_of=2), "best_of")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", ""], ["a", ""]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_prompts(http: httpx.Client, fake: FakeServer, prompt: Any, expected: list[Any]) -> None:
    assert text(http, prompt=prompt).status_code == 200
    assert [request.prompt for request in fake.requests] == expected


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        (None, "prompt"),
        ({"a": 1}, "prompt"),
        ([1, "a"], "prompt"),
        ([1, [2]], "prompt"),
        ([1.5], "prompt[0]"),
        ([True], "prompt[0]"),
        ([-1], "prompt[0]"),
        ([2**31], "prompt[0]"),
        ([2**70], "prompt[0]"),
        (["a"] * 1025, "prompt"),
    ],
)
def test_wrong_prompts(http: httpx.Client, fake: FakeServer, prompt: Any, param: str) -> None:
    error = refused(text(http, prompt=prompt), None if prompt == [2**70] else param)
    assert error["message"]
    assert not fake.requests


# --- labels and refusals --------------------------------------------------------------------------------------


def test_labels_are_logged(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"user": "u-1", "metadata": {"k": "v"}, "safety_identifier": "s-1", "prompt_cache_key": "p-1"}
    with caplog.at_level(logging.DEBUG, logger="infs.http"):
        assert chat(http, **labels).status_code == 200
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert any(all(word in line for word in ("u-1", "'k': 'v'", "s-1", "p-1")) for line in said)


def test_wrong_labels(http: httpx.Client) -> None:
    refused(chat(http, metadata={str(number): "v" for number in range(17)}), "metadata")
    refused(chat(http, metadata={"k": 1}), "metadata[...]")
    refused(chat(http, metadata={"k": "v" * 513}), "metadata[...]")
    refused(chat(http, metadata={"k" * 65: "v"}), "metadata")
    refused(chat(http, user="v" * 513), "user")


FINE: list[dict[str, Any]] = [
    {"store": False},
    {"service_tier": "auto"},
    {"modalities": ["text"]},
    {"verbosity": "medium"},
    {"prediction": None, "functions": None, "something": None, "audio": None},
]


@pytest.mark.parametrize("body", FINE)
def test_what_changes_nothing_is_taken(http: httpx.Client, body: dict[str, Any]) -> None:
    assert chat(http, **body).status_code == 200


def test_the_tier_is_told(http: httpx.Client) -> None:
    assert chat(http, service_tier="auto").json()["service_tier"] == "default"
    assert "service_tier" not in chat(http).json()
    lines = chat(http, service_tier="default", stream=True).text.split("\n\n")
    assert all(json.loads(line[6:])["service_tier"] == "default" for line in lines if line.startswith("data: {"))


NOT_HERE: dict[str, Any] = {
    "store": True,
    "service_tier": "flex",
    "modalities": ["text", "audio"],
    "verbosity": "low",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit"},
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "a"},
    "moderation": {"model": "m"},
    "web_search_options": {},
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "timings": True,
    "timings_per_token": True,
}


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_cannot_be_had_is_refused_by_name(http: httpx.Client, fake: FakeServer, name: str) -> None:
    error = refused(chat(http, **{name: NOT_HERE[name]}), name, saying=name)
    assert error["code"] == "unsupported"
    assert not fake.requests


def test_unknown_parameters_are_refused(http: httpx.Client) -> None:
    refused(chat(http, temprature=1), "temprature", saying="'temperature'")
    refused(text(http, qqq=1), "qqq", saying="qqq")
    refused(text(http, messages=[USER]), "messages")
    refused(chat(http, **{"x" * 500_000: 1}), "x" * 100)


@pytest.mark.parametrize("value", ["in_memory", "24h"])
def test_how_long_prompts_are_cached_is_no_matter_of_a_request(http: httpx.Client, value: str) -> None:
    for ask in (chat, text):
        error = refused(ask(http, prompt_cache_retention=value), "prompt_cache_retention", saying="options.disk_cache")
        assert error["code"] == "unsupported"
        assert ask(http, prompt_cache_retention=None).status_code == 200


def test_stream_options(http: httpx.Client) -> None:
    refused(chat(http, stream_options={"include_usage": True}), "stream_options", saying="stream")
    refused(chat(http, stream=False, stream_options={}), "stream_options")
    assert chat(http, stream_options=None).status_code == 200
    assert chat(http, stream=True, stream_options={"include_obfuscation": False}).status_code == 200
    both = {"stream": True, "stream_options": {"include_obfuscation": True}}
    refused(chat(http, **both), "stream_options.include_obfuscation")
    refused(chat(http, stream=True, stream_options={"continuous": 1}), "stream_options.continuous")
    refused(chat(http, stream="yes"), "stream")
