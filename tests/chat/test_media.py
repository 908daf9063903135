"""Images and audio in prompts: stand-ins at the places where the template marks them, or where they are in the text."""

from __future__ import annotations

from typing import Any

import pytest

from infs.chat.guard import Guard
from infs.chat.media import Media, Medium
from infs.chat.template import ChatTemplate
from infs.errors import InvalidRequest, Unsupported
from infs.types import AudioPart, ChatCompletionRequest, ContentPart, ImagePart, Message, TextPart
from tests.chat.shapes import WEATHER, call, chat, say, template
from tests.chat.test_template import ALL

BOTH: Any = frozenset({"image", "audio"})
ONE, TWO, SOUND = ImagePart(data=b"one"), ImagePart(data=b"two"), AudioPart(data=b"sound")


def parts(*found: ContentPart | str, role: Any = "user") -> Message:
    return Message(role=role, content=[TextPart(text=part) if isinstance(part, str) else part for part in found])


def marking(part: str, *, role: str = "<{{ m.role }}>") -> str:
    """A template that writes `part` for each part of a content that is no text."""
    return (
        "{%- for m in messages -%}" + role + "{%- if m.content is string -%}{{ m.content }}{%- else -%}"
        "{%- for p in m.content -%}{%- if p.type == 'text' -%}{{ p.text }}{%- else -%}" + part + "{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{%- endfor -%}{%- if add_generation_prompt %}<assistant>{% endif -%}"
    )


IMAGES = marking("{%- if p.type == 'image' -%}<s><image></s>{%- endif -%}")
URLS = marking("{%- if p.type == 'image_url' -%}[IMG]{%- else -%}{{ raise_exception('no such part') }}{%- endif -%}")
NUMBERED = "{%- set n = namespace(x=0) -%}" + marking("{%- set n.x = n.x + 1 -%}<|image_{{ n.x }}|>")
COUNTED = marking("<image>", role="<{{ m.content | length }}>")
FIRST = (
    "{%- for m in messages -%}<{{ m.role }}>{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for p in m.content if p.type != 'text' -%}{{- '<image>\n' -}}{%- endfor -%}"
    "{%- for p in m.content if p.type == 'text' -%}{{ p.text }}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
TEXTS = "{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% endfor %}"
BLIND = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text or '' }}{% endfor %}{% endfor %}"


def rendered(source: str | None, request: ChatCompletionRequest, kinds: Any = BOTH) -> list[str | bytes]:
    """The prompt of `request`: texts, and the data of media between them."""
    media, chat_template = Media(request, kinds), ChatTemplate(source)
    text = chat_template.render(media.request, media=media)
    return [piece.data if isinstance(piece, Medium) else piece for piece in media.pieces(text)]


# --- what is there


def test_media_are_numbered_and_known_by_their_places() -> None:
    media = Media(chat(say("user", "a"), parts("b", ONE, SOUND), parts(TWO, role="assistant"), say("user", "c")), BOTH)
    assert [(m.kind, m.data, m.place) for m in media.all] == [
        ("image", b"one", "messages[1].content[1]"),
        ("audio", b"sound", "messages[1].content[2]"),
        ("image", b"two", "messages[2].content[0]"),
    ]
    text = "".join(message.text for message in media.request.messages)
    assert list(media.pieces(text)) == ["ab", *media.all, "c"]
    assert media.without(text) == "abc"


def test_a_request_without_media_stays_the_same() -> None:
    request = chat(say("user", "a"), parts("b", "c"))
    media = Media(request)
    assert media.request is request
    assert list(media.pieces("x")) == ["x"]
    assert list(media.pieces("")) == []


def test_nobody_can_write_a_stand_in() -> None:
    old = Media(chat(parts(ONE)), BOTH).request.messages[0].text
    media = Media(chat(parts(old, TWO)), BOTH)
    pieces = list(media.pieces(media.request.messages[0].text))
    assert pieces[0] == old
    assert len(pieces) == 2
    assert len(media.all) == 1


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (set(), "an image, which this model cannot read as it is configured: options.projector"),
        ({"audio"}, "an image, which this model cannot read: it reads audio only"),
    ],
)
def test_what_the_model_cannot_read_is_refused_by_its_place(kinds: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=f"Message 1 has {said}") as caught:
        Media(chat(say("user", "a"), parts("b", ONE)), kinds)
    assert caught.value.param == "messages[1].content[1]"
    with pytest.raises(Unsupported, match="has audio, which this model cannot read: it reads images only"):
        Media(chat(parts(SOUND)), {"image"})


# --- where a template puts them


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (IMAGES, ["<user>Look: ", b"one", "and", b"two", "!<assistant>"]),
        (URLS, ["<user>Look: ", b"one", "and", b"two", "!<assistant>"]),
        (NUMBERED, ["<user>Look: ", b"one", "and", b"two", "!<assistant>"]),
        (FIRST, ["<user>", b"one", "\n", b"two", "\nLook: and!"]),
        (TEXTS, ["<user>Look: ", b"one", "and", b"two", "!"]),
        (BLIND, ["<user>Look: ", b"one", "and", b"two", "!"]),
        (None, ["user: Look: ", b"one", "and", b"two", "!\nassistant:"]),
    ],
    ids=["images", "urls", "numbered", "first", "texts", "blind", "none"],
)
def test_images_stand_where_the_template_puts_them(source: str | None, expected: list[Any]) -> None:
    assert rendered(source, chat(parts("Look: ", ONE, "and", TWO, "!"))) == expected


def test_marks_are_found_by_trying() -> None:
    found = {name: ChatTemplate(source).marks for name, source in (("i", IMAGES), ("u", URLS), ("f", FIRST))}
    assert {name: {kind: mark.text for kind, mark in marks.items()} for name, marks in found.items()} == {
        "i": {"image": "<s><image></s>"},
        "u": {"image": "[IMG]"},
        "f": {"image": "<image>", "audio": "<image>"},
    }
    for source in (NUMBERED, COUNTED, TEXTS, BLIND, None, "{{ raise_exception('no') }}"):
        assert ChatTemplate(source).marks == {}


def test_kinds_with_marks_of_their_own() -> None:
    source = marking("{{- '<img>' if p.type == 'image' else '<snd>' if p.type == 'audio' else '' -}}")
    assert rendered(source, chat(parts(SOUND, "a", ONE), say("assistant", "b"), parts("c", SOUND, TWO))) == [
        "<user>", b"sound", "a", b"one", "<assistant>b<user>c", b"sound", b"two", "<assistant>"
    ]  # fmt: skip


def test_media_that_have_one_mark_in_common_stay_in_order() -> None:
    assert rendered(FIRST, chat(parts("a", ONE, SOUND, TWO))) == ["<user>", b"one", "\n", b"sound", "\n", b"two", "\na"]


def test_audio_of_a_template_that_only_marks_images_is_in_the_text() -> None:
    assert rendered(IMAGES, chat(parts("a", ONE, SOUND, "b"))) == ["<user>a", b"one", b"sound", "b<assistant>"]


def test_a_mark_in_a_message_is_no_mark() -> None:
    """Texts are guarded against marks; where one comes through all the same, nothing gets into its place."""
    request = chat(say("user", "What does <s><image></s> mean?"), parts("And this?", ONE))
    assert rendered(IMAGES, request) == ["<user>What does <s><image></s> mean?<user>And this?", b"one", "<assistant>"]
    media = Media(request, BOTH)
    guard = Guard(["<s><image></s>"])
    text = ChatTemplate(IMAGES).render(guard.mask(media.request), media=media)
    assert [piece if isinstance(piece, Medium) else guard.unmask(piece) for piece in media.pieces(text)] == [
        "<user>What does <s><image></s> mean?<user>And this?", media.all[0], "<assistant>"
    ]  # fmt: skip


def test_white_space_between_images_stays() -> None:
    assert rendered(IMAGES, chat(parts("a", ONE, "\n", TWO, " "))) == ["<user>a", b"one", "\n", b"two", " <assistant>"]


def test_an_image_alone() -> None:
    assert rendered(IMAGES, chat(parts(ONE))) == ["<user>", b"one", "<assistant>"]
    assert rendered(TEXTS, chat(parts(ONE))) == ["<user>", b"one"]


def test_an_answer_that_is_continued_may_follow_an_image() -> None:
    request = chat(parts(ONE, "What?"), say("assistant", "It is "), continue_final_message=True)
    assert rendered(IMAGES, request) == ["<user>", b"one", "What?<assistant>It is "]


def test_one_prompt_is_the_beginning_of_the_next() -> None:
    first = chat(parts("a", ONE, "b"))
    second = chat(*first.messages, say("assistant", "c"), parts(TWO, "d"))
    for source in (IMAGES, FIRST, TEXTS):
        before, after = rendered(source, first), rendered(source, second)
        assert after[: len(before) - 1] == before[:-1]
        assert str(after[len(before) - 1]).startswith(str(before[-1]).removesuffix("<assistant>"))


def test_images_beside_tools_and_system_messages() -> None:
    request = chat(
        say("system", "Be kind."),
        parts("What is it?", ONE),
        say("assistant", tool_calls=[call("get_weather", '{"city": "x"}')]),
        Message(role="tool", content=[TextPart(text="12"), TWO], tool_call_id="call_1"),
        tools=[WEATHER],
    )
    pieces = rendered(template("demo").source, request)
    assert [piece for piece in pieces if isinstance(piece, bytes)] == [b"one", b"two"]
    assert "Be kind." in "".join(piece for piece in pieces if isinstance(piece, str))


@pytest.mark.parametrize("name", ALL)
def test_every_template_writes_an_image_once(name: str) -> None:
    request = chat(parts("Look: ", ONE, "What is it?"), say("assistant", "A cat."), parts("And ", TWO, "this?"))
    pieces = rendered(template(name).source, request)
    assert [piece for piece in pieces if isinstance(piece, bytes)] == [b"one", b"two"]
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    assert all(said in text for said in ("Look: ", "What is it?", "A cat.", "this?"))


def test_a_template_that_drops_images_and_texts_around_them_is_refused() -> None:
    source = "{% for m in messages %}{{ m.content.split(':')[0] }}{% endfor %}"
    with pytest.raises(InvalidRequest, match="chat template"):
        rendered(source, chat(parts("a", ONE)))
