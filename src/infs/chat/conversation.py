"""Messages as chat templates want them, and the ways to adapt them to templates that want less.

Templates differ: some refuse a system message, some silently drop a second one, some insist that user and
assistant alternate, some know no tools. Each adaptation here gives one of those a conversation that it accepts,
with every text still in it. Which one is needed is found by trying (`template.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infs.chat.dialects import generic
from infs.errors import Unsupported
from infs.types import ImagePart, Message, Tool, ToolCall

Rendered = dict[str, Any]
"""One message as a template sees it."""


@dataclass(frozen=True)
class Form:
    """How the details of tool calls are written, which templates disagree about.

    Attributes:
        objects: arguments are objects, rather than JSON text.
        null: the content of a message that only calls tools is none, rather than empty.
        short_ids: the ids of calls are nine letters and digits.
    """

    objects: bool = True
    null: bool = True
    short_ids: bool = False


@dataclass(frozen=True)
class Conversation:
    """What goes into a template: messages, and tools in the form of OpenAI's API."""

    messages: list[Rendered]
    tools: list[Rendered]

    @property
    def has_calls(self) -> bool:
        """Whether any message calls a tool or answers a call."""
        return any(message["role"] == "tool" or "tool_calls" in message for message in self.messages)


def convert(messages: Sequence[Message], tools: Sequence[Tool], form: Form = Form()) -> Conversation:
    """The messages and tools of a request, for a template."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return Conversation([_message(message, names, form) for message in messages], [tool_object(tool) for tool in tools])


def forms(conversation: Conversation) -> list[Form]:
    """The forms to try: more than one only where there are calls to write."""
    if not conversation.has_calls:
        return [Form()]
    return [
        Form(objects=objects, null=null, short_ids=short_ids)
        for short_ids in (False, True)
        for null in (True, False)
        for objects in (True, False)
    ]


def check_images(messages: Sequence[Message]) -> None:
    """Raise `Unsupported` for the first message with an image."""
    for index, message in enumerate(messages):
        if isinstance(message.content, list) and any(isinstance(part, ImagePart) for part in message.content):
            raise Unsupported(
                f"Message {index} has an image, which this model cannot see.", param=f"messages[{index}].content"
            )


def tool_object(tool: Tool) -> Rendered:
    """A tool as OpenAI's API writes it."""
    function: Rendered = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _message(message: Message, names: dict[str, str], form: Form) -> Rendered:
    text: str | None = message.text
    if form.null and message.tool_calls and not text:
        text = None
    made: Rendered = {"role": message.role, "content": text}
    name = message.name or (names.get(message.tool_call_id or "") if message.role == "tool" else None)
    if name is not None:
        made["name"] = name
    if message.reasoning is not None:
        made["reasoning_content"] = message.reasoning
    if message.tool_calls:
        made["tool_calls"] = [_call(call, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        made["tool_call_id"] = _id(message.tool_call_id, form)
    return made


def _call(call: ToolCall, form: Form) -> Rendered:
    arguments: Any = call.arguments
    if form.objects:
        arguments = _object(call.arguments)
    return {
        "id": _id(call.id, form),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _object(arguments: str) -> Any:
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _id(call_id: str, form: Form) -> str:
    return hashlib.sha256(call_id.encode()).hexdigest()[:9] if form.short_ids else call_id


# --- adaptations ----------------------------------------------------------------------------------------------

Adaptation = Callable[[Conversation], Conversation]


def merge_system(conversation: Conversation) -> Conversation:
    """All system messages as one, at the beginning."""
    system, rest = _split(conversation)
    return replace(conversation, messages=[{"role": "system", "content": system}, *rest] if system else rest)


def fold_system(conversation: Conversation) -> Conversation:
    """The text of all system messages at the beginning of the first user message."""
    system, rest = _split(conversation)
    if not system:
        return replace(conversation, messages=rest)
    for index, message in enumerate(rest):
        if message["role"] == "user":
            rest[index] = {**message, "content": _paragraphs(system, message["content"])}
            return replace(conversation, messages=rest)
    return replace(conversation, messages=[{"role": "user", "content": system}, *rest])


def merge_roles(conversation: Conversation) -> Conversation:
    """Neighbours of the same role as one message; answers of tools stay apart."""
    merged: list[Rendered] = []
    for message in conversation.messages:
        if merged and message["role"] == merged[-1]["role"] != "tool":
            merged[-1] = _join(merged[-1], message)
        else:
            merged.append(message)
    return replace(conversation, messages=merged)


def flatten_tools(conversation: Conversation) -> Conversation:
    """Tools, calls and answers as plain text, for a template that knows none of them."""
    messages = [_flat(message) for message in conversation.messages]
    if conversation.tools:
        instructions = generic.instructions(conversation.tools)
        messages = [{"role": "system", "content": instructions}, *messages]
    return Conversation(messages, [])


def as_parts(conversation: Conversation) -> Conversation:
    """Contents as lists of parts, for templates that know no other kind."""
    messages = [
        {**message, "content": [{"type": "text", "text": message["content"]}] if message["content"] else []}
        for message in conversation.messages
    ]
    return replace(conversation, messages=messages)


def candidates(conversation: Conversation) -> Iterator[tuple[Adaptation, Form]]:
    """The adaptations and forms to try, the least change first."""
    for steps in _orders(conversation):
        for form in forms(conversation):
            yield _chain(steps), form


def _orders(conversation: Conversation) -> list[list[Adaptation]]:
    orders: list[list[Adaptation]] = [
        [],
        [merge_system],
        [fold_system],
        [merge_system, merge_roles],
        [fold_system, merge_roles],
    ]
    orders += [[*steps, as_parts] for steps in orders]
    if conversation.tools or conversation.has_calls:
        orders += [[flatten_tools, *steps] for steps in orders]
    return orders


def _chain(steps: list[Adaptation]) -> Adaptation:
    def run(conversation: Conversation) -> Conversation:
        for step in steps:
            conversation = step(conversation)
        return conversation

    return run


def _split(conversation: Conversation) -> tuple[str, list[Rendered]]:
    system = [message["content"] for message in conversation.messages if message["role"] == "system"]
    return _paragraphs(*system), [message for message in conversation.messages if message["role"] != "system"]


def _paragraphs(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _join(first: Rendered, second: Rendered) -> Rendered:
    joined = {**first, **second, "content": _paragraphs(first["content"], second["content"])}
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    return {**joined, "tool_calls": calls} if calls else joined


def _flat(message: Rendered) -> Rendered:
    if message["role"] == "tool":
        name = message.get("name", "the tool")
        return {"role": "user", "content": f"Result of {name}: {message['content']}"}
    calls = [generic.call_text(call["function"]) for call in message.get("tool_calls", [])]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": _paragraphs(message["content"], *calls)} if calls else kept
