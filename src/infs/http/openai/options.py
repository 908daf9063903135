"""Settings of generation, from a body to the vocabulary; and the parameters that are refused, with the reason."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from starlette.requests import Request

from infs.errors import InvalidRequest, Unsupported
from infs.http.errors import details
from infs.http.openai.bodies import (
    Body,
    GenerationBody,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
)
from infs.http.openai.names import Names, renamed
from infs.http.reading import check_depth, check_names, parse_object, read_body, to_struct
from infs.http.service import Service
from infs.types import (
    GENERATION_OPTIONS,
    ChoiceConstraint,
    Constraint,
    GrammarConstraint,
    JsonConstraint,
    LogitBias,
    RegexConstraint,
    validate,
)
from infs.types import Request as Asked

log = logging.getLogger("infs.http")

B = TypeVar("B", bound=Body)
A = TypeVar("A", bound=Asked[Any])

# Passed on as they are; their ranges are those of the vocabulary.
PASSED = tuple(
    name
    for name in GENERATION_OPTIONS
    if name in GenerationBody.__struct_fields__ and name not in ("stop", "logit_bias")
)

LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")

# Parameters of which only these values can be honoured, and why.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "Completions are not stored."),
    "service_tier": (("auto", "default"), "There is one tier of service: 'default'."),
    "modalities": ((["text"],), "Models answer in text."),
    "verbosity": (("medium",), "Models have no setting of verbosity; say in a message how long the answer should be."),
    "prompt_cache_retention": (("in_memory",), "Prompts are cached in memory."),
    "prompt_cache_options": ((), "Prompts are cached on their own; there is nothing to set."),
    "audio": ((), "Models answer in text."),
    "prediction": ((), "Predicted outputs are not supported."),
    "moderation": ((), "There is no moderation."),
    "web_search_options": ((), "There is no web search."),
    "functions": ((), "Functions are the form before tools; send them in 'tools'."),
    "function_call": ((), "This is the form before 'tool_choice'; use that."),
    "timings": ((), "Timings are not reported."),
    "timings_per_token": ((), "Timings are not reported."),
}


async def read(service: Service, request: Request, kind: type[B]) -> B:
    """The body of `request` as `kind`.

    Raises:
        InvalidRequest: something in it is wrong.
        Unsupported: it asks for something that cannot be had.
    """
    sent = parse_object(await read_body(request, service.settings.max_body))
    fields = {name: value for name, value in sent.items() if value is not None}
    _check_model(fields.get("model"))
    details(request.scope)["model"] = fields["model"]
    _refuse(fields)
    check_names(fields, kind)
    body = to_struct(fields, kind)
    labels = {name: fields[name] for name in LABELS if name in fields}
    if labels:
        log.debug("%s %r", request.url.path, labels)
    return body


def _check_model(model: Any) -> None:
    if model is None or model == "":
        raise InvalidRequest("You must provide a model parameter; GET /v1/models lists the models.", param="model")
    if not isinstance(model, str):
        raise InvalidRequest("model must be the id of a model, a string.", param="model")


def _refuse(fields: dict[str, Any]) -> None:
    for name, (allowed, reason) in ONLY.items():
        if name not in fields:
            continue
        value = fields[name]
        if any(type(value) is type(one) and value == one for one in allowed):
            continue
        hint = f" Leave {name!r} out" + (f", or set it to {allowed[0]!r}." if allowed else ".")
        raise Unsupported(reason + hint, param=name)


def make(kind: type[A], names: Names, **fields: Any) -> A:
    """A checked request of the vocabulary; errors name the fields of the body."""
    with renamed(names):
        return validate(kind(**fields))


def generation_options(body: GenerationBody) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of the vocabulary that `body` sets, and what they are called in it."""
    if body.stream_options is not None:
        _check_stream_options(body)
    options = {name: value for name in PASSED if (value := getattr(body, name)) is not None}
    names: dict[str, str] = {}
    if body.timeout is not None:
        options["timeout"] = body.timeout
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
        found["response_format"] = JsonConstraint()
    if isinstance(body.response_format, JsonSchemaFormat):
        found["response_format"] = JsonConstraint(schema=_schema(body.response_format.json_schema))
    if body.grammar is not None:
        found["grammar"] = _grammar(body)
    if body.regex is not None:
        found["regex"] = RegexConstraint(pattern=body.regex)
    if body.choice is not None:
        found["choice"] = ChoiceConstraint(options=body.choice)
    if len(found) > 1:
        raise InvalidRequest(f"Only one of {', '.join(found)} can constrain the output.", param=list(found)[1])
    return next(iter(found.items()), None)


def _grammar(body: GenerationBody) -> GrammarConstraint:
    if isinstance(body.grammar, str):
        return GrammarConstraint(grammar=body.grammar)
    assert body.grammar is not None
    return GrammarConstraint(grammar=body.grammar.definition, syntax=body.grammar.syntax or "gbnf")


def _schema(asked: JsonSchema) -> dict[str, Any]:
    """The schema, with what was said beside it, in the keywords that JSON Schema has for that."""
    check_depth(asked.schema, "response_format.json_schema.schema")
    said = {"title": asked.name, "description": asked.description}
    return {**{key: text for key, text in said.items() if text is not None}, **asked.schema}
