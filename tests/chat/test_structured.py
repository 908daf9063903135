"""What a request's tools and constraint allow the model to write."""

from __future__ import annotations

from typing import Any

import pytest

from infs.chat.dialects import choose
from infs.chat.dialects.base import Dialect
from infs.chat.structured import output_rule
from infs.errors import InvalidRequest, Unsupported
from infs.types import ChatCompletionRequest, ChoiceConstraint, JsonConstraint, NamedTool, Tool
from tests.chat.matching import follows
from tests.chat.shapes import ADD, WEATHER, chat, say

HERMES = choose("<tool_call>")
GENERIC = choose(None)
BERLIN = '{"name": "get_weather", "arguments": {"city": "Berlin"}}'
SUM = '{"name": "add", "arguments": {"a": 1, "b": 2}}'


def ask(**fields: Any) -> ChatCompletionRequest:
    return chat(say("user", "x"), **{"tools": [WEATHER, ADD], **fields})


def tag(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def test_without_tools_or_a_constraint_there_is_no_rule() -> None:
    assert output_rule(ask(tool_choice="none"), HERMES) is None
    assert output_rule(ask(tools=[]), HERMES) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        BERLIN,
        tag('{"name": "other", "arguments": {}}'),
        tag('{"name": "get_weather", "arguments": {}}'),
        tag('{"name": "get_weather", "arguments": {"city": 1}}'),
        tag('{"name": "get_weather", "arguments": {"city": "B", "unit": "c"}}'),
        tag('{"name": "add", "arguments": {"a": 1, "b": "2"}}'),
        tag(BERLIN)[:-1],
        tag(BERLIN) + " and",
    ],
)
def test_required_accepts_nothing_but_valid_calls(text: str) -> None:
    assert not follows(output_rule(ask(tool_choice="required"), HERMES), text)


def test_required_accepts_one_call_or_several() -> None:
    rule = output_rule(ask(tool_choice="required"), HERMES)
    assert follows(rule, tag(BERLIN))
    assert follows(rule, tag(SUM))
    assert follows(rule, f"{tag(BERLIN)}\n{tag(SUM)}")


def test_without_parallel_calls_there_is_one() -> None:
    for dialect, text, two in (
        (HERMES, tag(SUM), f"{tag(SUM)}\n{tag(SUM)}"),
        (GENERIC, SUM, f"[{SUM}, {SUM}]"),
    ):
        rule = output_rule(ask(tool_choice="required", parallel_tool_calls=False), dialect)
        assert follows(rule, text)
        assert not follows(rule, two)


def test_bare_calls_are_enforced_too() -> None:
    rule = output_rule(ask(tool_choice="required"), GENERIC)
    assert follows(rule, SUM)
    assert follows(rule, f"[{BERLIN}, {SUM}]")
    assert not follows(rule, '{"name": "add", "arguments": {"a": 1}}')
    assert not follows(rule, "hello")


def test_a_named_tool_is_the_one_that_is_called() -> None:
    rule = output_rule(ask(tool_choice=NamedTool(names=["add"])), HERMES)
    assert follows(rule, tag(SUM))
    assert not follows(rule, tag(BERLIN))


def test_thinking_stays_free() -> None:
    rule = output_rule(ask(tool_choice="required"), HERMES, thinking=True)
    assert follows(rule, f"I add them\n</think>\n\n{tag(SUM)}")
    assert not follows(rule, "I add them\n</think>\n\nhello")


def test_a_tool_without_parameters_takes_none() -> None:
    rule = output_rule(ask(tools=[Tool(name="now")], tool_choice="required"), HERMES)
    assert follows(rule, tag('{"name": "now", "arguments": {}}'))
    assert not follows(rule, tag('{"name": "now", "arguments": {"a": 1}}'))


def test_names_that_begin_alike_do_not_mix() -> None:
    tools = [
        Tool(name="get", parameters={"properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        Tool(name="get_x"),
    ]
    rule = output_rule(ask(tools=tools, tool_choice="required"), HERMES)
    assert follows(rule, tag('{"name": "get", "arguments": {"a": 1}}'))
    assert follows(rule, tag('{"name": "get_x", "arguments": {}}'))
    assert not follows(rule, tag('{"name": "get_x", "arguments": {"a": 1}}'))


# --- strict ---------------------------------------------------------------------------------------------------

STRICT = Tool(name="add", parameters=ADD.parameters, strict=True)


@pytest.mark.parametrize(("dialect", "wrap"), [(HERMES, tag), (GENERIC, str)])
def test_strict_tools_are_enforced_where_the_model_is_free(dialect: Dialect, wrap: Any) -> None:
    rule = output_rule(ask(tools=[STRICT]), dialect)
    assert follows(rule, "I do not know.")
    assert follows(rule, wrap(SUM))
    assert not follows(rule, wrap('{"name": "add", "arguments": {"a": 1}}'))


def test_text_goes_on_around_strict_calls() -> None:
    rule = output_rule(ask(tools=[STRICT]), HERMES)
    assert follows(rule, f"I add.\n{tag(SUM)}\n{tag(SUM)}\nDone <tool")


def test_strict_schemas_that_cannot_be_enforced_are_refused() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(Unsupported, match=r"'list'.*#/properties/a.*uniqueItems") as caught:
        output_rule(ask(tools=[Tool(name="list", parameters=parameters, strict=True)]), HERMES)
    assert caught.value.param == "tools"


def test_other_schemas_are_enforced_as_far_as_possible() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    rule = output_rule(ask(tools=[Tool(name="add", parameters=parameters)], tool_choice="required"), HERMES)
    assert follows(rule, tag('{"name": "add", "arguments": {"a": [1]}}'))
    assert not follows(rule, tag('{"name": "add", "arguments": {}}'))


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": "object", "required": 3}])
def test_wrong_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="'bad'"):
        output_rule(ask(tools=[Tool(name="bad", parameters=parameters)], tool_choice="required"), HERMES)


# --- choices that cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize("required", [True, False])
def test_unknown_names_are_refused(required: bool) -> None:
    with pytest.raises(InvalidRequest, match=r"'subtract'.*get_weather, add") as caught:
        output_rule(ask(tool_choice=NamedTool(names=["subtract"], required=required)), HERMES)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["required", NamedTool(names=["add"])])
def test_a_call_cannot_be_required_without_tools(choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        output_rule(ask(tools=[], tool_choice=choice), HERMES)
    assert caught.value.param == "tool_choice"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'add'"):
        output_rule(ask(tools=[ADD, ADD]), HERMES)


# --- with a constraint -----------------------------------------------------------------------------------------


def test_a_constraint_alone_is_the_grammar() -> None:
    rule = output_rule(chat(say("user", "x"), constraint=ChoiceConstraint(options=["yes"])), HERMES)
    assert follows(rule, "yes")
    assert not follows(rule, "no")


def test_a_constraint_holds_for_answers_beside_calls() -> None:
    constraint = JsonConstraint(
        schema={"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    )
    rule = output_rule(ask(constraint=constraint), HERMES)
    assert follows(rule, '{"sum": 3}')
    assert follows(rule, tag(SUM))
    assert not follows(rule, "hello")
    assert not follows(rule, '{"total": 3}')


def test_a_constraint_and_a_required_call_exclude_each_other() -> None:
    with pytest.raises(Unsupported) as caught:
        output_rule(ask(tool_choice="required", constraint=JsonConstraint()), HERMES)
    assert caught.value.param == "tool_choice"


def test_a_constraint_and_calls_that_look_like_answers_exclude_each_other() -> None:
    with pytest.raises(Unsupported) as caught:
        output_rule(ask(constraint=JsonConstraint()), GENERIC)
    assert caught.value.param == "tools"
    assert output_rule(ask(constraint=JsonConstraint(), tool_choice="none"), GENERIC) is not None
