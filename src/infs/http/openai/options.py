"""Settings of generation, from a body to the vocabulary."""

from __future__ import annotations

from typing import Any

from infs.errors import InvalidRequest, Unsupported
from infs.http.openai.bodies import (
    GenerationBody,
    GrammarBody,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
)
from infs.http.reading import check_depth
from infs.types import (
    GENERATION_OPTIONS,
    ChoiceConstraint,
    Constraint,
    GrammarConstraint,
    JsonConstraint,
    LogitBias,
    NamedConstraint,
    RegexConstraint,
)

# Passed on as they are; their ranges are those of the vocabulary.
PASSED = tuple(
    name
    for name in GENERATION_OPTIONS
    if name in GenerationBody.__struct_fields__ and name not in ("stop", "logit_bias")
)


def generation_options(body: GenerationBody) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of the vocabulary that `body` sets, and what they are called in it."""
    if body.stream_options is not None:
        _check_stream_options(body)
    options = {name: value for name in PASSED if (value := getattr(body, name)) is not None}
    names: dict[str, str] = {}
    options |= body.asking
    if body.stop is not None:
        options["stop"] = _stop(body.stop)
    if body.logit_bias is not None:
        options["logit_bias"] = _logit_bias(body.logit_bias)
    alias(body, "penalty_last_n", "repeat_last_n", options, names)
    constraint = _constraint(body)
    if constraint is not None:
        names["constraint"], options["constraint"] = constraint
    return options, names


def alias(body: GenerationBody, name: str, other: str, options: dict[str, Any], names: dict[str, str]) -> None:
    """Take option `name` from the field `other` if that is set; both are fine if they agree."""
    value, known = getattr(body, other), options.get(name)
    if value is None:
        return
    if known is not None and known != value:
        raise InvalidRequest(f"{name} and {other} mean the same and differ; send one of them.", param=other)
    options[name], names[name] = value, other


def _check_stream_options(body: GenerationBody) -> None:
    if not body.stream:
        raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise Unsupported("Streams are not obfuscated; leave it out.", param="stream_options.include_obfuscation")


def _stop(stop: str | list[str]) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if "" in stops:
        raise InvalidRequest("An empty stop text would stop every output at once.", param="stop")
    return stops


def _logit_bias(bias: dict[str, float] | list[LogitBias]) -> list[LogitBias]:
    if isinstance(bias, list):
        return bias
    if odd := [key for key in bias if not (key.isascii() and key.isdecimal() and len(key) < 11)]:
        raise InvalidRequest(
            f"logit_bias maps token ids to numbers, and {odd[0][:50]!r} is no token id; for texts send a list "
            'such as [{"token": "text", "bias": 1}].',
            param="logit_bias",
        )
    return [LogitBias(token=int(key), bias=value) for key, value in bias.items()]


def _constraint(body: GenerationBody) -> tuple[str, Constraint] | None:
    found: dict[str, Constraint] = {}
    if isinstance(body.response_format, JsonObjectFormat):
        found["response_format"] = JsonConstraint(whitespace=body.response_format.whitespace)
    if isinstance(body.response_format, JsonSchemaFormat):
        found["response_format"] = JsonConstraint(
            schema=_schema(body.response_format.json_schema), whitespace=body.response_format.whitespace
        )
    if body.grammar is not None:
        found["grammar"] = _grammar(body.grammar)
    if body.regex is not None:
        found["regex"] = RegexConstraint(pattern=body.regex)
    if body.choice is not None:
        found["choice"] = ChoiceConstraint(options=body.choice)
    if len(found) > 1:
        raise InvalidRequest(f"Only one of {', '.join(found)} can constrain the output.", param=list(found)[1])
    return next(iter(found.items()), None)


def _grammar(grammar: str | GrammarBody) -> GrammarConstraint | NamedConstraint:
    if isinstance(grammar, str):
        return GrammarConstraint(grammar=grammar)
    if grammar.name is not None and grammar.definition is None and grammar.syntax is None:
        return NamedConstraint(name=grammar.name)
    if grammar.definition is None or grammar.name is not None:
        raise InvalidRequest("A grammar has a definition (and its syntax), or a name alone.", param="grammar")
    return GrammarConstraint(grammar=grammar.definition, syntax=grammar.syntax or "gbnf")


def _schema(asked: JsonSchema) -> dict[str, Any]:
    """The schema, with what was said beside it, in the keywords that JSON Schema has for that."""
    check_depth(asked.schema, "response_format.json_schema.schema")
    said = {"title": asked.name, "description": asked.description}
    return {**{key: text for key, text in said.items() if text is not None}, **asked.schema}
