"""Prompts out of templates of the kinds that models come with."""

from __future__ import annotations

import json

import pytest

from infs.chat.parser import opens_reasoning
from infs.chat.template import ChatTemplate
from infs.errors import InvalidRequest, Unsupported
from infs.types import ImagePart, Message, NamedTool, TextPart
from tests.chat.shapes import ADD, TEMPLATES, WEATHER, call, chat, say, template

ALL = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def test_demo_template_writes_roles_and_opens_the_answer() -> None:
    prompt = template("demo").render(chat(say("system", "Be kind."), say("user", "Hello")))
    assert prompt == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_and_calls_are_written_in_the_form_of_the_template() -> None:
    request = chat(
        say("user", "Weather in Köln?"),
        say("assistant", tool_calls=[call("get_weather", '{"city":"Köln"}')]),
        say("tool", "<rain> & 12", tool_call_id="call_1"),
        tools=[WEATHER],
    )
    prompt = template("demo").render(request)
    assert '{"type": "function", "function": {"name": "get_weather", "description": "The weather in a city"' in prompt
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>' in prompt
    assert "<tool_response>\n<rain> & 12\n</tool_response>" in prompt


def test_arguments_that_are_no_json_are_written_as_they_are() -> None:
    request = chat(say("user", "x"), say("assistant", tool_calls=[call("add", '{"a": 1')]), say("user", "y"))
    assert '"arguments": {"a": 1}\n' in template("demo").render(request)


def test_a_template_that_wants_arguments_as_text_and_short_ids_gets_them() -> None:
    request = chat(
        say("user", "x"),
        say("assistant", tool_calls=[call("add", '{"a": 1}', "call_of_some_length")]),
        say("tool", "5", tool_call_id="call_of_some_length"),
        tools=[ADD],
    )
    prompt = template("mistral").render(request)
    written = json.loads(prompt.split("[TOOL_CALLS] ")[1].split("</s>")[0])
    assert written[0]["arguments"] == {"a": 1}
    assert len(written[0]["id"]) == 9
    assert f'"id": "{written[0]["id"]}"}}[/TOOL_RESULTS]' in prompt


def test_arguments_are_not_written_in_python_syntax() -> None:
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}({{ c.function.arguments }}){% endfor %}{% endfor %}"
    )
    request = chat(say("user", "x"), say("assistant", tool_calls=[call("add", '{"a": "b"}')]))
    assert 'add({"a": "b"})' in ChatTemplate(source).render(request)


def test_content_that_must_be_a_string_is_one() -> None:
    source = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %};{% endfor %}"
    )
    request = chat(say("user", "x"), say("assistant", tool_calls=[call("add", '{"a": 1}')]))
    assert ChatTemplate(source).render(request) == 'user:x;assistant:add{"a": 1};'


def test_content_parts_are_joined_in_every_role() -> None:
    message = Message(role="system", content=[TextPart(text="one "), TextPart(text="two")])
    assert "system\none two<" in template("demo").render(chat(message, say("user", "x")))


def test_templates_that_only_know_parts_get_parts() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %};{% endfor %}"
    )
    assert ChatTemplate(source).render(chat(say("user", "hello"))) == "user: hello;"


def test_images_are_refused_by_their_place() -> None:
    message = Message(role="user", content=[TextPart(text="what is it?"), ImagePart(data=b"x")])
    with pytest.raises(Unsupported) as caught:
        template("demo").render(chat(say("user", "x"), message))
    assert caught.value.param == "messages[1].content[1]"


# --- adaptations ----------------------------------------------------------------------------------------------

SHAPES = {
    "later system": [say("system", "S1"), say("user", "U1"), say("system", "S2"), say("user", "U2")],
    "system only": [say("system", "S1")],
    "two users": [say("user", "U1"), say("user", "U2"), say("assistant", "A1"), say("user", "U3")],
    "system last": [say("user", "U1"), say("assistant", "A1"), say("user", "U2"), say("system", "S1")],
    "two systems": [say("system", "S1"), say("system", "S2"), say("user", "U1")],
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_no_text_is_lost_whatever_the_template(name: str, shape: str) -> None:
    messages = SHAPES[shape]
    prompt = template(name).render(chat(*messages))
    places = [prompt.index(message.text) for message in messages if message.role != "system"]
    assert places == sorted(places)
    assert all(message.text in prompt for message in messages)


@pytest.mark.parametrize("name", ALL)
def test_tools_are_shown_and_answers_kept_whatever_the_template(name: str) -> None:
    request = chat(
        say("system", "S1"),
        say("user", "U1"),
        say("assistant", "A1", tool_calls=[call("add", '{"a": 1, "b": 2}')]),
        say("tool", "T1", tool_call_id="call_1"),
        say("user", "U2"),
        tools=[WEATHER, ADD],
    )
    prompt = template(name).render(request)
    assert all(text in prompt for text in ("S1", "U1", "T1", "U2", "get_weather"))
    assert any(text in prompt for text in ('"b": 2', "b:2", "<parameter=b>\n2"))


def test_several_calls_are_split_for_a_template_that_takes_one() -> None:
    request = chat(
        say("user", "U1"),
        say("assistant", tool_calls=[call("add", '{"a": 1}', "c1"), call("add", '{"a": 2}', "c2")]),
        say("tool", "T1", tool_call_id="c1"),
        say("tool", "T2", tool_call_id="c2"),
        tools=[WEATHER, ADD],
    )
    prompt = template("llama3").render(request)
    order = ['{"name": "add", "parameters": {"a": 1}}', "T1", '{"name": "add", "parameters": {"a": 2}}', "T2"]
    assert [prompt.index(text) for text in order] == sorted(prompt.index(text) for text in order)
    assert "You can call these functions" not in prompt


def test_a_template_that_shows_no_tools_has_them_told_in_the_form_of_the_model() -> None:
    source = (TEMPLATES / "deepseek_v31.jinja").read_text().replace("{%- if tools %}", "{%- if false %}")
    request = chat(
        say("user", "U1"),
        say("assistant", tool_calls=[call("add", '{"a": 1}')]),
        say("tool", "T1", tool_call_id="call_1"),
        tools=[WEATHER, ADD],
    )
    prompt = ChatTemplate(source).render(request)
    assert prompt.startswith("You can call these functions:")
    assert '<｜tool▁call▁begin｜>function_name<｜tool▁sep｜>{"argument_name": "value"}<｜tool▁call▁end｜>' in prompt
    assert '<｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>' in prompt
    assert "<｜tool▁output▁begin｜>T1<｜tool▁output▁end｜>" in prompt


def test_a_template_that_insists_on_descriptions_gets_them() -> None:
    source = (
        "{% for tool in tools or [] %}{{ '// ' + tool.function.description + '\\n' + tool.function.name }}{% endfor %}"
    )
    source += "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert ChatTemplate(source).render(chat(say("user", "U1"), tools=[ADD])) == "// \naddU1"


def test_system_text_goes_into_the_first_user_message() -> None:
    prompt = template("gemma").render(chat(say("system", "Be kind."), say("user", "Hello")))
    assert prompt == "<s><start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\n"


def test_a_silently_dropped_system_message_is_merged() -> None:
    source = (
        "{% if messages[0].role == 'system' %}<<{{ messages[0].content }}>>{% endif %}"
        "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}"
    )
    prompt = ChatTemplate(source).render(chat(say("system", "one"), say("user", "hi"), say("system", "two")))
    assert prompt == "<<one\n\ntwo>>user:hi;"


def test_refusal_gives_the_words_of_the_template() -> None:
    with pytest.raises(InvalidRequest, match="Roles must alternate, beginning with the user") as caught:
        template("llama2").render(chat(say("assistant", "I begin"), say("user", "x")))
    assert caught.value.param == "messages"


def test_a_template_that_drops_the_question_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="leaves out"):
        ChatTemplate("{{ bos_token }}Hello.").render(chat(say("user", "x")))


# --- options --------------------------------------------------------------------------------------------------


def test_thinking_is_an_option_of_the_template() -> None:
    ask = say("user", "x")
    assert opens_reasoning(template("qwen3").render(chat(ask)))
    closed = template("qwen3").render(chat(ask, template_options={"enable_thinking": False}))
    assert closed.endswith("<think>\n\n</think>\n\n")
    assert not opens_reasoning(closed)


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "add_generation_prompt"])
def test_options_cannot_replace_what_the_request_says(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template("demo").render(chat(say("user", "x"), template_options={name: []}))
    assert caught.value.param == f"template_options.{name}"


def test_reasoning_is_given_back_where_the_template_wants_it() -> None:
    messages = [
        say("user", "x"),
        say("assistant", reasoning="let me see", tool_calls=[call("add", "{}")]),
        say("tool", "3", tool_call_id="call_1"),
    ]
    assert "<think>\nlet me see\n</think>" in template("qwen3").render(chat(*messages, tools=[ADD]))


def test_tool_choice_decides_which_tools_are_shown() -> None:
    def shown(choice: object) -> tuple[bool, bool]:
        prompt = template("demo").render(chat(say("user", "x"), tools=[WEATHER, ADD], tool_choice=choice))
        return '"get_weather"' in prompt, '"add"' in prompt

    assert shown("auto") == shown("required") == (True, True)
    assert shown("none") == (False, False)
    assert shown(NamedTool(names=["add"], required=False)) == (False, True)
    assert shown(NamedTool(names=["add"])) == (True, True)


# --- continuing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_continuing_ends_in_the_text_of_the_message(name: str) -> None:
    request = chat(
        say("system", "S"), say("user", "Tell me"), say("assistant", "Once upon a time, "), continue_final_message=True
    )
    prompt = template(name).render(request)
    assert prompt.endswith("Once upon a time, ")
    assert "marker" not in prompt


def test_continuing_an_empty_message_opens_it() -> None:
    request = chat(say("user", "x"), say("assistant", ""), continue_final_message=True)
    assert template("demo").render(request).endswith("<|im_start|>assistant\n")


def test_continuing_survives_the_marker_in_the_text() -> None:
    request = chat(say("user", "infsmarker"), say("assistant", "an infsmarkerx"), continue_final_message=True)
    assert template("demo").render(request).endswith("an infsmarkerx")


@pytest.mark.parametrize("last", [say("user", "x"), say("assistant", "x", tool_calls=[call("add", "{}")])])
def test_continuing_needs_a_text_of_the_assistant(last: Message) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template("demo").render(chat(say("user", "x"), last, continue_final_message=True))
    assert caught.value.param == "continue_final_message"


# --- without a template ---------------------------------------------------------------------------------------


def test_without_a_template_prompts_are_plain_lines() -> None:
    plain = ChatTemplate(None)
    assert plain.plain
    assert "\nuser:" in plain.stop
    request = chat(say("system", "S"), say("user", "U"), say("assistant", "A"), say("user", "V"))
    assert plain.render(request) == "system: S\nuser: U\nassistant: A\nuser: V\nassistant:"


def test_without_a_template_the_last_message_can_be_continued() -> None:
    request = chat(say("user", "U"), say("assistant", "And then"), continue_final_message=True)
    assert ChatTemplate(None).render(request) == "user: U\nassistant: And then"


def test_without_a_template_tools_are_explained_in_words() -> None:
    prompt = ChatTemplate(None).render(chat(say("user", "U"), tools=[ADD]))
    assert '{"name": "add", "parameters"' in prompt
    assert prompt.endswith("\nuser: U\nassistant:")


def test_a_template_has_no_extra_stop_texts() -> None:
    assert not template("demo").plain
    assert template("demo").stop == []
