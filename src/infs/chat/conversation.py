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
from functools import partial
from typing import Any

from infs.chat.dialects import Dialect
from infs.types import Message, Tool, ToolCall

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


def split_calls(conversation: Conversation) -> Conversation:
    """Messages with one call each, followed by its answer, for a template that takes no more."""
    messages = conversation.messages
    split: list[Rendered] = []
    placed: set[int] = set()
    for index, message in enumerate(messages):
        if index in placed:
            continue
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            split.append(message)
            continue
        answers = _answers(messages, index + 1)
        for number, call in enumerate(calls):
            rest = {} if number == 0 else {"content": None if message["content"] is None else ""}
            split.append({**message, **rest, "tool_calls": [call]})
            if (place := answers.get(call["id"])) is not None:
                split.append(messages[place])
                placed.add(place)
    return replace(conversation, messages=split)


def _answers(messages: list[Rendered], start: int) -> dict[str, int]:
    """Where the answers of tools stand that follow from `start` on, by the ids of their calls."""
    found: dict[str, int] = {}
    for place in range(start, len(messages)):
        if messages[place]["role"] != "tool":
            break
        found.setdefault(messages[place].get("tool_call_id", ""), place)
    return found


def describe_tools(conversation: Conversation) -> Conversation:
    """Tools and their arguments with descriptions, be they empty: some templates cannot do without."""
    return replace(conversation, tools=[_described_tool(tool) for tool in conversation.tools])


def tell_tools(conversation: Conversation, dialect: Dialect) -> Conversation:
    """Tools as plain text, for a template that cannot show them."""
    if not conversation.tools:
        return conversation
    told = {"role": "system", "content": _instructions(conversation.tools, dialect)}
    return Conversation([told, *conversation.messages], [])


def flatten_tools(conversation: Conversation, dialect: Dialect) -> Conversation:
    """Tools, calls and answers as plain text, for a template that knows none of them."""
    messages = [_flat(message, dialect) for message in conversation.messages]
    return tell_tools(replace(conversation, messages=messages), dialect)


def as_parts(conversation: Conversation) -> Conversation:
    """Contents as lists of parts, for templates that know no other kind."""
    messages = [
        {**message, "content": [{"type": "text", "text": message["content"]}] if message["content"] else []}
        for message in conversation.messages
    ]
    return replace(conversation, messages=messages)


def candidates(conversation: Conversation, dialect: Dialect) -> Iterator[tuple[Adaptation, Form]]:
    """The adaptations and forms to try, the least change first; `dialect` is that in which the model writes calls."""
    for steps in _orders(conversation, dialect):
        for form in forms(conversation):
            yield _chain(steps), form


def _orders(conversation: Conversation, dialect: Dialect) -> list[list[Adaptation]]:
    orders: list[list[Adaptation]] = [
        [],
        [merge_system],
        [fold_system],
        [merge_system, merge_roles],
        [fold_system, merge_roles],
    ]
    orders += [[*steps, as_parts] for steps in orders]
    if any(len(message.get("tool_calls", [])) > 1 for message in conversation.messages):
        orders += [[split_calls, *steps] for steps in orders]
    plain = list(orders)
    if conversation.tools:
        orders += [[describe_tools, *steps] for steps in plain]
    if conversation.tools and conversation.has_calls:
        orders += [[partial(tell_tools, dialect=dialect), *steps] for steps in plain]
    if conversation.tools or conversation.has_calls:
        orders += [[partial(flatten_tools, dialect=dialect), *steps] for steps in plain]
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


def _instructions(tools: Sequence[Rendered], dialect: Dialect) -> str:
    """What a model is told whose template cannot show it `tools`."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    form = dialect.write("function_name", '{"argument_name": "value"}')
    return (
        f"You can call these functions:\n{listed}\n\n"
        f"To call one, answer in this form, and with nothing else, with its name and its arguments:\n{form}"
    )


def _described_tool(tool: Rendered) -> Rendered:
    function = tool["function"]
    parameters = function["parameters"]
    properties = parameters.get("properties")
    if isinstance(properties, dict):
        parts = {
            key: {"description": "", **part} if isinstance(part, dict) else part for key, part in properties.items()
        }
        parameters = {**parameters, "properties": parts}
    return {**tool, "function": {"description": "", **function, "parameters": parameters}}


def _flat(message: Rendered, dialect: Dialect) -> Rendered:
    if message["role"] == "tool":
        name = message.get("name", "the tool")
        return {"role": "user", "content": f"Result of {name}: {message['content']}"}
    calls = [_call_text(call["function"], dialect) for call in message.get("tool_calls", [])]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": _paragraphs(message["content"], *calls)} if calls else kept


def _call_text(function: Rendered, dialect: Dialect) -> str:
    """A call as the model writes it; `function` has arguments as an object or as JSON text."""
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return dialect.write(function["name"], text or "{}")
