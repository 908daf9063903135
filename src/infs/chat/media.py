"""Images and audio in conversations: stand-ins for them while a prompt is written, and how templates mark their places.

A template that knows images gets them as parts of a message's content, and writes a mark of its own in their place,
with what its model expects around it. Which mark that is, is found by trying. Any other template gets stand-ins in the
texts. Either way the prompt has stand-ins in the end, at which it is cut.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from infs.chat.conversation import Conversation, Rendered
from infs.errors import Unsupported
from infs.types import AudioPart, ChatCompletionRequest, ContentPart, ImagePart, Message, TextPart

MediaKind = Literal["image", "audio"]
Write = Callable[[Conversation], str]
"""Renders a template."""

PARTS: Mapping[MediaKind, Sequence[Rendered]] = {
    "image": ({"type": "image"}, {"type": "image_url", "image_url": {"url": ""}}),
    "audio": ({"type": "audio"}, {"type": "input_audio", "input_audio": {}}),
}


@dataclass(frozen=True, eq=False)
class Medium:
    """An image or audio: the bytes of its file, `place`, where it stands in the request, and its `stand_in`."""

    kind: MediaKind
    data: bytes
    place: str
    stand_in: str


@dataclass(frozen=True)
class Mark:
    """How a template is told of a medium (`part` of a content), and the `text` that it writes there."""

    part: Rendered
    text: str


class Media:
    """The media of one request.

    Args:
        kinds: what the model reads.

    Attributes:
        request: it, with stand-ins in place of media.
        all: the media in their order.

    Raises:
        Unsupported: there is one of another kind.
    """

    def __init__(self, request: ChatCompletionRequest, kinds: Set[MediaKind] = frozenset()) -> None:
        check_media(request.messages, kinds)
        self.all: list[Medium] = []
        # Nobody can write a stand-in: it has a number that is drawn anew for each request.
        self._secret = secrets.token_hex(8)
        self._stand_in = re.compile(f"\ue000{self._secret}:medium([0-9]+)\ue001")
        messages = [self._message(index, message) for index, message in enumerate(request.messages)]
        self.request = msgspec.structs.replace(request, messages=messages) if self.all else request

    def pieces(self, text: str) -> Iterator[str | Medium]:
        """`text` cut at its stand-ins, without empty pieces."""
        for index, piece in enumerate(self._stand_in.split(text)):
            if index % 2:
                yield self.all[int(piece)]
            elif piece:
                yield piece

    def without(self, text: str) -> str:
        """`text` without its stand-ins."""
        return self._stand_in.sub("", text) if self.all else text

    def _message(self, index: int, message: Message) -> Message:
        if not isinstance(message.content, list) or not any(_kind(part) for part in message.content):
            return message
        parts = [self._part(part, f"messages[{index}].content[{place}]") for place, part in enumerate(message.content)]
        return msgspec.structs.replace(message, content=parts)

    def _part(self, part: ContentPart, place: str) -> ContentPart:
        if isinstance(part, TextPart):
            return part
        stand_in = f"\ue000{self._secret}:medium{len(self.all)}\ue001"
        self.all.append(Medium("image" if isinstance(part, ImagePart) else "audio", part.data, place, stand_in))
        return TextPart(text=stand_in)


def _kind(part: ContentPart) -> MediaKind | None:
    return "image" if isinstance(part, ImagePart) else "audio" if isinstance(part, AudioPart) else None


def check_media(messages: Sequence[Message], kinds: Set[MediaKind]) -> None:
    """Raise `Unsupported` for the first image or audio that is of none of `kinds`."""
    for index, message in enumerate(messages):
        for place, part in enumerate(message.content if isinstance(message.content, list) else []):
            kind = _kind(part)
            if kind is not None and kind not in kinds:
                raise Unsupported(
                    f"Message {index} has {_names(kind)}, which this model cannot read{_reason(kinds)}.",
                    param=f"messages[{index}].content[{place}]",
                )


def _names(kind: MediaKind) -> str:
    return "an image" if kind == "image" else "audio"


def _reason(kinds: Set[MediaKind]) -> str:
    if kinds:
        names = ["images" if kind == "image" else kind for kind in sorted(kinds, reverse=True)]
        return f": it reads {' and '.join(names)} only"
    return " as it is configured: options.projector names the file (mmproj) that models need for it"


# --- templates that mark media themselves


def find_marks(write: Write) -> dict[MediaKind, Mark]:
    """How the template behind `write` marks media of each kind; kinds that it does not know are missing."""
    return {kind: mark for kind in PARTS if (mark := _find_mark(write, PARTS[kind])) is not None}


def _find_mark(write: Write, parts: Sequence[Rendered]) -> Mark | None:
    for part in parts:
        with contextlib.suppress(Exception):  # a template may raise anything
            if text := _mark_of(write, part):
                return Mark(part, text)
    return None


def _mark_of(write: Write, part: Rendered) -> str:
    """What the template writes for `part`, the same each time; empty where that cannot be told."""
    before, after = ({"type": "text", "text": f"infsprobe{name}"} for name in ("before", "after"))
    bare, one, two = (
        write(Conversation([{"role": "user", "content": content}], []))
        for content in ([before, after], [before, part, after], [before, part, after, part])
    )
    added = [
        text.strip() for text in map(_added, _around(bare, before, after), _around(one, before, after), (1, 1, -1))
    ]
    mark = "".join(added)
    alone = mark in added and [text.count(mark) for text in (bare, one, two)] == [0, 1, 2]
    return mark if mark and alone else ""


def _around(text: str, before: Rendered, after: Rendered) -> tuple[str, str, str]:
    """What stands before, between and after the two texts."""
    if "'text': 'infsprobe" in text or '"text": "infsprobe' in text:
        raise ValueError("the template writes parts as they are")
    first, _, rest = text.partition(before["text"])
    between, found, last = rest.partition(after["text"])
    if not found:
        raise ValueError("the template leaves out a text")
    return first, between, last


def _added(old: str, new: str, direction: int) -> str:
    """What `new` has more than `old`, in one place: the last one possible, or with `direction` -1 the first."""
    old, new = old[::direction], new[::direction]
    differ = (place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    start = next(differ, min(len(old), len(new)))
    if not new.endswith(old[start:]) or len(new) < len(old):
        raise ValueError("the template writes something else")
    return new[start : len(new) - len(old) + start][::direction]


def with_marks(write: Write, media: Media, marks: Mapping[MediaKind, Mark]) -> Write:
    """Renders like `write`, but media are told to the template as parts, and its marks become stand-ins again.

    What it makes raises `ValueError` where there are more marks than media, or less.
    """

    def run(conversation: Conversation) -> str:
        places: dict[str, deque[str]] = {mark.text: deque() for mark in marks.values()}
        told = [_tell(message, media, marks, places) for message in conversation.messages]
        prompt = write(replace(conversation, messages=told))
        marked = re.compile("|".join(map(re.escape, sorted(places, key=len, reverse=True))))
        if Counter(marked.findall(prompt)) != Counter({text: len(found) for text, found in places.items()}):
            raise ValueError("the template does not mark every image or audio once")
        return marked.sub(lambda found: places[found[0]].popleft(), prompt)

    return run


def _tell(
    message: Rendered, media: Media, marks: Mapping[MediaKind, Mark], places: Mapping[str, deque[str]]
) -> Rendered:
    """`message` with media as parts; their stand-ins are added to `places`, by what will mark them."""
    content = message["content"]
    texts: list[Any] = [part["text"] for part in content] if isinstance(content, list) else [content or ""]
    pieces = [piece for text in texts for piece in media.pieces(text)]
    found = [piece for piece in pieces if isinstance(piece, Medium)]
    for medium in found:
        places[marks[medium.kind].text].append(medium.stand_in)
    if not found:
        return message
    parts = [{"type": "text", "text": piece} if isinstance(piece, str) else marks[piece.kind].part for piece in pieces]
    return {**message, "content": parts}
