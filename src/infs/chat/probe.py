"""Finds out whether a template keeps everything, by stand-ins that no real text can be confused with."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from infs.chat.media import Media, Medium
from infs.types import Message, Tool, ToolCall


class Probe:
    """Messages and tools of the same shape as those given, with every text replaced by a stand-in.

    Args:
        media: the stand-ins in the messages that are there already; they stay.

    Attributes:
        messages, tools: to be rendered instead of the real ones.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[Tool], media: Media) -> None:
        self._media = media
        self._count = 0
        self._ordered: list[str] = []
        self._anywhere: list[str] = []
        self._broken: list[str] = []
        self.messages = [self._message(message) for message in messages]
        self.tools = [self._tool(tool) for tool in tools]

    def is_kept(self, prompt: str) -> bool:
        """Whether `prompt` has every stand-in, those of the conversation in order, and none as Python would write it.

        System messages may stand anywhere: some templates put them before the last question.
        """
        position = 0
        for text in self._ordered:
            position = prompt.find(text, position)
            if position < 0:
                return False
        return all(text in prompt for text in self._anywhere) and not any(text in prompt for text in self._broken)

    def _stand_in(self) -> str:
        self._count += 1
        return f"infsprobe{self._count}x"

    def _message(self, message: Message) -> Message:
        content = None
        if message.text.strip():
            content = "".join(self._piece(piece, message.role) for piece in self._media.pieces(message.text))
        calls = [self._call(call) for call in message.tool_calls]
        return msgspec.structs.replace(message, content=content, tool_calls=calls)

    def _piece(self, piece: str | Medium, role: str) -> str:
        """A stand-in for a piece of a message. (Templates may put an image elsewhere within its message.)"""
        if isinstance(piece, Medium):
            self._anywhere.append(piece.stand_in)
            return piece.stand_in
        if not piece.strip():
            return piece
        text = self._stand_in()
        (self._anywhere if role == "system" else self._ordered).append(text)
        self._broken += [f"'text': '{text}'", f'"text": "{text}"']
        return text

    def _call(self, call: ToolCall) -> ToolCall:
        name, key, value = self._stand_in(), self._stand_in(), self._stand_in()
        self._anywhere.append(name)
        if not _has_fields(call.arguments):
            return msgspec.structs.replace(call, name=name)
        self._anywhere += [key, value]
        self._broken += [f"'{key}': '{value}'", f'\\"{key}\\"']
        return msgspec.structs.replace(call, name=name, arguments=json.dumps({key: value}))

    def _tool(self, tool: Tool) -> Tool:
        name = self._stand_in()
        self._anywhere.append(name)
        return msgspec.structs.replace(tool, name=name)


def _has_fields(arguments: str) -> bool:
    """Whether the arguments of a call are an object with something in it."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and bool(parsed)
