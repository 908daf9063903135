"""The official client, sync and async, gets what it expects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from infs import errors
from infs.types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionResult,
    Delta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.http.fake_server import CHAT, EMBED, TEXT, FakeServer
from tests.http.test_answers import scored_chat, script
from tests.http.test_parameters import TOOL

MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="session")
def session_client(shared: tuple[FakeServer, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared[1]}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def client(session_client: openai.OpenAI, fake: FakeServer) -> openai.OpenAI:
    return session_client


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=MESSAGES, n=2)
    assert [choice.message.content for choice in answer.choices] == ["Hello, world"] * 2
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer._request_id is not None


def test_chat_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, world"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.usage is not None
    assert last.usage.total_tokens == 10


def test_chat_with_the_stream_helper(client: openai.OpenAI, fake: FakeServer) -> None:
    with client.chat.completions.stream(model=CHAT, messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello, world"
    assert "content.done" in kinds
    fake.script = scored_chat
    with client.chat.completions.stream(model=CHAT, messages=MESSAGES, logprobs=True) as stream:
        stream.until_done()
        logprobs = stream.get_final_completion().choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4


def test_a_tool_call_with_the_stream_helper(client: openai.OpenAI, fake: FakeServer) -> None:
    call = ToolCall(id="call_1", name="add", arguments='{"a":1}')
    said = ChatChoice(index=0, message=AssistantMessage(tool_calls=[call]), finish_reason="tool_calls")
    fake.script = script(
        Delta(tool_calls=[ToolCallDelta(index=0, id="call_1", name="add", arguments='{"a"')]),
        Delta(tool_calls=[ToolCallDelta(index=0, arguments=":1}")]),
        Delta(finish_reason="tool_calls"),
        ChatCompletionResult(choices=[said], usage=Usage()),
    )
    tools: Any = [TOOL]
    with client.chat.completions.stream(model=CHAT, messages=MESSAGES, tools=tools) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].message
    whole = client.chat.completions.create(model=CHAT, messages=MESSAGES, tools=tools).choices[0].message
    for message in (streamed, whole):
        assert message.content is None
        assert message.tool_calls is not None
        assert message.tool_calls[0].id == "call_1"
        assert message.tool_calls[0].type == "function"
        assert message.tool_calls[0].function.arguments == '{"a":1}'
    # What came goes back as it is, in the next turn.
    again: Any = [*MESSAGES, whole.model_dump(), {"role": "tool", "tool_call_id": "call_1", "content": "2"}]
    client.chat.completions.create(model=CHAT, messages=again)
    assert fake.requests[-1].messages[1].tool_calls == [call]


def test_an_answer_goes_back_as_a_message(client: openai.OpenAI, fake: FakeServer) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=MESSAGES).choices[0].message
    again: Any = [*MESSAGES, answer.model_dump(), {"role": "user", "content": "More"}]
    client.chat.completions.create(model=CHAT, messages=again)
    assert fake.requests[-1].messages[1].content == "Hello, world"


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=TEXT, prompt=["a", "b"], logprobs=1)
    assert [choice.text for choice in answer.choices] == ["Hello, world"] * 2
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset == [0, 5, 7]
    streamed = client.completions.create(model=TEXT, prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "Hello, world"


def test_embeddings(client: openai.OpenAI) -> None:
    for encoding in (openai.omit, "float", "base64"):
        answer = client.embeddings.create(model=EMBED, input=["a", "b"], dimensions=2, encoding_format=encoding)
        assert [one.index for one in answer.data] == [0, 1]
        if encoding != "base64":  # asked for by the user, it stays as it is
            assert answer.data[1].embedding == pytest.approx([1.0, 1.1])


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [CHAT, TEXT, EMBED]
    assert client.models.retrieve(CHAT).id == CHAT
    assert client.models.retrieve(TEXT).owned_by == "infs"


async def test_async(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model=CHAT, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello, world"
    stream = await async_client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True)
    text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(text) == "Hello, world"
    completion = await async_client.completions.create(model=TEXT, prompt="a")
    assert completion.choices[0].text == "Hello, world"
    pieces = await async_client.completions.create(model=TEXT, prompt="a", stream=True)
    assert "".join([piece.choices[0].text async for piece in pieces]) == "Hello, world"
    vectors = await async_client.embeddings.create(model=EMBED, input="a")
    assert vectors.data[0].embedding == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [model.id async for model in async_client.models.list()] == [CHAT, TEXT, EMBED]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (errors.InvalidRequest("a", param="n"), openai.BadRequestError),
        (errors.ContextLengthExceeded("a", param="messages"), openai.BadRequestError),
        (errors.QueueFull("a"), openai.RateLimitError),
        (errors.ServerClosed("a"), openai.InternalServerError),
        (errors.WorkerDied("a"), openai.InternalServerError),
    ],
)
def test_errors_become_its_exceptions(
    client: openai.OpenAI,
    fake: FakeServer,
    failure: errors.InfsError,
    expected: type[openai.APIStatusError],
    stream: bool,
) -> None:
    fake.script = script(failure)
    with pytest.raises(expected) as caught:
        client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=stream)
    assert caught.value.code == failure.code
    assert caught.value.param == failure.param
    assert caught.value.status_code == failure.status
    assert caught.value.request_id is not None


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="none", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_a_failure_in_mid_stream(client: openai.OpenAI, fake: FakeServer) -> None:
    fake.script = script(Delta(text="Hel"), errors.GenerationFailed("It broke."))
    stream = client.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match=r"It broke\.") as caught:
        list(stream)
    assert caught.value.code == "generation_failed"
    assert not isinstance(caught.value, openai.APIConnectionError)


async def test_a_failure_in_mid_stream_async(async_client: openai.AsyncOpenAI, fake: FakeServer) -> None:
    fake.script = script(Delta(text="Hel"), errors.WorkerDied("Gone."))
    stream = await async_client.completions.create(model=TEXT, prompt="a", stream=True)
    with pytest.raises(openai.APIError, match=r"Gone\."):
        async for _ in stream:
            pass
