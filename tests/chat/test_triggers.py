"""Finding where a tool call begins, whatever pieces an output comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.chat.dialects import Trigger
from infs.chat.parser import Thinking
from infs.chat.structured import OutputRule
from infs.chat.triggers import TriggerWatch

ANYWHERE = (Trigger("<call>"), Trigger(">>>add\n", lead="add\n"))
RULE = OutputRule("", (*ANYWHERE, Trigger('{"name":"add"', anchored=True, lead='{"name": "add"')))


def fed(rule: OutputRule, *pieces: bytes) -> list[bytes | None]:
    watch = TriggerWatch(rule)
    return [watch.feed(piece) for piece in pieces]


def test_what_stands_behind_the_trigger_is_told() -> None:
    assert fed(RULE, b"hello <ca", b"ll", b">\nx") == [None, None, b"\nx"]
    assert fed(RULE, b"<call>") == [b""]


def test_the_lead_stands_for_the_trigger() -> None:
    assert fed(RULE, b"a>>>a", b"dd\n{") == [None, b"add\n{"]
    assert fed(RULE, b' \n{"name"', b':"add",') == [None, b'{"name": "add",']


@pytest.mark.parametrize("before", [b"x", b'{"name":"x"} ', b"<think>x</think>y"])
def test_an_anchored_trigger_counts_at_the_beginning_only(before: bytes) -> None:
    assert fed(RULE, before, b'{"name":"add"') == [None, None]
    assert fed(RULE, before, b'{"name":"add" <call>') == [None, b""]


def test_the_first_of_several_counts() -> None:
    assert fed(RULE, b"a <call> >>>add\n") == [b" >>>add\n"]


def test_one_can_go_on_behind_a_trigger_that_was_none() -> None:
    watch = TriggerWatch(RULE)
    assert watch.feed(b"<call>? <call>") == b"? <call>"
    assert watch.feed(b"") == b""
    assert watch.feed(b"") is None
    assert watch.feed(b"<cal") is None
    assert watch.feed(b"l>!") == b"!"


def test_nothing_counts_in_reasoning() -> None:
    assert fed(RULE, b"\n<th", b"ink><call></th", b"ink> <call>!") == [None, None, b"!"]
    assert fed(RULE, b'<think>a</think>\n<think><call></think>{"name":"add"') == [b'{"name": "add"']
    assert fed(RULE, b"so: <think><call>") == [b""]


def test_the_prompt_may_have_opened_the_reasoning() -> None:
    rule = OutputRule("", ANYWHERE, Thinking("[T]", "[/T]"), True)
    assert fed(rule, b"a<call>", b"[/T]<call>!") == [None, b"!"]
    assert fed(rule, b"[/", b"T]<c", b"all>") == [None, None, b""]


TEXTS = st.lists(
    st.sampled_from(
        ["<call>", "<ca", "<think>", "</think>", "</th", '{"name":"add"', '{"na', ">>>add\n", " ", "é", "x"]
    ),
    max_size=10,
).map("".join)


@given(TEXTS, st.data(), st.booleans())
def test_pieces_do_not_matter(text: str, data: st.DataObject, thought: bool) -> None:
    rule = OutputRule("", RULE.triggers, thought=thought)
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    def behind(parts: list[bytes]) -> bytes | None:
        watch = TriggerWatch(rule)
        for index, part in enumerate(parts):
            if (found := watch.feed(part)) is not None:
                return found + b"".join(parts[index + 1 :])
        return None

    assert behind(pieces) == behind([raw]) == behind([raw[place : place + 1] for place in range(len(raw))])
