"""An engine that says what it is told to say, and short ways to ask it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from infs import tool
from infs.engines.base import RunContext
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    Event,
    FinishReason,
    Message,
    Request,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolUse,
    Usage,
)


def calling(*calls: tuple[str, Any], text: str = "", reasoning: str | None = None) -> AssistantMessage:
    """A message that calls; arguments as data, or as the text that the model wrote."""
    made = [
        ToolCall(id=f"call_{number}", name=name, arguments=args if isinstance(args, str) else json.dumps(args))
        for number, (name, args) in enumerate(calls)
    ]
    return AssistantMessage(content=text or None, reasoning=reasoning, tool_calls=made)


def saying(text: str) -> AssistantMessage:
    return AssistantMessage(content=text)


class Scripted(FakeEngine):
    """Says one message after the other, whoever asks, word by word."""

    def __init__(self, *script: AssistantMessage, streams: bool = True, cut: bool = False) -> None:
        super().__init__()
        self.script = list(script)
        self.asked: list[ChatCompletionRequest] = []
        self.streams = streams
        self.cut = cut

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        assert isinstance(request, ChatCompletionRequest)
        self.asked.append(request)
        count = request.n if isinstance(request.n, int) else 1
        choices = [self._choice(index) for index in range(count)]
        for choice in choices if self.streams else []:
            for delta in pieces(choice):
                await asyncio.sleep(0)
                yield delta
        usage = Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=len(self.asked))
        yield ChatCompletionResult(choices=choices, usage=usage)

    def _choice(self, index: int) -> ChatChoice:
        message = self.script.pop(0)
        reason: FinishReason = "tool_calls" if message.tool_calls else "stop"
        return ChatChoice(index=index, message=message, finish_reason="length" if self.cut else reason)


def pieces(choice: ChatChoice) -> list[Delta]:
    said = choice.message
    deltas = [Delta(reasoning=said.reasoning)] if said.reasoning else []
    deltas += [Delta(text=word) for word in re.findall(r"\S+\s*", said.content or "")]
    for number, call in enumerate(said.tool_calls):
        half = len(call.arguments) // 2
        deltas.append(Delta(tool_calls=[ToolCallDelta(index=number, id=call.id, name=call.name)]))
        deltas += [
            Delta(tool_calls=[ToolCallDelta(index=number, arguments=part)])
            for part in (call.arguments[:half], call.arguments[half:])
        ]
    deltas.append(Delta(finish_reason=choice.finish_reason))
    return [replace(delta, index=choice.index) for delta in deltas]


def server_of(engine: FakeEngine, **model: Any) -> InferenceServer:
    return InferenceServer({"m": {"engine": "fake", **model}}, {"fake": lambda: engine})


USER = Message(role="user", content="Hi")


async def run(engine: Scripted, *tools: Tool, **options: Any) -> ChatCompletionResult:
    async with server_of(engine) as server:
        return await server.run(ChatCompletionRequest(model="m", messages=[USER], tools=list(tools), **options))


async def stream(engine: Scripted, *tools: Tool, **options: Any) -> list[Event]:
    """All but how the loading went on."""
    request = ChatCompletionRequest(model="m", messages=[USER], tools=list(tools), **options)
    async with server_of(engine) as server, aclosing(server.stream(request)) as events:
        return [event async for event in events if isinstance(event, Delta | ToolUse | ChatCompletionResult)]


def told(engine: Scripted, run: int = -1) -> list[str]:
    """The results that the model was given before that run."""
    return [message.text for message in engine.asked[run].messages if message.role == "tool"]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers"""
    return a + b


CLIENTS = Tool(name="theirs")


class Place(Struct):
    """A town."""

    city: str


MODULE = '''
from infs import ToolContext, tool

def get_weather(location: str, context: ToolContext) -> str:
    """Get the weather in a location"""
    return f"sunny, 21 degrees"

@tool(timeout=3)
def double(a: int) -> int:
    """Twice"""
    return 2 * a

def raw(arguments):
    return sorted(arguments)

class Group:
    @staticmethod
    def inner() -> str:
        return "inner"

def untyped(a):
    return a

number = 5
'''
