"""Taking outputs apart, whatever pieces they come in."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.chat.dialects import choose, dialects
from infs.chat.parser import Content, OutputParser, Piece, Reasoning, Thinking, delta_of, new_call_id, opens_reasoning
from infs.types import Tool, ToolCallDelta
from tests.chat.hearing import Heard, hear, ids

TOOLS = [Tool(name="get"), Tool(name="get_more")]
HERMES = choose("... <tool_call> ...")
GENERIC = choose(None)
PLAIN = OutputParser


def hermes(*, thinking: bool = False, parallel: bool = True) -> OutputParser:
    return HERMES.parser(TOOLS, thinking=thinking, parallel=parallel, make_id=ids())


def generic(*, thinking: bool = False, parallel: bool = True) -> OutputParser:
    return GENERIC.parser(TOOLS, thinking=thinking, parallel=parallel, make_id=ids())


def tagged(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# --- reasoning ------------------------------------------------------------------------------------------------


def test_a_think_block_is_reasoning() -> None:
    heard = hear(hermes(), "<think>\nI see\n\n  it\n</think>\n\nYes.\n")
    assert heard == Heard(content="Yes.\n", reasoning="I see\n\n  it")


def test_a_block_that_the_prompt_opened_goes_on() -> None:
    assert hear(hermes(thinking=True), "hm</think>\nYes") == Heard(content="Yes", reasoning="hm")


def test_an_empty_block_is_nothing() -> None:
    assert hear(hermes(), "<think>\n\n</think>\n\nYes") == Heard(content="Yes")


def test_calls_in_thought_are_thought() -> None:
    heard = hear(hermes(), f"<think>{tagged('get', '{}')}</think>no")
    assert heard == Heard(content="no", reasoning=tagged("get", "{}"))


def test_thought_that_is_cut_off_is_all_there() -> None:
    assert hear(hermes(), "<think>a </thin").reasoning == "a </thin"


def test_tags_elsewhere_are_content() -> None:
    text = "The <think> tag and the </think> tag"
    assert hear(hermes(), text) == Heard(content=text)


def test_prompts_that_open_a_block_are_known() -> None:
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_other_marks_of_reasoning_work_alike() -> None:
    marks = Thinking("[THINK]", "[/THINK]")
    assert hear(OutputParser(marks=marks), " [THINK]a\n[/THINK] b") == Heard(content="b", reasoning="a")
    assert hear(OutputParser(marks=marks), "<think>a</think> b") == Heard(content="<think>a</think> b")
    assert opens_reasoning("[INST]hi[/INST][THINK]", marks)
    assert not opens_reasoning("<think>", marks)


def test_reasoning_goes_on_between_calls() -> None:
    text = f"<think>a</think>\n{tagged('get', '{}')}\n<think>\nb\n</think>\n{tagged('get', '{}')}"
    heard = hear(hermes(), text)
    assert (heard.content, heard.reasoning, len(heard.calls)) == ("", "a\n\nb", 2)


def test_one_block_after_the_other_is_reasoning() -> None:
    assert hear(hermes(), "<think>a</think><think></think>\n<think>b</think>c") == Heard(
        content="c", reasoning="a\n\nb"
    )


@pytest.mark.parametrize("before", ["Then it writes", "Look:\n\n", f"{tagged('get', '{}')} and"])
def test_marks_behind_content_are_content(before: str) -> None:
    heard = hear(hermes(), f"{before} <think>a</think>")
    assert heard.content.endswith("<think>a</think>")
    assert heard.reasoning == ""


# --- tagged calls ---------------------------------------------------------------------------------------------


def test_calls_are_taken_out_of_the_content() -> None:
    first, second = tagged("get", '{"a": "}"}'), tagged("get_more", "{}")
    heard = hear(hermes(), f"Let me see.\n{first}\n{second}\n")
    assert heard.content == "Let me see."
    assert heard.calls == [("call_0", "get", '{"a": "}"}'), ("call_1", "get_more", "{}")]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "get", "arguments": {"a":  [1, {"b": "\\"]}"}]}}', '{"a":  [1, {"b": "\\"]}"}]}'),
        ('{"name": "get", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"arguments": {"a": 1}, "name": "get"}', '{"a": 1}'),
        ('{"name": "get", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{ "name" : "g\\u0065t" , "arguments" : {"a": "</tool_call>"} }', '{"a": "</tool_call>"}'),
        ('{"name": "get"}', "{}"),
    ],
)
def test_calls_may_be_written_in_several_ways(written: str, arguments: str) -> None:
    heard = hear(hermes(), f"<tool_call>{written}</tool_call>")
    assert heard == Heard(calls=[("call_0", "get", arguments)])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>nothing</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "get", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "get", "extra": 1, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "get", "arg',
        '<tool_call>{"arguments": {"a": 1',
        '<tool_call>["name"]',
        'a \n <tool_call>{"name" "get"}',
        '<tool_call>{"name": "\\x"}',
        "text <tool_cal",
        "  ",
    ],
)
def test_what_is_no_call_is_content_unchanged(text: str) -> None:
    assert hear(hermes(), text) == Heard(content=text)
    assert hear(hermes(), *text) == Heard(content=text)


def test_a_call_after_a_false_start_is_found() -> None:
    heard = hear(hermes(), f"<tool_call>\n{tagged('get', '{}')}")
    assert heard == Heard(content="<tool_call>\n", calls=[("call_0", "get", "{}")])


def test_without_tools_there_are_no_calls() -> None:
    text = tagged("get", "{}")
    assert hear(HERMES.parser([]), text) == Heard(content=text)


def test_a_call_that_is_cut_off_keeps_what_it_has() -> None:
    parser = hermes()
    heard = hear(parser, '<tool_call>\n{"name": "get", "arguments": {"city": "Kö')
    assert heard.calls == [("call_0", "get", '{"city": "Kö')]
    assert parser.finish_reason("length") == "length"
    assert parser.finish_reason("stop") == "tool_calls"


def test_a_closing_tag_that_is_cut_off_is_no_content() -> None:
    assert hear(hermes(), f"{tagged('get', '{}')[:-3]}").content == ""


def test_text_without_calls_ends_as_it_ended() -> None:
    parser = hermes()
    hear(parser, "hello")
    assert parser.finish_reason("stop") == "stop"


def test_arguments_come_as_soon_as_they_are_certain() -> None:
    parser = hermes()
    assert parser.feed('<tool_call>\n{"name": "get", "arguments": ') == []
    assert parser.feed('{"a') == [ToolCallDelta(index=0, id="call_0", name="get", arguments='{"a')]
    assert parser.feed('": 1') == [ToolCallDelta(index=0, arguments='": 1')]
    assert parser.feed("}}") == [ToolCallDelta(index=0, arguments="}")]


def test_text_is_held_back_no_longer_than_needed() -> None:
    parser = hermes()
    assert parser.feed("a <tool") == [Content("a")]
    assert parser.feed("s") == [Content(" <tools")]
    assert parser.feed("!") == [Content("!")]
    assert parser.feed("\n") == []
    assert parser.feed("<") == []
    assert parser.feed("b") == [Content("\n<b")]


def test_with_one_call_allowed_the_output_is_over_behind_it() -> None:
    parser = hermes(parallel=False)
    heard = Heard()
    heard.hear(parser.feed(tagged("get", "{}")))
    assert parser.done
    heard.hear(parser.feed(f" and {tagged('get_more', '{}')}"))
    heard.hear(parser.finish())
    assert heard == Heard(calls=[("call_0", "get", "{}")])


# --- bare calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "get", "arguments": {"a": 1}}', [("call_0", "get", '{"a": 1}')]),
        (' \n{"name": "get", "parameters": {}} \n', [("call_0", "get", "{}")]),
        (
            '[{"name": "get", "arguments": {}}, {"arguments": {"a": 1}, "name": "get_more"}]\n',
            [("call_0", "get", "{}"), ("call_1", "get_more", '{"a": 1}')],
        ),
    ],
)
def test_bare_calls_are_the_whole_output(text: str, calls: list[tuple[str, str, str]]) -> None:
    assert hear(generic(), text) == Heard(calls=calls)
    assert hear(generic(), *text) == Heard(calls=calls)


@pytest.mark.parametrize(
    "text",
    [
        'Sure: {"name": "get", "arguments": {}}',
        '{"name": "get"}',
        '{"answer": 42}',
        ' [1, {"name": "get", "arguments": {}}]',
        "[]",
        "",
    ],
)
def test_other_json_is_an_answer(text: str) -> None:
    assert hear(generic(), text) == Heard(content=text)


def test_what_follows_a_bare_call_is_content() -> None:
    heard = hear(generic(), '[{"name": "get", "arguments": {}}, 5] ok')
    assert heard == Heard(content=", 5] ok", calls=[("call_0", "get", "{}")])


def test_with_one_call_allowed_a_list_is_over_behind_its_first() -> None:
    parser = generic(parallel=False)
    heard = hear(parser, '[{"name": "get", "arguments": {}}, {"name": "get", "arguments": {}}]')
    assert heard == Heard(calls=[("call_0", "get", "{}")])
    assert parser.done


# --- any text -------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "<think>", "</think>", "<tool_call>", "</tool_call>", "<", "</", "<tool", "{", "}", "[", "]", ",", ":", '"',
        "\\", '"name"', '"get"', '"arguments"', '{"a": 1}', " ", "\n", "x", "é", '{"name": "get", "arguments": ',
        '{"arguments": {"b": "\\"}"}, "name": "get_more"}', tagged("get", '{"a": [1, "}"]}'),
    ]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=25).map("".join)
PARSERS: list[Callable[..., OutputParser]] = [hermes, generic, OutputParser]


@given(st.data(), TEXTS, st.sampled_from(PARSERS), st.booleans(), st.booleans())
def test_pieces_do_not_matter(
    data: st.DataObject, text: str, make: Callable[..., OutputParser], thinking: bool, parallel: bool
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = hear(make(thinking=thinking, parallel=parallel), text)
    assert hear(make(thinking=thinking, parallel=parallel), *pieces) == whole
    assert hear(make(thinking=thinking, parallel=parallel), *text) == whole


@given(TEXTS, st.sampled_from(PARSERS))
def test_nothing_is_lost_where_there_is_no_call(text: str, make: Callable[..., OutputParser]) -> None:
    text = text.replace("think>", "thing>")
    heard = hear(make(), text)
    if not heard.calls:
        assert heard.content == text


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_arguments_come_through_as_they_were_written(value: object) -> None:
    arguments = json.dumps({"value": value}, ensure_ascii=False)
    for parser, text in ((hermes(), tagged("get", arguments)), (generic(), tagged("get", arguments)[12:-13])):
        assert hear(parser, *text) == Heard(calls=[("call_0", "get", arguments)])


# --- the rest -------------------------------------------------------------------------------------------------


def test_pieces_become_one_event() -> None:
    pieces: list[Piece] = [Reasoning("r"), Content("a"), Content("b"), ToolCallDelta(index=0, id="i", name="n")]
    delta = delta_of(pieces, index=2, finish_reason="tool_calls")
    assert (delta.index, delta.text, delta.reasoning, delta.finish_reason) == (2, "ab", "r", "tool_calls")
    assert delta.tool_calls == [ToolCallDelta(index=0, id="i", name="n")]


def test_ids_of_calls_differ() -> None:
    made = {new_call_id() for _ in range(100)}
    assert len(made) == 100
    assert all(call_id.startswith("call_") for call_id in made)


def test_dialects_are_found_and_chosen_by_their_marks() -> None:
    assert {dialect.name for dialect in dialects()} >= {"hermes", "generic"}
    assert HERMES.name == "hermes"
    assert choose("no marks at all").name == GENERIC.name == "generic"
