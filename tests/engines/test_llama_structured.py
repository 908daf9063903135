"""Structured output and tools with a real model: what comes out parses and fits, whatever the sampling."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import pytest_asyncio

from infs.errors import InvalidRequest, RequestError, Unsupported
from infs.server import InferenceServer
from infs.types import (
    ChatCompletionResult,
    ChoiceConstraint,
    Constraint,
    Delta,
    GrammarConstraint,
    JsonConstraint,
    LogitBias,
    Message,
    NamedTool,
    RegexConstraint,
    Tool,
    ToolCall,
)
from tests.engines.llama import assistant, chat, demo_server, engine_status, events_of, run_all, text, user
from tests.tiny import files, write_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3},
        "pet": {"anyOf": [{"type": "null"}, {"const": "dog"}]},
    },
    "required": ["name", "age", "colours", "pet"],
    "additionalProperties": False,
}
ASK = "Give me a JSON object with name Ada, age 7."
SAMPLINGS: list[dict[str, Any]] = [{}, *({"temperature": 2.0, "top_k": 0, "min_p": 0.0, "seed": s} for s in (1, 2, 3))]
WEATHER = Tool(
    name="get_weather",
    description="Get the weather in a location",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TIME = Tool(name="get_time", description="Get the current time")
IN_PARIS = "What is the weather in Paris?"


FUNCTION_GEMMA = "{# <start_function_call> <end_function_call> <escape> #}"
HARMONY = "{# <|start|> <|channel|> <|message|> <|call|> #}"
TURNS = "{% for message in messages %}<|user|>{{ message.content }}{% endfor %}<|assistant|>"


@pytest.mark.parametrize(
    ("marks", "liked", "disliked", "ends"),
    [
        (FUNCTION_GEMMA, "<start_function_response>", "<|end|>", True),  # an end of the dialect's only
        (FUNCTION_GEMMA, "<|end|>", "<start_function_response>", True),  # an end of the vocabulary's only
        (HARMONY, "<|return|>", "<|end|>", True),  # an end of both
        (HARMONY, "<|end|>", "<|return|>", False),  # an end of the vocabulary's, which the dialect takes back
    ],
)
async def test_an_answer_ends_with_the_ends_of_its_dialect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: str, liked: str, disliked: str, ends: bool
) -> None:
    monkeypatch.setattr(files, "SPECIAL", (*files.SPECIAL, "<start_function_response>", "<|return|>"))
    path = write_llama(tmp_path / "tiny.gguf", template=marks + TURNS)
    places = [(256 + files.SPECIAL.index(name), bias) for name, bias in ((liked, 100.0), (disliked, -100.0))]
    bias = [LogitBias(token=token, bias=bias) for token, bias in places]
    request = chat(
        "hi", constraint=RegexConstraint(pattern="[ab]{2,}"), max_tokens=60, logit_bias=bias, temperature=0.0
    )
    async with demo_server(file=str(path), sha256=None, context_size=128) as server:
        result = await server.run(request)
    assert re.fullmatch("[ab]{2}" if ends else "[ab]{2,}", result.text)
    assert result.choices[0].finish_reason == ("stop" if ends else "length")


async def test_the_end_of_a_dialect_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that ends the turn cannot stand in the middle, whatever its kind and its text are."""
    monkeypatch.setattr(files, "SPECIAL", (*files.SPECIAL, "<start_function_response>"))
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.USER_DEFINED]
    monkeypatch.setattr(gguf.GGUFWriter, "add_token_types", _with_kinds(kinds))
    path = write_llama(tmp_path / "tiny.gguf", template=FUNCTION_GEMMA + TURNS)
    bias = [LogitBias(token=259, bias=100.0)]
    async with demo_server(file=str(path), sha256=None, context_size=128) as server:
        constraint = RegexConstraint(pattern='"[^"]{99}"')
        result = await server.run(chat("hi", constraint=constraint, max_tokens=20, logit_bias=bias, temperature=0.0))
    assert "<start" not in result.text
    assert result.choices[0].finish_reason == "length"


def _with_kinds(kinds: list[Any]) -> Any:
    real = gguf.GGUFWriter.add_token_types
    return lambda writer, _: real(writer, kinds)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server() as server:
        yield server


def check_person(said: str) -> None:
    person = json.loads(said)
    assert set(person) == {"name", "age", "colours", "pet"}
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 12
    assert 0 <= person["age"] <= 120
    assert 1 <= len(person["colours"]) <= 3
    assert set(person["colours"]) <= {"red", "blue"}
    assert person["pet"] in (None, "dog")


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_json_fits_its_schema(server: InferenceServer, sampling: dict[str, Any]) -> None:
    constraint = JsonConstraint(schema=PERSON)
    for request in (
        chat(ASK, constraint=constraint, n=3, **sampling),
        text("A person: ", constraint=constraint, n=3, **sampling),
    ):
        *before, result = await events_of(server, request)
        for choice in result.choices:  # type: ignore[attr-defined]
            said = choice.message.content if hasattr(choice, "message") else choice.text
            check_person(said)
            assert choice.finish_reason == "stop"
            deltas = [event for event in before if isinstance(event, Delta) and event.index == choice.index]
            assert "".join(delta.text for delta in deltas) == said


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_json_without_a_schema_is_an_object(server: InferenceServer, sampling: dict[str, Any]) -> None:
    result = await server.run(chat(ASK, constraint=JsonConstraint(), max_tokens=400, **sampling))
    if result.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(result.text), dict)
    else:  # at this temperature it may ramble within a string
        assert sampling
        assert result.text.lstrip().startswith("{")


GBNF = 'root ::= greeting " " name\ngreeting ::= "Hello" | "Bye"\nname ::= [A-Z] [a-z]{2,5} "!"'
LARK = 'start: /[0-9]{2}/ ":" MINUTES\nMINUTES: /[0-5][0-9]/\n'
FORMS: list[tuple[Constraint, str]] = [
    (RegexConstraint(pattern=r"[a-f]{3}-\d{2,4}"), r"[a-f]{3}-\d{2,4}"),
    (RegexConstraint(pattern=r"(yes|no), (\w+){1,2}\."), r"(yes|no), \w+\."),
    (ChoiceConstraint(options=["red", "green", "grün 🙂", "red apple"]), "red|green|grün 🙂|red apple"),
    (ChoiceConstraint(options=[""]), ""),
    (GrammarConstraint(grammar=GBNF), r"(Hello|Bye) [A-Z][a-z]{2,5}!"),
    (GrammarConstraint(grammar=LARK, syntax="lark"), r"\d{2}:[0-5]\d"),
]


@pytest.mark.parametrize(("constraint", "pattern"), FORMS)
@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
async def test_output_follows_its_constraint(
    server: InferenceServer, constraint: Constraint, pattern: str, sampling: dict[str, Any]
) -> None:
    requests: list[Any] = [chat("hi", constraint=constraint, n=4, max_tokens=60, **sampling)]
    requests += [text("The ", constraint=constraint, n=4, max_tokens=60, **sampling)]
    for result in await run_all(server, requests):
        for choice in result.choices:
            said = choice.message.content if hasattr(choice, "message") else choice.text
            if choice.finish_reason == "stop":
                assert re.fullmatch(pattern, str(said)), said
            else:
                assert "\\w" in pattern  # only a word has no end of its own


async def test_a_cut_makes_it_end_for_its_length(server: InferenceServer) -> None:
    result = await server.run(chat(ASK, constraint=JsonConstraint(schema=PERSON), max_tokens=4))
    assert result.choices[0].finish_reason == "length"
    assert result.usage.completion_tokens == 4
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(result.text)


async def test_stop_strings_end_it_too(server: InferenceServer) -> None:
    result = await server.run(chat(ASK, constraint=JsonConstraint(schema=PERSON), stop=['"age"']))
    assert result.text.rstrip().endswith(",")
    assert result.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("constraint", "kind", "match"),
    [
        (JsonConstraint(schema={"type": "array", "uniqueItems": True}), Unsupported, "uniqueItems"),
        (JsonConstraint(schema={"type": "nonsense"}), InvalidRequest, "nonsense"),
        (RegexConstraint(pattern="(a"), InvalidRequest, "regex"),
        (RegexConstraint(pattern="(?=a)b"), RequestError, "regex"),
        (GrammarConstraint(grammar="root ::= ("), InvalidRequest, "grammar"),
        (GrammarConstraint(grammar="start: missing", syntax="lark"), InvalidRequest, "missing"),
        (GrammarConstraint(grammar="start: <|nothing|>", syntax="lark"), InvalidRequest, "nothing"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_before_anything_is_generated(
    server: InferenceServer, constraint: Constraint, kind: type[RequestError], match: str
) -> None:
    await server.run(chat("hi", max_tokens=1))
    before = (await engine_status(server))["requests"]
    requests: list[Any] = [chat("hi", constraint=constraint), text("hi", constraint=constraint)]
    for request in requests:
        with pytest.raises(kind, match=match) as caught:
            await server.run(request)
        assert caught.value.param in ("response_format", "regex", "grammar")
    assert (await engine_status(server))["requests"] == before


async def test_a_bias_that_leaves_nothing_to_say_is_an_error(server: InferenceServer) -> None:
    bias = [LogitBias(token=token, bias=-100.0) for token in ("y", "ye", "yes", "n", "no")]
    with pytest.raises(RequestError, match="logit_bias"):
        await server.run(chat("hi", constraint=ChoiceConstraint(options=["yes", "no"]), logit_bias=bias))
    assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"


# --- tools


def calls_of(result: ChatCompletionResult) -> list[ToolCall]:
    return result.choices[0].message.tool_calls


async def test_the_model_calls_a_tool_of_its_own_accord(server: InferenceServer) -> None:
    result = await server.run(chat(IN_PARIS, tools=[WEATHER]))
    (call,) = calls_of(result)
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert call.id
    assert result.choices[0].finish_reason == "tool_calls"
    assert result.choices[0].message.content is None
    answer = await server.run(
        chat(
            user(IN_PARIS),
            Message(role="assistant", tool_calls=[call]),
            Message(role="tool", content="sunny, 21 degrees", tool_call_id=call.id),
            tools=[WEATHER],
        )
    )
    assert "sunny" in answer.text
    assert "21" in answer.text
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
@pytest.mark.parametrize("choice", ["required", NamedTool(names=["get_time"]), NamedTool(names=["get_weather"])])
async def test_a_required_call_is_a_valid_one(server: InferenceServer, choice: Any, sampling: dict[str, Any]) -> None:
    result = await server.run(
        chat(
            "Hello!",
            tools=[TIME, WEATHER],
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=300,
            **sampling,
        )
    )
    (call,) = calls_of(result)
    allowed = choice.names if isinstance(choice, NamedTool) else ["get_time", "get_weather"]
    assert call.name in allowed
    assert call.id.startswith("call_")
    if result.choices[0].finish_reason == "tool_calls":
        arguments = json.loads(call.arguments)
        assert set(arguments) == ({"city"} if call.name == "get_weather" else set())
    else:
        assert sampling
        assert result.choices[0].finish_reason == "length"


async def test_choices_have_calls_with_ids_of_their_own(server: InferenceServer) -> None:
    result = await server.run(chat(IN_PARIS, tools=[WEATHER], tool_choice="required", n=3))
    ids = [call.id for choice in result.choices for call in choice.message.tool_calls]
    assert len(ids) >= 3
    assert len(set(ids)) == len(ids)


async def test_without_a_choice_of_tools_none_is_called(server: InferenceServer) -> None:
    result = await server.run(chat(IN_PARIS, tools=[WEATHER], tool_choice="none", max_tokens=40))
    assert calls_of(result) == []
    assert result.choices[0].finish_reason in ("stop", "length")


async def test_streamed_arguments_are_those_of_the_result(server: InferenceServer) -> None:
    *before, result = await events_of(server, chat(IN_PARIS, tools=[WEATHER], tool_choice="required"))
    assert isinstance(result, ChatCompletionResult)
    pieces = [call for event in before if isinstance(event, Delta) for call in event.tool_calls]
    calls = calls_of(result)
    for index, call in enumerate(calls):
        mine = [piece for piece in pieces if piece.index == index]
        assert (mine[0].id, mine[0].name) == (call.id, call.name)
        assert all(piece.id is None and piece.name is None for piece in mine[1:])
        assert "".join(piece.arguments for piece in mine) == call.arguments
    assert len(pieces) > len(calls)  # they came in pieces
    assert not any(event.text for event in before if isinstance(event, Delta))


async def test_a_tool_that_is_not_there_is_refused(server: InferenceServer) -> None:
    with pytest.raises(InvalidRequest, match="get_weather"):
        await server.run(chat("hi", tools=[TIME], tool_choice=NamedTool(names=["get_weather"])))


async def test_reasoning_stays_apart(server: InferenceServer) -> None:
    *before, result = await events_of(server, chat("What is 3 plus 4? /think"))
    assert isinstance(result, ChatCompletionResult)
    message = result.choices[0].message
    assert message.reasoning == "3 plus 4 is 7."
    assert message.content == "The answer is 7."
    deltas = [event for event in before if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas) == message.reasoning
    assert "".join(delta.text for delta in deltas) == message.content


async def test_what_was_reasoned_may_be_sent_back(server: InferenceServer) -> None:
    first = (await server.run(chat("What is 3 plus 4? /think"))).choices[0].message
    told = Message(role="assistant", content=first.content, reasoning=first.reasoning)
    result = await server.run(chat(user("What is 3 plus 4? /think"), told, user("Count from 1 to 5.")))
    assert result.text == "1, 2, 3, 4, 5"
    assert assistant("x").reasoning is None
