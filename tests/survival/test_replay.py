"""Streams that outlive their engines: real workers of the demo model, killed in the middle of what they say."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infs.codec import AnyFrame, Happened
from infs.demo import MODEL_ID
from infs.server import InferenceServer
from infs.testing import demo_server
from infs.types import (
    UNSET,
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    Event,
    JsonConstraint,
    Message,
    Request,
    Result,
    TextCompletionRequest,
    TextCompletionResult,
    Tool,
    ToolCallDelta,
    Usage,
)
from infs.worker.client import WorkerClient

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 of a process is POSIX"),
    pytest.mark.asyncio(loop_scope="module"),
]

SCHEMA = {
    "type": "object",
    "properties": {f"field{number}": {"type": "string", "minLength": 20, "maxLength": 40} for number in range(8)},
    "required": [f"field{number}" for number in range(8)],
    "additionalProperties": False,
}

WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
        "additionalProperties": False,
    },
)


def text(**options: Any) -> TextCompletionRequest:
    settings = {"max_tokens": 60, "ignore_eos": True, "seed": 11, **options}
    return TextCompletionRequest(model=MODEL_ID, prompt="Once upon a time", **settings)


def chat(question: str, **options: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(
        model=MODEL_ID, messages=[Message(role="user", content=question)], **{"seed": 11, **options}
    )


REQUESTS: dict[str, TextCompletionRequest | ChatCompletionRequest] = {
    "greedy": text(temperature=0),
    "sampled": text(temperature=1.2),
    "mirostat": text(temperature=1.0, mirostat=2),
    "xtc": text(temperature=1.5, xtc_probability=0.5, xtc_threshold=0.05, min_p=0.0),
    "greedy with penalties": text(temperature=0, repeat_penalty=1.3, penalty_last_n=-1),
    "sampled with penalties": text(temperature=1.1, frequency_penalty=0.7, dry_multiplier=0.8),
    "log-probabilities": text(temperature=1.0, logprobs=2, max_tokens=40),
    "log-probabilities, echo": text(temperature=0, logprobs=0, echo=True, max_tokens=40),
    "stop": text(temperature=0, stop=["zzzz"]),
    "schema": text(temperature=1.0, ignore_eos=UNSET, constraint=JsonConstraint(schema=SCHEMA)),
    "schema, log-probabilities": text(
        temperature=1.0, ignore_eos=UNSET, constraint=JsonConstraint(schema=SCHEMA), logprobs=0
    ),
    "chat": chat("Count from 1 to 20.", temperature=0),
    "tool call": chat("What is the weather in Paris?", temperature=0, tools=[WEATHER], tool_choice="required"),
}

KILLS = {"sampled": {3, 9, 30}, "tool call": {2}}  # after which frames, where it is not after the fourth


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server(options={"disk_cache": 0, "target_latency": 0.25}, max_sequences=4) as server:
        yield server


async def killing(
    server: InferenceServer, request: Request[Any], after: set[int], monkeypatch: pytest.MonkeyPatch
) -> list[Event]:
    """The events of `request`, whose worker is killed after these of its frames.

    What it sent in the moment before it noticed is lost, as it is when a machine is slow: the demo model says a lot
    in a millisecond.
    """
    killed: set[WorkerClient] = set()
    count = 0
    take = WorkerClient._take

    def take_and_kill(client: WorkerClient, frame: AnyFrame) -> None:
        nonlocal count
        if client in killed:
            return
        take(client, frame)
        if isinstance(frame, Happened) and frame.id and any(b"delta" in event for event in map(bytes, frame.events)):
            count += 1
            if count in after and client.pid is not None:
                killed.add(client)
                os.kill(client.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerClient, "_take", take_and_kill)
        return [event async for event in server.stream(request)]


def said(events: list[Event]) -> tuple[dict[int, str], dict[int, list[Any]], str]:
    """What the deltas say: texts and tokens with log-probabilities by choice, and the calls."""
    texts: dict[int, str] = {}
    tokens: dict[int, list[Any]] = {}
    calls: list[ToolCallDelta] = []
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.text
            tokens.setdefault(event.index, []).extend(token.token for token in event.logprobs)
            calls += event.tool_calls
    return texts, tokens, "".join(f"{call.name or ''}{call.arguments}" for call in calls)


def outcome(result: Event) -> Any:
    """The result, without what differs from run to run: ids, and what the cache knew."""
    assert isinstance(result, TextCompletionResult | ChatCompletionResult)
    usage = Usage(prompt_tokens=result.usage.prompt_tokens, completion_tokens=result.usage.completion_tokens)
    if isinstance(result, ChatCompletionResult):
        message = result.choices[0].message
        return usage, message.content, [(call.name, call.arguments) for call in message.tool_calls]
    return usage, [(choice.text, choice.finish_reason) for choice in result.choices]


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_stream_goes_on_as_if_nothing_had_happened(
    server: InferenceServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that are computed together come out a little different from tokens one by one, so that once in a while
    chance takes the other one of two; with a wrong state it would do so at once, and with every seed."""
    seeds = [11] if REQUESTS[name].set_options()["temperature"] == 0 else [11, 12, 13]
    for seed in seeds:
        request = msgspec.structs.replace(REQUESTS[name], seed=seed)
        whole = [event async for event in server.stream(request)]
        replays = (await server.status()).models[MODEL_ID].replays
        events = await killing(server, request, KILLS.get(name, {4}), monkeypatch)
        assert (await server.status()).models[MODEL_ID].replays > replays
        assert sum(isinstance(event, Result) for event in events) == 1
        if (same := said(events) == said(whole)) and outcome(events[-1]) == outcome(whole[-1]):
            return
        assert seed != seeds[-1], (same, said(events), said(whole))


async def test_calls_keep_their_ids(server: InferenceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    request = REQUESTS["tool call"]
    events = await killing(server, request, {1, 3}, monkeypatch)
    ids = [call.id for event in events if isinstance(event, Delta) for call in event.tool_calls if call.id]
    assert isinstance(events[-1], ChatCompletionResult)
    assert [call.id for call in events[-1].choices[0].message.tool_calls] == ids


async def test_all_choices_of_a_request_go_on(server: InferenceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    events = await killing(server, text(temperature=1.2, n=3, max_tokens=40), {10}, monkeypatch)
    result = events[-1]
    assert isinstance(result, TextCompletionResult)
    assert said(events)[0] == {choice.index: choice.text for choice in result.choices}
    assert result.usage.completion_tokens == 120
    assert len({choice.text for choice in result.choices}) == 3


async def test_without_a_seed_a_stream_goes_on_too(server: InferenceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    request = text(temperature=1.5, seed=UNSET)
    events = await killing(server, request, {2, 40}, monkeypatch)
    assert isinstance(events[-1], TextCompletionResult)
    assert said(events)[0][0] == events[-1].text
    assert events[-1].usage.completion_tokens == 60
    other = await server.run(request)
    assert other.text != events[-1].text, "chance is not the same for two requests"
