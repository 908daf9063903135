"""Grammars for constraints: what they accept is exactly what was asked for, and the rest is refused beforehand."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.chat.constraints import after_reasoning, compile_constraint
from infs.chat.schema import parts
from infs.errors import InvalidRequest, RequestError, Unsupported
from infs.types import ChoiceConstraint, GrammarConstraint, JsonConstraint, RegexConstraint
from tests.chat.matching import accepts, byte_tokenizer


def json_grammar(schema: dict[str, Any] | None) -> str | None:
    return compile_constraint(JsonConstraint(schema=schema))


def test_no_constraint_is_no_grammar() -> None:
    assert compile_constraint(None) is None


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (None, ['{"a": [1, null]}', "{}"], ["[]", "1", '"a"', "{"]),
        ({}, ["[]", "1", '"a"', "null"], ["", "x"]),
        ({"type": "integer", "minimum": 2, "maximum": 4}, ["2", "4"], ["1", "5", "2.5"]),
        ({"type": "number", "exclusiveMinimum": 3}, ["3.5", "4"], ["3", "2"]),
        ({"type": "integer", "multipleOf": 3}, ["6"], ["7"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"äöü"'], ['"a"', '"abcd"']),
        ({"type": "string", "pattern": "^a+$"}, ['"aa"'], ['"ab"']),
        ({"type": "string", "format": "date"}, ['"2024-02-01"'], ['"yesterday"']),
        ({"type": ["string", "null"]}, ['"a"', "null"], ["1"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "2"]),
        ({"const": {"a": 1}}, ['{"a": 1}'], ['{"a": 2}']),
        ({"type": "array", "items": {}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]"]),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": False}, ['["a"]'], ["[1]", '["a", 1]']),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "1"], ["null"]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ['"a"', "1"], ["null"]),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ['{"a": null}'], ['{"a": "b"}']),
        ({"type": "object", "maxProperties": 1}, ['{"a": 1}', "{}"], ['{"a": 1, "b": 2}']),
    ],
)  # fmt: skip
def test_schemas_are_enforced(schema: dict[str, Any] | None, good: list[str], bad: list[str]) -> None:
    grammar = json_grammar(schema)
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


def test_objects_need_what_is_required_and_nothing_else() -> None:
    grammar = json_grammar(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    )
    assert accepts(grammar, '{"name": "a", "next": {"name": "b"}}')
    assert not accepts(grammar, '{"next": {"name": "b"}}')
    assert not accepts(grammar, '{"name": "a", "age": 1}')


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"if": {"type": "string"}, "then": {"minLength": 1}},
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": {"type": "string"}},
        {"type": "array", "minContains": 1},
        {"type": "array", "unevaluatedItems": False},
        {"type": "object", "propertyNames": {"pattern": "^a"}},
        {"type": "object", "dependentSchemas": {"a": {}}},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"type": "object", "dependencies": {"a": ["b"]}},
        {"type": "object", "unevaluatedProperties": False},
        {"type": "string", "format": "iri"},
        {"$dynamicRef": "#a"},
        {"type": "string", "nullable": True},
        {"type": "integer", "divisibleBy": 2},
        {"extends": {"type": "string"}},
        {"disallow": "string"},
        {"type": "string", "x-guidance": {"lenient": True}},
    ],
)
def test_what_cannot_be_enforced_is_refused_with_keyword_and_place(schema: dict[str, Any]) -> None:
    outer = {"type": "object", "properties": {"a": {"type": "array", "items": schema}, "b": {"type": "string"}}}
    keyword = next(key for key in schema if key not in ("type", "$defs"))
    with pytest.raises(Unsupported) as caught:
        json_grammar(outer)
    assert caught.value.param == "response_format"
    assert "#/properties/a/items:" in caught.value.message
    assert (schema["format"] if keyword == "format" else keyword) in caught.value.message


def test_the_place_may_be_in_a_definition() -> None:
    schema = {"$ref": "#/$defs/part", "$defs": {"part": {"type": "array", "uniqueItems": True}, "other": {"not": {}}}}
    with pytest.raises(Unsupported, match="#/\\$defs/part"):
        json_grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"type": "integer", "minimum": 3, "maximum": 1},
        {"required": "a"},
        {"enum": []},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema"},
        {"type": "string", "minLength": -1},
        {"type": "string", "pattern": "("},
    ],
)
def test_wrong_schemas_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_grammar(schema)
    assert caught.value.param == "response_format"


def test_schemas_nested_beyond_measure_are_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(100_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidRequest):
        json_grammar(schema)


def test_annotations_and_demands_that_demand_nothing_are_fine() -> None:
    annotations = {"title": "t", "description": "d", "default": 1, "examples": [1], "$comment": "c", "deprecated": True}
    nothing = {"uniqueItems": False, "nullable": False, "unevaluatedProperties": True, "x-order": 3}
    assert accepts(json_grammar({"type": "integer", **annotations, **nothing}), "3")


def test_properties_may_be_called_like_keywords() -> None:
    schema = {"type": "object", "properties": {"not": {"type": "integer"}, "nullable": {"type": "string"}}}
    assert accepts(json_grammar(schema), '{"not": 1, "nullable": "a"}')


def test_the_schema_of_the_request_is_left_alone() -> None:
    schema = {"type": "array", "uniqueItems": False, "items": {}}
    json_grammar(schema)
    assert schema == {"type": "array", "uniqueItems": False, "items": {}}


@pytest.mark.parametrize("value", [{"a": {"b": [1, {"c": []}]}, "d": "e"}])
def test_usual_layouts_are_accepted(value: object) -> None:
    grammar = json_grammar(None)
    for indent in (None, 2, 4, "\t"):
        assert accepts(grammar, json.dumps(value, indent=indent))
    assert accepts(grammar, json.dumps(value, separators=(",", ":")))


@pytest.mark.parametrize("blanks", ["  ", "\n\n", "\n" + " " * 33, "\t"])
def test_blanks_are_bounded(blanks: str) -> None:
    assert not accepts(json_grammar(None), '{"a":' + blanks + "1}")


KEYWORDS = st.sampled_from(["type", "not", "items", "properties", "enum", "minimum", "$ref", "anyOf", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["string", "object", "#", "#/x", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_any_schema_is_compiled_or_refused(schema: dict[str, Any]) -> None:
    assert next(parts(schema)) == ("#", schema)
    with contextlib.suppress(RequestError):
        assert json_grammar(schema) is not None


# --- other kinds ----------------------------------------------------------------------------------------------


def test_a_regular_expression_is_the_whole_output() -> None:
    grammar = compile_constraint(RegexConstraint(pattern=r"[a-c]{2}/\d"))
    assert accepts(grammar, "ab/1")
    assert not accepts(grammar, "ab/1 ")
    assert not accepts(grammar, "xab/1")


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", r"(a)\1", r"\bword"])
def test_regular_expressions_that_cannot_be_enforced_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_constraint(RegexConstraint(pattern=pattern))
    assert caught.value.param == "regex"


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_choice_is_one_of_the_options_exactly(options: list[str]) -> None:
    grammar = compile_constraint(ChoiceConstraint(options=options))
    assert all(accepts(grammar, option) for option in options)
    for other in (options[0] + "x", options[0][:-1], ""):
        assert accepts(grammar, other) == (other in options)


def test_gbnf_grammars_are_translated() -> None:
    grammar = compile_constraint(
        GrammarConstraint(grammar='root ::= item{2,3}\nitem ::= "- " [^\\n]+ "\\n"  # a line\n')
    )
    assert accepts(grammar, "- a\n- b\n")
    assert not accepts(grammar, "- a\n")


def test_lark_grammars_are_taken() -> None:
    grammar = compile_constraint(GrammarConstraint(grammar='start: "a" %json {"type": "integer"}', syntax="lark"))
    assert accepts(grammar, "a12")
    assert not accepts(grammar, "ab")


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        ("gbnf", 'root ::= "a'),
        ("gbnf", "root ::= missing"),
        ("gbnf", ""),
        ("lark", 'start: "a'),
        ("lark", "start: missing"),
        ("lark", 'rule: "a"'),
        ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
    ],
)
def test_wrong_grammars_are_refused(syntax: Any, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_constraint(GrammarConstraint(grammar=text, syntax=syntax))
    assert caught.value.param == "grammar"
    assert len(caught.value.message) < 1000


def test_special_tokens_are_checked_with_the_tokenizer() -> None:
    constraint = GrammarConstraint(grammar='start: "a" <|missing|>', syntax="lark")
    assert compile_constraint(constraint) is not None
    with pytest.raises(InvalidRequest, match="missing"):
        compile_constraint(constraint, tokenizer=byte_tokenizer())


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (JsonConstraint(), '{"a": 1}'),
        (RegexConstraint(pattern="a+"), "aaa"),
        (ChoiceConstraint(options=["yes", "no"]), "no"),
        (GrammarConstraint(grammar='root ::= "x" | "y"'), "y"),
    ],
)
def test_reasoning_is_free_and_the_answer_behind_it_is_not(constraint: Any, answer: str) -> None:
    grammar = compile_constraint(constraint)
    assert grammar is not None
    free = after_reasoning(grammar)
    assert accepts(free, f"well, {{ maybe\n</think>\n\n{answer}")
    assert not accepts(free, answer)
    assert not accepts(free, "well</think>what")
