"""Grammars for constraints: what they accept is exactly what was asked for, and the rest is refused beforehand."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from infs.chat.constraints import check_grammars, compile_constraint
from infs.chat.schema import parts
from infs.errors import ConfigError, InvalidRequest, RequestError, Unsupported
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
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.1", "0.5"], ["0", "0.0", "-0", "0.6"]),
        ({"allOf": [{"exclusiveMaximum": -1}, {"type": "number", "minimum": -1.5}]}, ["-1.5", "-1.01"], ["-1", "-1.6"]),
        ({"type": "number", "multipleOf": 0.01}, ["19.99", "-0.5", "3"], ["19.999"]),
        ({"const": 1.0}, ["1"], ["2"]),
        ({"type": "string", "minLength": 1.0, "maxLength": 2.0}, ['"a"'], ['""', '"abc"']),
        ({"type": "string", "pattern": "b"}, ['"abc"'], ['"ac"']),
        ({"type": "string", "pattern": "^a|b$"}, ['"ax"', '"xb"'], ['"xa"']),
        ({"pattern": "^2", "format": "date"}, ['"2024-02-29"', "1"], ['"2023-02-29"', '"1999-01-01"']),
        ({"type": "string", "format": "of our own"}, ['"anything"'], ["1"]),
        ({"patternProperties": {"^\\w$": {"type": "null"}}}, ['{"a": null, "é": 1}'], ['{"a": 1}']),
        ({"dependentRequired": {"a": ["b"]}}, ['{"b": 1}', '{"b": 1, "a": 1}', "1"], ['{"a": 1}']),
        ({"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}}, ['{"a": 1, "b": 1}'], ['{"a": 1}']),
        ({"dependencies": {"a": {"required": ["b"]}}}, ['{"b": 1}', '{"b": 1, "a": 1}'], ['{"a": 1}']),
        ({"dependentSchemas": {"a": {"maxProperties": 1}}}, ['{"a": 1}'], ['{"a": 1, "b": 1}']),
        ({"then": {"type": "string"}, "maxContains": 1}, ["1"], []),
        ({"type": "object", "required": ["a"]}, ['{"a": 1}', '{"a": 1, "b": 2}'], ["{}", '{"b": 1}']),
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
        {"contains": {}, "minContains": 1},
        {"type": "array", "unevaluatedItems": False},
        {"type": "object", "propertyNames": {"pattern": "^a"}},
        {"type": "object", "dependentRequired": {name: ["z"] for name in "abcde"}},
        {"type": "object", "unevaluatedProperties": False},
        {"type": "string", "format": "idn-hostname"},
        {"type": "string", "format": "regex"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "\\bword"},
        {"type": "string", "pattern": "(a)\\1"},
        {"type": "object", "patternProperties": {"(?!a)": {}}},
        {"type": "object", "patternProperties": {"a": {}, "b": {"type": "null"}}},
        {"const": 2**53 + 1},
        {"enum": [1, {"a": [-(2**60)]}]},
        {"type": "integer", "minimum": 10**30},
        {"type": "number", "multipleOf": 0.25},
        {"type": "integer", "multipleOf": 1000003},
        {"oneOf": [{"minLength": 1}, {"type": "string"}]},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$schema": "https://example.com/my-dialect"},
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


@pytest.mark.parametrize("kind", [{"$ref": "#/$defs/%s"}, {"allOf": [], "$ref": "#/$defs/%s"}])
def test_alternatives_that_a_property_tells_apart_may_be_exclusive(kind: dict[str, Any]) -> None:
    def named(name: str) -> Any:
        return json.loads(json.dumps(kind).replace("%s", name))

    schema = {
        "oneOf": [named("leaf"), named("pair")],
        "$defs": {
            "leaf": {"type": "object", "properties": {"kind": {"const": "leaf"}}, "required": ["kind"]},
            "pair": {
                "type": "object",
                "properties": {"kind": {"enum": ["pair"]}, "one": {"oneOf": [named("leaf"), named("pair")]}},
                "required": ["kind"],
            },
        },
    }
    grammar = json_grammar(schema)
    assert accepts(grammar, '{"kind": "pair", "one": {"kind": "pair", "one": {"kind": "leaf"}}}')
    assert not accepts(grammar, '{"kind": "pair", "one": {"kind": "other"}}')


def test_the_draft_says_whether_something_counts_beside_a_reference() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/definitions/list", "maxItems": 1}},
        "definitions": {"list": {"type": "array"}},
    }
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    assert accepts(json_grammar(old), '{"a": [1, 2]}')
    assert not accepts(json_grammar(schema), '{"a": [1, 2]}')


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"enum": [f"value {number}" for number in range(200_000)]},
        {"type": "string", "pattern": "^(?:(?:a{1000}){1000})$"},
        {"allOf": [{"type": "array", "minItems": 2}, {"maxItems": 1}]},
        {"$ref": "#/$defs/0", "$defs": {str(at): {"allOf": [{"$ref": f"#/$defs/{at + 1}"}] * 2} for at in range(40)}},
    ],
)  # fmt: skip
def test_schemas_that_nothing_fits_or_that_are_too_big_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_grammar(schema)
    assert caught.value.param == "response_format"
    assert len(caught.value.message) < 1000


def test_long_chains_of_references_are_followed() -> None:
    definitions: dict[str, Any] = {str(number): {"$ref": f"#/$defs/{number + 1}"} for number in range(500)}
    assert accepts(json_grammar({"$ref": "#/$defs/0", "$defs": {**definitions, "500": {"type": "null"}}}), "null")


DOCUMENT = {"id": 1, "tags": ["new", {}], "inner": {"none": None, "list": []}}
PROPERTIES = {"id": {"type": "integer"}, "tags": {"type": "array"}, "inner": {"type": "object"}}


def test_with_a_schema_the_layout_is_that_of_json_dumps() -> None:
    schema = {"type": "object", "properties": PROPERTIES}
    assert accepts(json_grammar(schema), json.dumps(DOCUMENT))
    for other in (json.dumps(DOCUMENT, indent=2), json.dumps(DOCUMENT, separators=(",", ":")), "{ }"):
        assert not accepts(json_grammar(schema), other)
        assert accepts(compile_constraint(JsonConstraint(schema=schema, whitespace="flexible")), other) == (
            other != "{ }x"
        )


def test_what_the_schema_knows_is_forced() -> None:
    properties = {"name": {"enum": ["anna", "bert"]}, "of": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "of"], "additionalProperties": False}
    forced = {}
    for whitespace in ("compact", "flexible"):
        grammar = compile_constraint(JsonConstraint(schema=schema, whitespace=whitespace))
        matcher = LLMatcher(byte_tokenizer(), grammar)
        forced[whitespace] = bytes(matcher.compute_ff_tokens())
        matcher.consume_tokens(list(b'{"name": "a'))
        forced[whitespace] += b" .. " + bytes(matcher.compute_ff_tokens())
    assert forced["compact"] == b'{"name": " .. nna", "of": '
    assert forced["flexible"] == b'{ .. nna"'


def test_without_a_schema_compact_has_to_be_asked_for() -> None:
    grammar = compile_constraint(JsonConstraint(whitespace="compact"))
    assert accepts(grammar, json.dumps(DOCUMENT))
    assert not accepts(grammar, json.dumps(DOCUMENT, indent=2))


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


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^ab?$", ["a", "ab"], ["xa", "abc"]),
        ("a|b", ["a", "b"], ["ab"]),
        ("(?i)straße", ["STRASSE"[:4] + "ßE", "straße"], ["strasse"]),
        ("(?s).+", ["a\nb"], [""]),
        (".+", ["äé😀"], ["a\nb"]),
        (r"\p{Greek}{2}", ["αβ"], ["ab"]),
        (r"\d{2,3}?", ["12", "123"], ["1", "1234"]),
        ("", [""], ["a"]),
        ("(a{50}){50}", ["a" * 2500], ["a" * 50]),
    ],
)
def test_regular_expressions_are_rust_s(pattern: str, good: list[str], bad: list[str]) -> None:
    grammar = compile_constraint(RegexConstraint(pattern=pattern))
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "unclosed group"),
        ("(?=a)b", "looking ahead or behind"),
        ("(?<!a)b", "looking ahead or behind"),
        (r"(a)\1", "backreferences"),
        (r"\bword", "word boundary"),
        ("a$b", "anchor"),
        ("(?m)^a$", "anchor"),
        ("(a{1000}){1000}", "repeats more often"),
        ("a{4000000000}", "repeats more often"),
        ("((a{100}){100}|b){100}", "repeats more often"),
        (r"[a&&b]", "nothing can fit"),
    ],
)
def test_regular_expressions_that_cannot_be_enforced_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compile_constraint(RegexConstraint(pattern=pattern))
    assert caught.value.param == "regex"
    assert said in caught.value.message
    assert len(caught.value.message) < 1000


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_choice_is_one_of_the_options_exactly(options: list[str]) -> None:
    grammar = compile_constraint(ChoiceConstraint(options=options))
    assert all(accepts(grammar, option) for option in options)
    for other in (options[0] + "x", options[0][:-1], ""):
        assert accepts(grammar, other) == (other in options)


@pytest.mark.parametrize("options", [["a", "ab", "abc"], ["", "a"], [""], ["a", "a"], ['"', "\\", "/a/", "\n"]])
def test_options_may_begin_alike_or_be_empty(options: list[str]) -> None:
    grammar = compile_constraint(ChoiceConstraint(options=options))
    for text in {*options, "", "b", "abcd"}:
        assert accepts(grammar, text) == (text in options)


def test_there_may_be_many_options() -> None:
    grammar = compile_constraint(ChoiceConstraint(options=[f"option {number}" for number in range(10_000)]))
    assert accepts(grammar, "option 9999")
    assert not accepts(grammar, "option 10000")


def test_options_beyond_all_measure_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="too big") as caught:
        compile_constraint(ChoiceConstraint(options=[f"option {number}" for number in range(300_000)]))
    assert caught.value.param == "choice"


def test_grammars_of_a_configuration_are_checked_by_name() -> None:
    check_grammars({"yes": ChoiceConstraint(options=["yes"]), "line": 'root ::= [a-z]+ "\\n"'})
    with pytest.raises(ConfigError, match=r"grammars\.bad: .*line 1") as caught:
        check_grammars({"yes": ChoiceConstraint(options=["yes"]), "bad": 'root ::= "a'})
    assert caught.value.param == "grammars.bad"


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
