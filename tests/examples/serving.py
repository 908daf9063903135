"""Short ways to ask the examples' engines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from infs.config import ModelConfig
from infs.engines.base import EngineSpec
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import ChatCompletionRequest, ChatCompletionResult, ContentPart, Event, Message, TextPart, Usage


def server_of(spec: EngineSpec, options: Mapping[str, Any], engines: Mapping[str, FakeEngine]) -> InferenceServer:
    """A server with the model ``m`` of an example's engine, and a model for each of `engines`."""
    models = {"m": ModelConfig(engine=spec.name, options=dict(options))}
    models |= {name: ModelConfig(engine=name) for name in engines}
    return InferenceServer(models, {spec.name: spec, **{name: lambda e=e: e for name, e in engines.items()}})  # type: ignore[misc]


def says(*parts: ContentPart | str) -> Message:
    return Message(role="user", content=[TextPart(text=part) if isinstance(part, str) else part for part in parts])


def ask(*messages: Message, **options: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=list(messages), **options)


async def events_of(
    server: InferenceServer, request: ChatCompletionRequest
) -> tuple[list[Event], ChatCompletionResult]:
    """All events before the result, and the result."""
    async with aclosing(server.stream(request)) as stream:
        *events, result = [event async for event in stream]
    assert isinstance(result, ChatCompletionResult)
    return events, result


def usage(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def chats(engine: FakeEngine) -> list[list[Message]]:
    """The conversations that `engine` was asked to go on with."""
    return [request.messages for request in engine.requests if isinstance(request, ChatCompletionRequest)]
