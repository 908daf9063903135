"""Messages of a conversation, from a body to the vocabulary."""

from __future__ import annotations

from infs.errors import InvalidRequest, Unsupported
from infs.http.openai.bodies import (
    AudioContent,
    Content,
    FileContent,
    ImageContent,
    MessageBody,
    RefusalContent,
    TextContent,
)
from infs.http.openai.media import Fetched, audio_part, image_part
from infs.types import ContentPart, Message, TextPart, ToolCall

Part = TextContent | RefusalContent | ImageContent | AudioContent | FileContent


def to_message(number: int, body: MessageBody, fetched: Fetched) -> Message:
    """Message `number` of a conversation; images that are elsewhere are in `fetched`.

    Raises:
        InvalidRequest: something in it does not fit its role.
        Unsupported: it holds what no model here can take in.
    """
    where = f"messages[{number}]"
    _check(body, where)
    return Message(
        role="system" if body.role == "developer" else body.role,
        content=_content(body, where, fetched),
        name=body.name,
        reasoning=body.reasoning_content if body.reasoning_content is not None else body.reasoning,
        tool_calls=[
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in body.tool_calls or []
        ],
        tool_call_id=body.tool_call_id,
    )


def _check(body: MessageBody, where: str) -> None:
    if body.role == "assistant":
        if body.content is not None and body.refusal is not None:
            raise InvalidRequest("A message is content or a refusal, not both.", param=f"{where}.refusal")
        if None not in (body.reasoning_content, body.reasoning) and body.reasoning_content != body.reasoning:
            raise InvalidRequest("reasoning and reasoning_content differ; send one.", param=f"{where}.reasoning")
        return
    if body.content is None:
        raise InvalidRequest(f"A message of role {body.role!r} needs content.", param=f"{where}.content")
    for name in ("tool_calls", "refusal", "reasoning_content", "reasoning"):
        if getattr(body, name):
            raise InvalidRequest(f"Only messages of the assistant have {name}.", param=f"{where}.{name}")
    if (body.role == "tool") != (body.tool_call_id is not None):
        raise InvalidRequest(
            "A message of role 'tool', and no other, says in tool_call_id which call it answers.",
            param=f"{where}.tool_call_id",
        )


def _content(body: MessageBody, where: str, fetched: Fetched) -> str | list[ContentPart] | None:
    content: Content | None = body.content if body.content is not None else body.refusal
    if content is None or isinstance(content, str):
        return content
    return [_part(part, f"{where}.content[{number}]", fetched) for number, part in enumerate(content)]


def _part(part: Part, where: str, fetched: Fetched) -> ContentPart:
    if isinstance(part, TextContent):
        return TextPart(text=part.text)
    if isinstance(part, RefusalContent):
        return TextPart(text=part.refusal)
    if isinstance(part, ImageContent):
        if part.image_url.detail not in (None, "auto"):
            raise Unsupported(
                "Images have one level of detail; leave it out, or set it to 'auto'.",
                param=f"{where}.image_url.detail",
            )
        return image_part(part, where, fetched)
    if isinstance(part, AudioContent):
        return audio_part(part, where)
    raise Unsupported("Content of type 'file' is not supported; send text, images or audio.", param=f"{where}.type")
