"""Texts of control tokens that stand in a message stay texts.

A chat template marks turns with control tokens. If a message, or what a tool found on some page, could contain
them, it could pretend to be somebody else. So such texts are replaced by stand-ins before the template is rendered,
and what comes out is cut at the stand-ins: between them control tokens count, in them they are just letters.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator

import msgspec

from infs.types import ChatCompletionRequest, Message, TextPart


class Guard:
    """Knows the control tokens of a vocabulary by their texts."""

    def __init__(self, controls: Iterable[str]) -> None:
        texts = sorted({text for text in controls if len(text) > 1}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts))) if texts else None
        # Nobody can write a stand-in: it has a number that is drawn anew for each model that is loaded.
        self._secret = secrets.token_hex(8)
        self._stand_in = re.compile(f"\ue000{self._secret}:([0-9a-f]+)\ue001")

    def mask(self, request: ChatCompletionRequest) -> ChatCompletionRequest:
        """`request` with stand-ins in its messages; the same one where none are needed."""
        messages = [self._mask_message(message) for message in request.messages]
        if all(new is old for new, old in zip(messages, request.messages, strict=True)):
            return request
        return msgspec.structs.replace(request, messages=messages)

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """A rendered prompt cut at its stand-ins: texts, and whether control tokens count in them."""
        end = 0
        for found in self._stand_in.finditer(text):
            yield text[end : found.start()], True
            yield bytes.fromhex(found[1]).decode("utf-8"), False
            end = found.end()
        yield text[end:], True

    def unmask(self, text: str) -> str:
        """A rendered prompt as it would be without stand-ins."""
        return "".join(piece for piece, _ in self.pieces(text))

    def _mask_message(self, message: Message) -> Message:
        content = message.content
        if isinstance(content, str):
            masked = self._mask_text(content)
            return message if masked is content else msgspec.structs.replace(message, content=masked)
        if not isinstance(content, list) or not any(self._has_control(part) for part in content):
            return message
        parts = [TextPart(text=self._mask_text(p.text)) if isinstance(p, TextPart) else p for p in content]
        return msgspec.structs.replace(message, content=parts)

    def _has_control(self, part: object) -> bool:
        return isinstance(part, TextPart) and self._control is not None and bool(self._control.search(part.text))

    def _mask_text(self, text: str) -> str:
        if self._control is None or self._control.search(text) is None:
            return text
        return self._control.sub(lambda found: f"\ue000{self._secret}:{found[0].encode().hex()}\ue001", text)
