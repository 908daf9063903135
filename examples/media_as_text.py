"""Images or audio of a conversation put into words, so that a model can answer that reads only text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from combining import CombiningEngine, total
from infs import ChatCompletionRequest, ChatCompletionResult, Event, Message, Progress, Request, Usage
from infs.engines.base import RunContext
from infs.tasks import together
from infs.types import AudioPart, ContentPart, ImagePart, TextPart

REMEMBERED = 256  # texts: a conversation is sent again with each question, its images and audio too


class MediaOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the engines below.

    Attributes:
        reader: the model that puts images, or audio, into words.
        chat: the model that answers.
        instruction: what the reader is asked to do.
        wording: what stands in the place of the medium; ``{number}`` counts from 1, ``{text}`` is what the reader said.
        max_tokens: of what the reader says.
    """

    reader: str
    chat: str
    instruction: str
    wording: str
    max_tokens: int = 256


class MediaAsText(CombiningEngine[MediaOptions]):
    """Replaces the parts of one kind, and has the chat model answer."""

    options_type = MediaOptions
    kind: ClassVar[type[ImagePart] | type[AudioPart]]
    doing: ClassVar[str]

    def __init__(self) -> None:
        self._texts: OrderedDict[bytes, str] = OrderedDict()

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        """How far the reading is, then the chat model's answer as it comes; the usage counts both."""
        assert isinstance(request, ChatCompletionRequest)  # `load` has promised nothing else
        media = self._media(request.messages)
        texts = {digest: self._texts.get(digest, "") for digest in media}
        new = [digest for digest in media if digest not in self._texts]
        usages: list[Usage] = []
        if new:
            done, count = len(media) - len(new), len(media)
            yield Progress(stage="prompt", done=done, total=count, unit="requests", detail=self.doing)
            results = await together([self._read(media[digest], request) for digest in new])
            texts |= {digest: result.text.strip() for digest, result in zip(new, results, strict=True)}
            usages = [result.usage for result in results]
        self._remember(texts)
        asked = replace(request, model=self.options.chat, messages=self._replaced(request.messages, texts))
        async with aclosing(self.answer(asked, total(usages))) as events:
            async for event in events:
                yield event

    def _media(self, messages: list[Message]) -> dict[bytes, ContentPart]:
        """The parts to read, by what they hold."""
        parts = [part for message in messages for part in _parts(message)]
        return {_digest(part): part for part in parts if isinstance(part, self.kind)}

    async def _read(self, part: ContentPart, request: ChatCompletionRequest) -> ChatCompletionResult:
        question = Message(role="user", content=[TextPart(text=self.options.instruction), part])
        return await self.runner.run(
            ChatCompletionRequest(
                model=self.options.reader,
                messages=[question],
                max_tokens=self.options.max_tokens,
                priority=request.priority,
                client=request.client,
            )
        )

    def _remember(self, texts: dict[bytes, str]) -> None:
        for digest, text in texts.items():
            self._texts[digest] = text
            self._texts.move_to_end(digest)
        while len(self._texts) > REMEMBERED:
            self._texts.popitem(last=False)

    def _replaced(self, messages: list[Message], texts: dict[bytes, str]) -> list[Message]:
        numbers = {digest: number for number, digest in enumerate(texts, 1)}

        def words(part: ContentPart) -> ContentPart:
            if not isinstance(part, self.kind):
                return part
            digest = _digest(part)
            return TextPart(text=self.options.wording.format(number=numbers[digest], text=texts[digest]))

        return [_with_parts(message, [words(part) for part in _parts(message)]) for message in messages]


def _parts(message: Message) -> list[ContentPart]:
    return message.content if isinstance(message.content, list) else []


def _with_parts(message: Message, parts: list[ContentPart]) -> Message:
    """`message` with `parts` as its content; plain text where they are only that, a line for each."""
    if not parts:
        return message
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return replace(message, content="\n".join(texts) if len(texts) == len(parts) else parts)


def _digest(part: ContentPart) -> bytes:
    return sha256(part.text.encode() if isinstance(part, TextPart) else part.data).digest()
