"""What the rules of each dialect let a model write, with marks that are text and with marks that are control tokens."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import llguidance.numpy
import pytest
from llguidance import LLMatcher

from infs.chat.dialects import Dialect, dialects
from infs.chat.structured import OutputRule, output_rule
from infs.errors import Unsupported
from infs.types import ChatCompletionRequest, JsonConstraint, NamedTool, Tool
from tests.chat.hearing import hear, ids
from tests.chat.matching import END, byte_tokenizer, control_ids, follows, triggered
from tests.chat.shapes import ADD, WEATHER, chat, say

ALL = {dialect.name: dialect for dialect in dialects()}
FENCE = "```"
Call = tuple[str, dict[str, Any]]

BERLIN: Call = ("get_weather", {"city": "Berlin"})
SUM: Call = ("add", {"a": 1, "b": -2})
WRONG: list[Call] = [
    ("other", {}),
    ("get_weather", {}),
    ("get_weather", {"city": 1}),
    ("get_weather", {"city": "Berlin", "unit": "C"}),
    ("add", {"a": 1, "b": "x"}),
    ("add", {"a": 1}),
    ("get_weather_in", {"city": "Berlin"}),
]


def _objects(key: str, join: str, around: str = "{}") -> Callable[[Sequence[Call]], str]:
    def write(calls: Sequence[Call]) -> str:
        objects = [f'{{"name": "{name}", "{key}": {json.dumps(arguments)}}}' for name, arguments in calls]
        return join.join(around.replace("{}", one) for one in objects)

    return write


def _list(calls: Sequence[Call]) -> str:
    written = _objects("arguments", ", ")(calls)
    return written if len(calls) == 1 else f"[{written}]"


def _each(form: str, start: str = "", end: str = "") -> Callable[[Sequence[Call]], str]:
    def write(calls: Sequence[Call]) -> str:
        each = (form.replace("NAME", name).replace("JSON", json.dumps(arguments)) for name, arguments in calls)
        return start + "".join(each) + end

    return write


def _coded(calls: Sequence[Call]) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        pairs = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
        return f"<tool_call>\n<function={name}>\n{pairs}</function>\n</tool_call>"

    return "\n".join(one(*call) for call in calls)


def _gemma(start: str, end: str, quote: str) -> Callable[[Sequence[Call]], str]:
    def value(one: Any) -> str:
        return f"{quote}{one}{quote}" if isinstance(one, str) else json.dumps(one)

    def write(calls: Sequence[Call]) -> str:
        inner = [
            (name, ",".join(f"{key}:{value(arguments[key])}" for key in sorted(arguments))) for name, arguments in calls
        ]
        return "".join(f"{start}call:{name}{{{pairs}}}{end}" for name, pairs in inner)

    return write


def _parts(calls: Sequence[Call]) -> str:
    return ">>>".join(f"{name}\n{json.dumps(arguments)}" for name, arguments in calls)


DS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
WRITE: dict[str, Callable[[Sequence[Call]], str]] = {
    "deepseek": _each(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n{FENCE}json\nJSON\n{FENCE}<｜tool▁call▁end｜>", *DS
    ),
    "deepseek-3.1": _each("<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>JSON<｜tool▁call▁end｜>", *DS),
    "functionary-3.1": _each("<function=NAME>JSON</function>"),
    "functionary-3.2": _parts,
    "function-gemma": _gemma("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma": lambda calls: f"{FENCE}json\n{_list(calls)}\n{FENCE}",
    "gemma-4": _gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "generic": _list,
    "harmony": _each("<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>JSON"),
    "hermes": _objects("arguments", "\n", "<tool_call>\n{}\n</tool_call>"),
    "llama3": _objects("parameters", "; "),
    "mistral": lambda calls: f"[TOOL_CALLS][{_objects('arguments', ', ')(calls)}]",
    "mistral-args": _each("[TOOL_CALLS]NAME[ARGS]JSON"),
    "mistral-ids": _each("[TOOL_CALLS]NAME[CALL_ID]a1b2c3d4e[ARGS]JSON"),
    "qwen-coder": _coded,
}

# Behind these, there is nothing but further calls.
BARE = {"generic", "llama3", "gemma", "deepseek", "deepseek-3.1", "mistral", "harmony", "functionary-3.2"}
# Here the names of tools are what makes a call one.
NAMED = {"generic", "llama3", "gemma", "functionary-3.2"}


@pytest.fixture(params=[False, True], ids=["text", "tokens"])
def as_tokens(request: pytest.FixtureRequest) -> bool:
    """Whether the marks are control tokens."""
    return bool(request.param)


class Asked:
    """The rule for a request, and what its outputs may be."""

    def __init__(self, name: str, as_tokens: bool, **fields: Any) -> None:
        self.dialect: Dialect = ALL[name]
        self.controls = self.dialect.specials if as_tokens else ()
        request = ask(**fields)
        rule = output_rule(request, self.dialect, controls=control_ids(self.controls), thinking=False)
        assert rule is not None
        self.rule: OutputRule = rule
        self.write = WRITE[name]

    def takes(self, text: str) -> bool:
        taken = [follows(self.rule, text, self.controls, size=size) for size in (1, 3, 1000)]
        assert len(set(taken)) == 1
        return taken[0]


def ask(**fields: Any) -> ChatCompletionRequest:
    return chat(say("user", "x"), **{"tools": [WEATHER, ADD], **fields})


def wrong_for(name: str) -> list[Call]:
    """Wrong calls; where strings have no quotes, a number is one."""
    return [call for call in WRONG if not (name == "qwen-coder" and call[1].get("city") == 1)]


@pytest.mark.parametrize("name", sorted(ALL))
def test_required_calls(name: str, as_tokens: bool) -> None:
    asked = Asked(name, as_tokens, tool_choice="required")
    assert asked.takes(asked.write([BERLIN]))
    assert asked.takes(asked.write([SUM]))
    assert asked.takes(asked.write([BERLIN, SUM])) == (name != "harmony")
    for text in ("", "hello", f"{asked.dialect.answer}hello", asked.write([BERLIN])[:-1], asked.write([SUM]) + " x"):
        assert not asked.takes(text)
    for call in wrong_for(name):
        assert not asked.takes(asked.write([call]))
        assert not asked.takes(asked.write([BERLIN, call]))


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_call_as_the_dialect_writes_it_is_read_and_allowed(name: str, as_tokens: bool) -> None:
    asked = Asked(name, as_tokens, tool_choice="required")
    text = asked.dialect.write("add", '{"a": 1, "b": 2}')
    heard = hear(asked.dialect.parser([WEATHER, ADD], make_id=ids()), text)
    assert (heard.content, [(call, json.loads(arguments)) for _, call, arguments in heard.calls]) == (
        "",
        [("add", {"a": 1, "b": 2})],
    )
    assert asked.takes(text.removeprefix(">>>"))  # which ends the prompt


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_named_tool_is_the_one_that_is_called(name: str, as_tokens: bool) -> None:
    asked = Asked(name, as_tokens, tool_choice=NamedTool(names=["add"]))
    assert asked.takes(asked.write([SUM]))
    assert not asked.takes(asked.write([BERLIN]))


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_without_parallel_calls_there_is_one(name: str, choice: Any, as_tokens: bool) -> None:
    asked = Asked(name, as_tokens, tool_choice=choice, parallel_tool_calls=False)
    assert asked.takes(asked.write([SUM]))
    assert not asked.takes(asked.write([SUM, SUM]))
    assert not asked.takes(asked.write([SUM]) + "x")


@pytest.mark.parametrize("name", sorted(ALL))
def test_free_calls_are_enforced_from_their_first_mark_on(name: str, as_tokens: bool) -> None:
    asked = Asked(name, as_tokens)
    before = "" if name in NAMED or name == "harmony" else "I look it up.\n"
    assert asked.takes(f"{asked.dialect.answer}hello, [you] {{there}}")
    assert asked.takes(before + asked.write([BERLIN]))
    assert asked.takes(before + asked.write([BERLIN, SUM])) == (name != "harmony")
    assert asked.takes(before + asked.write([BERLIN]) + "\nDone.") == (name not in BARE)
    for call in wrong_for(name):
        if call[0] in ("get_weather", "add") or name not in NAMED:
            assert not asked.takes(before + asked.write([call]))
        assert not asked.takes(before + asked.write([BERLIN, call]))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_only_looks_like_a_call_is_free(name: str) -> None:
    asked = Asked(name, False)
    for text in ('{"name": "Alice", "arguments": {}}', '[{"name": "x"}, 1]', "Alice\n{", f"{FENCE}json\n{{}}\n{FENCE}"):
        assert not triggered(asked.rule, text)
        assert asked.takes(text)


@pytest.mark.parametrize("name", sorted(NAMED - {"gemma", "functionary-3.2"}))
def test_bare_calls_are_calls_at_the_beginning_only(name: str) -> None:
    asked = Asked(name, False)
    text = asked.write([BERLIN])
    assert triggered(asked.rule, text)
    assert triggered(asked.rule, f" \n{text}")
    assert triggered(asked.rule, f"<think>{{x</think>\n{text}")
    assert triggered(asked.rule, text.replace('{"name": ', '{\n  "name": '))
    assert not triggered(asked.rule, f"For example: {text}")
    assert not triggered(asked.rule, f"<think>{text}</think>Hello")


@pytest.mark.parametrize("name", sorted(ALL))
def test_calls_in_thought_are_no_calls(name: str) -> None:
    asked = Asked(name, False)
    marks, wrong = asked.dialect.thinking, asked.write([WRONG[1]])
    thought = f"{marks.open}\n{wrong}\n{marks.close}{marks.after}"
    assert asked.takes(f"{thought}\n{asked.dialect.answer}hello")
    assert asked.takes(f"{thought}{asked.write([BERLIN])}")
    assert not asked.takes(f"{thought}{wrong}")
    opened = output_rule(ask(), asked.dialect, thinking=True)
    assert opened is not None
    assert follows(opened, thought.removeprefix(marks.open))
    assert not follows(opened, thought.removeprefix(marks.open) + wrong)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_required_call_may_follow_open_reasoning(name: str, as_tokens: bool) -> None:
    dialect = ALL[name]
    controls = dialect.specials if as_tokens else ()
    rule = output_rule(ask(tool_choice="required"), dialect, thinking=True, controls=control_ids(controls))
    end = f"{dialect.thinking.close}{dialect.thinking.after}"
    assert follows(rule, f"I think {{\n{end}{WRITE[name]([SUM])}", controls)
    assert not follows(rule, f"I think{end}hello", controls)
    assert not follows(rule, WRITE[name]([SUM]), controls)


def test_a_model_that_thinks_by_itself_may_do_so_before_a_required_call(as_tokens: bool) -> None:
    asked = Asked("harmony", as_tokens, tool_choice="required")
    assert asked.takes(f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{asked.write([BERLIN])}")
    assert not asked.takes("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes")


@pytest.mark.parametrize("name", sorted(name for name, dialect in ALL.items() if dialect.tells_from_json))
def test_a_constraint_holds_for_answers_beside_calls(name: str, as_tokens: bool) -> None:
    constraint = JsonConstraint(
        schema={"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    )
    asked = Asked(name, as_tokens, constraint=constraint)
    assert asked.rule.triggers == ()
    assert asked.takes(f'{asked.dialect.answer}{{"sum": 3}}')
    assert asked.takes(asked.write([SUM]))
    assert not asked.takes(f'{asked.dialect.answer}{{"total": 3}}')
    assert not asked.takes(f"{asked.dialect.answer}hello")
    alone = Asked(name, as_tokens, constraint=constraint, tools=[])
    assert alone.takes(f'{asked.dialect.answer}{{"sum": 3}}')
    assert not alone.takes(asked.write([SUM]))


def test_llama_may_write_a_call_behind_its_tag(as_tokens: bool) -> None:
    asked = Asked("llama3", as_tokens)
    assert asked.takes("<|python_tag|>" + asked.write([SUM]))
    assert asked.takes("<|python_tag|>print(1)")
    assert not asked.takes("<|python_tag|>" + asked.write([WRONG[1]]))


def test_gpt_oss_may_put_the_function_before_the_channel(as_tokens: bool) -> None:
    asked = Asked("harmony", as_tokens)
    assert asked.takes(' to=functions.get_weather<|channel|>commentary json<|message|>{"city":"Berlin"}')
    assert not asked.takes(' to=functions.get_weather<|channel|>commentary json<|message|>{"town":"Berlin"}')
    said = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    assert asked.takes(f'{said} to=functions.get_weather<|channel|>commentary<|message|>{{"city":"Berlin"}}')
    assert not asked.takes(f"{said} to=functions.forecast<|channel|>commentary<|message|>{{}}")


# --- schemas that are not written as JSON ----------------------------------------------------------------------

TRIP = Tool(
    name="trip",
    parameters={
        "type": "object",
        "properties": {
            "to": {"type": "string", "enum": ["Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "via": {"type": "array", "items": {"$ref": "#/$defs/stop"}},
            "note": {"type": ["string", "null"]},
        },
        "required": ["to", "via"],
        "additionalProperties": False,
        "$defs": {
            "stop": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "next": {"$ref": "#/$defs/stop"}},
                "required": ["at"],
                "additionalProperties": False,
            }
        },
    },
)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("inner", "fits"),
    [
        ('to:"Rome",via:[]', True),
        ('days:3,note:null,to:"Oslo",via:[{at:"x"},{at:"y",next:{at:"z"}}]', True),
        ('days:3,note:"n",to:"Oslo",via:[]', True),
        ('days:10,to:"Oslo",via:[]', False),
        ('to:"Paris",via:[]', False),
        ('to:"Rome"', False),
        ('to:"Rome",via:[1]', False),
        ('to:"Rome",via:[{next:{at:"z"}}]', False),
        ('to:"Rome",via:[],more:1', False),
        ('days:3,to:"Rome",via:[],', False),
        ("", False),
    ],
)
def test_arguments_of_gemma_fit_their_schema(inner: str, fits: bool, strict: bool, as_tokens: bool) -> None:
    tool = Tool(name="trip", parameters=TRIP.parameters, strict=strict)
    asked = Asked("gemma-4", as_tokens, tools=[tool], tool_choice="required")
    text = f"<|tool_call>call:trip{{{inner}}}<tool_call|>".replace('"', '<|"|>')
    assert asked.takes(text) == fits


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("parameters", "fits"),
    [
        ([("to", "Rome"), ("via", "[]")], True),
        ([("to", "Oslo"), ("days", "3"), ("via", '[{"at": "x"}]'), ("note", "any </x>\ntext")], True),
        ([("to", "Oslo"), ("days", "10"), ("via", "[]")], False),
        ([("to", "Paris"), ("via", "[]")], False),
        ([("to", "Rome")], False),
        ([("to", "Rome"), ("via", "x")], False),
        ([("to", "Rome"), ("via", "[]"), ("more", "1")], False),
        ([], False),
    ],
)
def test_parameters_of_qwen_coder_fit_their_schema(
    parameters: list[tuple[str, str]], fits: bool, strict: bool, as_tokens: bool
) -> None:
    tool = Tool(name="trip", parameters=TRIP.parameters, strict=strict)
    asked = Asked("qwen-coder", as_tokens, tools=[tool], tool_choice="required")
    assert asked.takes(_coded([("trip", dict(parameters))])) == fits


@pytest.mark.parametrize("name", ["gemma-4", "qwen-coder"])
def test_other_arguments_may_come_where_the_schema_lets_them(name: str) -> None:
    tool = Tool(name="log", parameters={"properties": {"a": {"type": "integer"}}, "additionalProperties": True})
    asked = Asked(name, False, tools=[tool], tool_choice="required")
    for arguments in ({}, {"a": 1}, {"b": "x"}, {"a": 1, "b": "x", "c": "y"}):
        assert asked.takes(asked.write([("log", arguments)]))
    assert not asked.takes(asked.write([("log", {"a": "x"})]))


@pytest.mark.parametrize("name", ["gemma-4", "function-gemma", "qwen-coder"])
@pytest.mark.parametrize(
    "part",
    [
        {"properties": {"a": {"type": "string", "pattern": "^x"}}},
        {"properties": {"a": {"type": "string", "maxLength": 3}}},
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}},
    ],
)
def test_strict_schemas_that_cannot_be_enforced_are_refused(name: str, part: dict[str, Any]) -> None:
    tool = Tool(name="log", parameters={"type": "object", **part}, strict=True)
    with pytest.raises(Unsupported, match="'log'") as caught:
        output_rule(ask(tools=[tool]), ALL[name])
    assert caught.value.param == "tools"
    loose = Tool(name="log", parameters={"type": "object", **part})
    assert output_rule(ask(tools=[loose]), ALL[name]) is not None


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": "object", "required": 3}, {"properties": 3}])
def test_wrong_schemas_do_not_matter_where_nothing_is_enforced(name: str, parameters: dict[str, Any]) -> None:
    asked = Asked(name, False, tools=[Tool(name="add", parameters=parameters)])
    assert asked.takes(asked.write([("add", {"b": 1})]))
    assert not asked.takes(asked.write([("add", {"b": 1})])[:-1] + "'") or name == "harmony"


# --- outputs that a model could make ---------------------------------------------------------------------------

LIKELY = frozenset(b'{}[]":,<>/|=_`\n tool_cakfunciprmeghdbws0123456789')


def _outputs(rule: OutputRule, controls: Sequence[str], seed: int, length: int = 400) -> str | None:
    """A complete output that the grammar allows, chosen at random."""
    rng = random.Random(seed)
    tokenizer = byte_tokenizer(controls)
    matcher = LLMatcher(tokenizer, rule.grammar)
    bits = llguidance.numpy.allocate_token_bitmask(1, tokenizer.vocab_size)
    tokens: list[int] = []
    texts = {token: text for text, token in control_ids(controls).items()}
    for _ in range(length):
        if matcher.is_stopped():
            break
        llguidance.numpy.fill_next_token_bitmask(matcher, bits)
        allowed = [token for token in range(tokenizer.vocab_size) if bits[0, token // 32] >> (token % 32) & 1]
        if END in allowed and rng.random() < 0.3:
            break
        allowed = [token for token in allowed if token != END]
        likely = [token for token in allowed if token > END or token in LIKELY]
        ends = [token for token in allowed if token > END or token in b'"<}\n']
        token = rng.choice(ends if ends and rng.random() < 0.4 else likely or allowed)
        assert matcher.consume_token(token)
        tokens.append(token)
    if not matcher.is_accepting():
        return None
    data = b"".join(texts[token].encode() if token in texts else bytes([token]) for token in tokens)
    return data.decode("utf-8", "replace")


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_the_grammar_allows_the_parser_understands(name: str, as_tokens: bool) -> None:
    strict = Tool(name="trip", parameters=TRIP.parameters, strict=True)
    asked = Asked(name, as_tokens, tools=[WEATHER, ADD, strict], tool_choice="required")
    complete = (text for seed in range(60) if (text := _outputs(asked.rule, asked.controls, seed)) is not None)
    found = list(itertools.islice(complete, 6))
    assert len(found) > 3
    for text in found:
        heard = hear(asked.dialect.parser([WEATHER, ADD, strict], make_id=ids()), *text)
        assert heard.content == "", text
        assert heard.calls, text
        for _, called, arguments in heard.calls:
            _check(called, json.loads(arguments))


def _check(name: str, arguments: dict[str, Any]) -> None:
    if name == "get_weather":
        assert set(arguments) == {"city"}
        assert isinstance(arguments["city"], str)
    elif name == "add":
        assert {key: type(value) for key, value in arguments.items()} == {"a": int, "b": int}
    else:
        assert name == "trip"
        assert arguments["to"] in ("Rome", "Oslo")
        assert all(isinstance(stop["at"], str) for stop in arguments["via"])
        assert 1 <= arguments.get("days", 1) <= 9
        assert set(arguments) <= {"to", "days", "via", "note"}
