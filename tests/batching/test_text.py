"""Text that comes in pieces: nothing is lost, no character is split, nothing of a stop string shows."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from infs.batching.text import StopMatcher, TextStream

LETTERS = st.text(alphabet="ab\u00e9\U0001f642", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\u00e9\U0001f642", min_size=1, max_size=5), max_size=4)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` modulo its length."""
    bounds = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def shown(stream: TextStream, pieces: list[bytes]) -> list[str]:
    return [*(stream.feed(piece) for piece in pieces), stream.flush()]


def before_first(text: str, stops: list[str]) -> str:
    """`text` up to the first place where a stop string is complete, by definition."""
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return text if not ends else text[: min(start for _, start in ends)]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=12))
def test_any_bytes_in_any_pieces_are_the_text_that_they_are_at_once(data: bytes, places: list[int]) -> None:
    assert "".join(shown(TextStream(), cut(data, places))) == data.decode("utf-8", "replace")


@given(LETTERS, st.lists(st.integers(0, 60), max_size=12))
def test_characters_come_whole(text: str, places: list[int]) -> None:
    for piece in shown(TextStream(), cut(text.encode(), places)):
        assert "\ufffd" not in piece


@given(LETTERS, STOPS, st.lists(st.integers(0, 60), max_size=12))
def test_a_stop_string_ends_the_text_and_never_shows(text: str, stops: list[str], places: list[int]) -> None:
    stream = TextStream(stops)
    told = "".join(shown(stream, cut(text.encode(), places)))
    found = [stop for stop in stops if stop in text]
    assert stream.stopped == bool(found)
    if not found:
        assert told == text
    else:
        assert text.startswith(told)
        assert any(text.startswith(told + stop) for stop in stops)
        assert not any(stop in told for stop in stops)


@given(
    LETTERS, st.text(alphabet="ab\u00e9\U0001f642", min_size=1, max_size=5), st.lists(st.integers(0, 60), max_size=12)
)
def test_one_stop_string_ends_the_text_at_its_first_place(text: str, stop: str, places: list[int]) -> None:
    told = "".join(shown(TextStream([stop]), cut(text.encode(), places)))
    assert told == before_first(text, [stop])


@given(LETTERS, STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    stream, told = TextStream(stops), ""
    for index, letter in enumerate(text):
        told += stream.feed(letter.encode())
        if stream.stopped:
            return
        held = text[len(told) : index + 1]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_may_span_many_pieces() -> None:
    stream = TextStream(["<end>"])
    assert [stream.feed(piece) for piece in (b"a<", b"e", b"nd", b"x<en", b"d>b")] == ["a", "", "", "<endx", ""]
    assert stream.stopped
    assert stream.feed(b"more") == stream.flush() == ""


def test_a_start_that_does_not_go_on_is_given_back() -> None:
    matcher = StopMatcher(["\n\nuser:"])
    assert [matcher.feed(piece) for piece in ("hi\n", "\n", "use", "ful")] == ["hi", "", "", "\n\nuseful"]
    assert matcher.feed("\n\nus") + matcher.flush() == "\n\nus"
    assert not matcher.found


def test_an_unfinished_character_becomes_a_mark_at_the_end() -> None:
    stream = TextStream()
    assert stream.feed("\U0001f642".encode()[:3]) == ""
    assert stream.flush() == "\ufffd"


def test_empty_stop_strings_stop_nothing() -> None:
    stream = TextStream(["", ""])
    assert stream.feed(b"abc") == "abc"
    assert not stream.stopped
