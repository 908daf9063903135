"""Outputs in the form in which models of each dialect write them, taken apart."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.chat.dialects import Dialect, choose, dialects
from infs.chat.parser import Content, opens_reasoning
from infs.types import Tool, ToolCallDelta
from tests.chat.hearing import Heard, hear, ids
from tests.chat.shapes import TEMPLATES

TOOLS = [
    Tool(
        name="get",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "parts": {"type": "array", "items": {"type": "string"}},
                "exact": {"type": "boolean"},
            },
        },
    ),
    Tool(name="get_more"),
]
ALL = {dialect.name: dialect for dialect in dialects()}

# Template, the dialect that belongs to it.
CHOICES = {
    "demo": "hermes",
    "deepseek_r1": "deepseek",
    "deepseek_v31": "deepseek-3.1",
    "functionary_v31": "functionary-3.1",
    "functionary_v32": "functionary-3.2",
    "functiongemma": "function-gemma",
    "gemma": "gemma",
    "gemma4": "gemma-4",
    "harmony": "harmony",
    "hermes_on_llama3": "hermes",
    "llama2": "generic",
    "llama3": "llama3",
    "mistral": "mistral",
    "mistral_args": "mistral-args",
    "mistral_ids": "mistral-ids",
    "qwen3": "hermes",
    "qwen_coder": "qwen-coder",
}

BERLIN = '{"city": "Berlin"}'
TWO = [("get", BERLIN), ("get_more", "{}")]
FENCE = "```"
DS = {
    "calls": "<｜tool▁calls▁begin｜>",
    "/calls": "<｜tool▁calls▁end｜>",
    "call": "<｜tool▁call▁begin｜>",
    "/call": "<｜tool▁call▁end｜>",
    "sep": "<｜tool▁sep｜>",
}


def fenced_call(name: str, arguments: str) -> str:
    """A call as DeepSeek R1 writes it."""
    return f"{DS['call']}function{DS['sep']}{name}\n{FENCE}json\n{arguments}\n{FENCE}{DS['/call']}"


def coded(name: str, *parameters: tuple[str, str]) -> str:
    """A call as Qwen3-Coder writes it."""
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


# Dialect, output, content, reasoning, calls.
OUTPUTS: list[tuple[str, str, str, str, Sequence[tuple[str, str]]]] = [
    # --- Hermes
    ("hermes", f'<tool_call>\n{{"name": "get", "arguments": {BERLIN}}}\n</tool_call>', "", "", TWO[:1]),
    # --- bare JSON
    ("generic", f'[{{"name": "get", "arguments": {BERLIN}}}, {{"name": "get_more", "arguments": {{}}}}]', "", "", TWO),
    # --- Llama 3
    ("llama3", f'{{"name": "get", "parameters": {BERLIN}}}', "", "", TWO[:1]),
    ("llama3", f'<|python_tag|>{{"name": "get", "parameters": {BERLIN}}}', "", "", TWO[:1]),
    ("llama3", f'{{"type": "function", "name": "get", "parameters": {BERLIN}}}', "", "", TWO[:1]),
    ("llama3", f'{{"name": "get", "parameters": {BERLIN}}}; {{"name": "get_more", "parameters": {{}}}}', "", "", TWO),
    (
        "llama3",
        f'<|python_tag|>{{"name": "get", "parameters": {BERLIN}}};{{"name": "get_more", "parameters": {{}}}}',
        "", "", TWO,
    ),
    ("llama3", f'I look.\n<|python_tag|>{{"name": "get", "parameters": {BERLIN}}}', "I look.", "", TWO[:1]),
    ("llama3", '<|python_tag|>get.call(city="Berlin")', "", "", TWO[:1]),
    ("llama3", '<|python_tag|>get(city="Berlin"); get_more()', "", "", TWO),
    # --- Mistral
    ("mistral", f'[TOOL_CALLS] [{{"name": "get", "arguments": {BERLIN}}}]', "", "", TWO[:1]),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "get", "arguments": {BERLIN}, "id": "abcdefghi"}}, '
        '{"name": "get_more", "arguments": {}, "id": "abcdefghj"}]',
        "", "", TWO,
    ),
    ("mistral-args", f"Sure.[TOOL_CALLS]get[ARGS]{BERLIN}[TOOL_CALLS]get_more[ARGS]{{}}", "Sure.", "", TWO),
    ("mistral-args", f"[THINK]Weather.[/THINK]Sure.[TOOL_CALLS]get[ARGS]{BERLIN}", "Sure.", "Weather.", TWO[:1]),
    ("mistral-args", f"[TOOL_CALLS]get{BERLIN}", "", "", TWO[:1]),
    (
        "mistral-ids",
        f"[TOOL_CALLS]get[CALL_ID]abcdefghi[ARGS]{BERLIN}[TOOL_CALLS]get_more[CALL_ID]abcdefghj[ARGS]{{}}",
        "", "", TWO,
    ),
    # --- Functionary
    ("functionary-3.1", f"<function=get>{BERLIN}</function>", "", "", TWO[:1]),
    ("functionary-3.1", f"So<function=get>{BERLIN}</function>\n<function=get_more>{{}}</function>", "So", "", TWO),
    ("functionary-3.2", f"get\n{BERLIN}", "", "", TWO[:1]),
    ("functionary-3.2", f"all\nWell.>>>get\n{BERLIN}>>>get_more\n{{}}", "Well.", "", TWO),
    ("functionary-3.2", "all\nIn Python, >>> is a prompt.", "In Python, >>> is a prompt.", "", []),
    ("functionary-3.2", f">>>get\n{BERLIN}\n>>>all\nDone.", "Done.", "", TWO[:1]),
    # --- DeepSeek
    ("deepseek", f"{DS['calls']}{fenced_call('get', BERLIN)}{DS['/calls']}", "", "", TWO[:1]),
    (
        "deepseek",
        f"<think>\nHm.\n</think>\n\nI look.\n{DS['calls']}{fenced_call('get', BERLIN)}\n"
        f"{fenced_call('get_more', '{}')}{DS['/calls']}",
        "I look.", "Hm.", TWO,
    ),
    (
        "deepseek-3.1",
        f"{DS['calls']}{DS['call']}get{DS['sep']}{BERLIN}{DS['/call']}"
        f"{DS['call']}get_more{DS['sep']}{{}}{DS['/call']}{DS['/calls']}",
        "", "", TWO,
    ),
    # --- Gemma 3
    ("gemma", f'{{"name": "get", "arguments": {BERLIN}}}', "", "", TWO[:1]),
    ("gemma", f'{FENCE}json\n{{"name": "get", "arguments": {BERLIN}}}\n{FENCE}', "", "", TWO[:1]),
    ("gemma", f'Yes.\n{FENCE}tool_call\n{{"name": "get", "parameters": {BERLIN}}}\n{FENCE}\n', "Yes.", "", TWO[:1]),
    ("gemma", f'{FENCE}tool_code\nget(city="Berlin")\n{FENCE}', "", "", TWO[:1]),
    ("gemma", f'{FENCE}tool_code\nprint(get(city="Berlin"))\nprint(get_more())\n{FENCE}', "", "", TWO),
    ("gemma", f'{FENCE}tool_code\n[get(city="Berlin"), get_more()]\n{FENCE}', "", "", TWO),
    ("gemma", f'{FENCE}json\n{{"city": "Berlin"}}\n{FENCE}', f'{FENCE}json\n{{"city": "Berlin"}}\n{FENCE}', "", []),
    ("gemma", f"{FENCE}tool_code\nfor x in y: pass\n{FENCE}", f"{FENCE}tool_code\nfor x in y: pass\n{FENCE}", "", []),
    # --- FunctionGemma, Gemma 4
    (
        "function-gemma",
        "<start_function_call>call:get{city:<escape>Berlin<escape>}<end_function_call>"
        "<start_function_call>call:get_more{}<end_function_call>",
        "", "", TWO,
    ),
    ("gemma-4", 'I look.<|tool_call>call:get{city:<|"|>Berlin<|"|>}<tool_call|>', "I look.", "", TWO[:1]),
    (
        "gemma-4",
        "<|channel>thought\nThe weather.\n<channel|>"
        '<|tool_call>call:get{city:<|"|>a "b", {c}\n<|"|>,days:2,exact:true,parts:[<|"|>x<|"|>,{y:null}]}<tool_call|>',
        "", "The weather.",
        [("get", '{"city": "a \\"b\\", {c}\\n", "days": 2, "exact": true, "parts": ["x", {"y": null}]}')],
    ),
    # --- gpt-oss
    (
        "harmony",
        "<|channel|>analysis<|message|>Need weather.<|end|><|start|>assistant<|channel|>commentary to=functions.get "
        f"<|constrain|>json<|message|>{BERLIN}<|call|>",
        "", "Need weather.", TWO[:1],
    ),
    ("harmony", f" to=functions.get<|channel|>commentary json<|message|>{BERLIN}", "", "", TWO[:1]),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hi.<|end|><|start|>assistant<|channel|>final<|message|>Hello <|x|> you.",
        "Hello <|x|> you.", "Hi.", [],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        f"<|start|>assistant<|channel|>analysis<|message|>B<|end|><|start|>assistant to=functions.get"
        f"<|channel|>commentary<|message|>{BERLIN}<|call|>",
        "I look.", "A\n\nB", TWO[:1],
    ),
    ("harmony", "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "a\n\nb", "", []),
    # --- Qwen3-Coder
    ("qwen-coder", f"I look.\n\n{coded('get', ('city', 'Berlin'))}\n{coded('get_more')}", "I look.", "", TWO),
    (
        "qwen-coder",
        coded("get", ("city", 'a\n"b" </x>\n'), ("days", "2"), ("parts", '["x", 1]'), ("exact", "True"), ("new", "?")),
        "", "",
        [("get", '{"city": "a\\n\\"b\\" </x>\\n", "days": 2, "parts": ["x", 1], "exact": true, "new": "?"}')],
    ),
    ("qwen-coder", coded("get", ("city", "Berlin")).removeprefix("<tool_call>\n"), "", "", TWO[:1]),
]  # fmt: skip

# Dialect, output: no call in it, and all of it content.
NO_CALLS = [
    ("llama3", "<|python_tag|>print(1)"),
    ("llama3", '<|python_tag|>{"name": "unknown", "parameters": {}}'),
    ("llama3", '<|python_tag|> {"name": "get"'),
    ("llama3", '{"name": "Alice", "parameters": {}}'),
    ("llama3", "<|python_tag|>get(city=__import__('os'))"),
    ("llama3", "<|python_tag|>get('Berlin')"),
    ("mistral", '[TOOL_CALLS][{"name": "unknown", "arguments": {}}]'),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral-args", "[TOOL_CALLS]unknown[ARGS]{}"),
    ("mistral-args", "[TOOL_CALLS]get[ARGS]x"),
    ("mistral-ids", "a [TOOL_CALLS]get[CALL_ID]"),
    ("functionary-3.1", "<function=unknown>{}</function>"),
    ("functionary-3.1", "<function=get>city</function>"),
    ("functionary-3.2", "get\nBerlin"),
    ("functionary-3.2", "unknown\n{}"),
    ("functionary-3.2", ">>>"),
    ("deepseek", f"{DS['calls']}{DS['call']}function{DS['sep']}unknown"),
    ("deepseek", f"x {DS['calls']}"),
    ("deepseek-3.1", f"{DS['call']}get{DS['sep']}Berlin{DS['/call']}"),
    ("gemma", f"{FENCE}tool_code\nget("),
    ("gemma", f'{FENCE}json\n[{{"name": "unknown", "arguments": {{}}}}]\n{FENCE}'),
    ("gemma", f'{FENCE}json\n{{"name": "get"'),
    ("function-gemma", "<start_function_call>call:unknown{}<end_function_call>"),
    ("gemma-4", "<|tool_call>get{}<tool_call|>"),
    ("gemma-4", "<|tool_call>call:ge"),
    ("harmony", "<|channel|>commentary to=functions.unknown<|message|>{}"),
    ("harmony", "<|channel|>commentary to=functions.get<|message|>Berlin"),
    ("harmony", "<|channel|>final"),
    ("harmony", "<|channel|>\n<|end|> x"),
    ("harmony", "<|start|>assistant" * 40),
    ("qwen-coder", "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
    ("qwen-coder", "<tool_call>"),
]

# Dialect, output that ends in the middle of a call, its arguments so far.
CUT_OFF = [
    ("llama3", '{"name": "get", "parameters": {"city": "Ber', '{"city": "Ber'),
    ("mistral", '[TOOL_CALLS][{"name": "get", "arguments": {"ci', '{"ci'),
    ("mistral-args", '[TOOL_CALLS]get[ARGS]{"city": "Berlin"', '{"city": "Berlin"'),
    ("functionary-3.1", '<function=get>{"city": 1}</func', '{"city": 1}'),
    ("functionary-3.2", 'get\n{"city"', '{"city"'),
    ("deepseek", f"{DS['calls']}{fenced_call('get', BERLIN)}"[:-12], BERLIN),
    ("gemma", f'{FENCE}json\n{{"name": "get", "arguments": {{"city": "B', '{"city": "B'),
    ("function-gemma", "<start_function_call>call:get{city:<escape>Ber<esc", '{"city": "Ber<esc'),
    ("gemma-4", '<|tool_call>call:get{city:<|"|>Berlin<|"|>,', '{"city": "Berlin"'),
    ("harmony", '<|channel|>commentary to=functions.get<|message|>{"city": "B', '{"city": "B'),
    ("qwen-coder", coded("get", ("city", "Berlin")).partition("lin")[0], '{"city": "Ber'),
]


def read(name: str, *pieces: str, tools: Sequence[Tool] = TOOLS, parallel: bool = True) -> Heard:
    return hear(ALL[name].parser(tools, parallel=parallel, make_id=ids()), *pieces)


@pytest.mark.parametrize(("template", "name"), CHOICES.items())
def test_a_template_has_its_dialect(template: str, name: str) -> None:
    assert choose((TEMPLATES / f"{template}.jinja").read_text()).name == name


def test_every_dialect_has_a_template_here() -> None:
    assert set(CHOICES.values()) == set(ALL)
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == set(CHOICES)


def test_the_marks_of_reasoning_are_those_of_the_template() -> None:
    assert choose("<tool_call>").thinking.open == "<think>"
    assert choose("<tool_call> [THINK] [/THINK]").thinking.open == "[THINK]"
    assert choose("[TOOL_CALLS] <think> </think>").thinking.open == "<think>"
    assert choose("[TOOL_CALLS] [THINK] <think> </think>").thinking.open == "[THINK]"


@pytest.mark.parametrize(("name", "text", "content", "reasoning", "calls"), OUTPUTS)
def test_outputs(name: str, text: str, content: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> None:
    wanted = Heard(content, reasoning, [(f"call_{index}", *call) for index, call in enumerate(calls)])
    assert read(name, text) == wanted
    assert read(name, *text) == wanted
    for _, _, arguments in wanted.calls:
        assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize(("name", "text", "content", "reasoning", "calls"), OUTPUTS)
def test_one_call_may_be_all(name: str, text: str, content: str, reasoning: str, calls: Sequence[object]) -> None:
    assert len(read(name, *text, parallel=False).calls) == min(1, len(calls))


@pytest.mark.parametrize(("name", "text"), NO_CALLS)
def test_what_is_no_call_is_content_unchanged(name: str, text: str) -> None:
    assert read(name, text) == Heard(content=text)
    assert read(name, *text) == Heard(content=text)


@pytest.mark.parametrize(("name", "text", "arguments"), CUT_OFF)
def test_a_call_that_is_cut_off_keeps_what_it_has(name: str, text: str, arguments: str) -> None:
    assert read(name, text) == Heard(calls=[("call_0", "get", arguments)])
    assert read(name, *text) == Heard(calls=[("call_0", "get", arguments)])


@pytest.mark.parametrize("name", sorted(ALL))
def test_plain_answers_are_answers(name: str) -> None:
    for tools in (TOOLS, []):
        assert read(name, f"{ALL[name].answer}It is sunny.\n", tools=tools) == Heard(content="It is sunny.\n")


@pytest.mark.parametrize(("name", "text", "content", "reasoning", "calls"), OUTPUTS)
def test_without_tools_there_are_no_calls(
    name: str, text: str, content: str, reasoning: str, calls: Sequence[object]
) -> None:
    assert read(name, text, tools=[]).calls == []


@pytest.mark.parametrize(
    ("name", "start", "key"),
    [
        ("qwen-coder", "<tool_call>\n<function=get>\n<parameter=city>\n", '{"city": "'),
        ("gemma-4", '<|tool_call>call:get{city:<|"|>', '{"city": "'),
        ("harmony", '<|channel|>commentary to=functions.get<|message|>{"city": "', '{"city": "'),
    ],
)
def test_arguments_come_as_soon_as_they_are_certain(name: str, start: str, key: str) -> None:
    parser = ALL[name].parser(TOOLS, make_id=ids())
    assert parser.feed(start) == [ToolCallDelta(index=0, id="call_0", name="get", arguments=key)]
    assert parser.feed("Ber") == [ToolCallDelta(index=0, arguments="Ber")]
    assert parser.feed("lin") == [ToolCallDelta(index=0, arguments="lin")]


def test_content_of_a_message_is_not_held_back() -> None:
    parser = ALL["harmony"].parser([])
    assert parser.feed("<|channel|>final<|message|>It") == [Content("It")]
    assert parser.feed(" is <|") == [Content(" is")]
    assert parser.feed("x") == [Content(" <|x")]


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_marks_of_a_prompt_open_reasoning(name: str) -> None:
    marks = ALL[name].thinking
    assert opens_reasoning(f"prompt {marks.open}\n", marks)
    assert not opens_reasoning(f"prompt {marks.open}\n{marks.close}", marks)
    parser = ALL[name].parser(TOOLS, thinking=True)
    heard = hear(parser, f"hm{marks.close}{marks.after}{ALL[name].answer}yes")
    assert heard == Heard(content="yes", reasoning="hm")


# --- any text -------------------------------------------------------------------------------------------------


def _words(dialect: Dialect) -> list[str]:
    texts = [text for name, text, *_ in OUTPUTS if name == dialect.name]
    texts += [text for name, text, *_ in [*NO_CALLS, *CUT_OFF] if name == dialect.name]
    marks = [*dialect.specials, *dialect.ends, dialect.thinking.open, dialect.thinking.close]
    pieces = [text[:half] for text in texts for half in (len(text) // 3, 2 * len(text) // 3)]
    pieces += [text[half:] for text in texts for half in (len(text) // 3, 2 * len(text) // 3)]
    other = [
        " ",
        "\n",
        "x",
        "é",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "\\",
        "<",
        ">>>",
        "`",
        "get",
        "call:",
        "get{",
        "all\n",
    ]
    return [*texts, *pieces, *marks, *(mark[:half] for mark in marks for half in (1, len(mark) - 1)), *other]


OUTPUTS_OF = {
    name: st.lists(st.sampled_from(_words(dialect)), max_size=8).map("".join) for name, dialect in ALL.items()
}


@given(st.data(), st.sampled_from(sorted(ALL)), st.booleans(), st.booleans(), st.booleans())
def test_pieces_do_not_matter(data: st.DataObject, name: str, thinking: bool, parallel: bool, offered: bool) -> None:
    text = data.draw(OUTPUTS_OF[name])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def heard(*parts: str) -> Heard:
        parser = ALL[name].parser(TOOLS if offered else [], thinking=thinking, parallel=parallel, make_id=ids())
        return hear(parser, *parts)

    whole = heard(text)
    assert heard(*pieces) == whole
    assert heard(*text) == whole


@given(st.data(), st.sampled_from(sorted(name for name, dialect in ALL.items() if not dialect.framed)))
def test_nothing_is_lost_where_there_is_no_call(data: st.DataObject, name: str) -> None:
    text = data.draw(OUTPUTS_OF[name]).replace(ALL[name].thinking.open, "")
    heard = read(name, text)
    if not heard.calls and not heard.reasoning:
        assert heard.content == text


@given(st.text(), st.sampled_from(["qwen-coder", "gemma-4", "function-gemma"]))
def test_texts_come_through_as_they_were_written(value: str, name: str) -> None:
    written = {
        "qwen-coder": coded("get", ("city", value)),
        "gemma-4": f'<|tool_call>call:get{{city:<|"|>{value}<|"|>}}<tool_call|>',
        "function-gemma": f"<start_function_call>call:get{{city:<escape>{value}<escape>}}<end_function_call>",
    }
    (call,) = read(name, *written[name]).calls
    assert json.loads(call[2]) == {"city": value}
