"""Short ways to write requests, and the templates of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from infs.chat.template import ChatTemplate
from infs.types import ChatCompletionRequest, Message, Tool, ToolCall

TEMPLATES = Path(__file__).parent / "templates"

WEATHER = Tool(
    name="get_weather",
    description="The weather in a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ADD = Tool(
    name="add",
    parameters={
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"$ref": "#/$defs/number"}},
        "required": ["a", "b"],
        "$defs": {"number": {"type": "integer"}},
    },
)


def template(name: str) -> ChatTemplate:
    """One of the templates beside this file."""
    return ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(), bos_token="<s>", eos_token="</s>")


def say(role: Literal["system", "user", "assistant", "tool"], content: str | None = None, **fields: Any) -> Message:
    """A message."""
    return Message(role=role, content=content, **fields)


def call(name: str, arguments: str, call_id: str = "call_1") -> ToolCall:
    """A call of a tool."""
    return ToolCall(id=call_id, name=name, arguments=arguments)


def chat(*messages: Message, **fields: Any) -> ChatCompletionRequest:
    """A request."""
    return ChatCompletionRequest(model="m", messages=list(messages), **fields)
