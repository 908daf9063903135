"""Grammars of a model's configuration: read, named by requests, and put in the place of their names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from infs.config import ModelConfig, load_config, parse_model
from infs.demo import demo_model
from infs.errors import ConfigError, InvalidRequest
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    ChoiceConstraint,
    Constraint,
    Event,
    GrammarConstraint,
    JsonConstraint,
    NamedConstraint,
    OwnConstraint,
    TextCompletionRequest,
    TextCompletionResult,
    Usage,
)

FILE = r"""
[models.m]
file = "m.gguf"
completion_defaults = { constraint = { type = "named", name = "line" } }

[models.m.grammars]
line = 'root ::= [a-z]+ "\n"'
answer = { type = "choice", options = ["yes", "no"] }

[models.m.grammars.person]
type = "json"
whitespace = "flexible"
schema = { type = "object", properties = { age = { type = "integer" } } }
"""


class Noting(FakeEngine):
    """Notes the constraints of its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.constraints: list[Any] = []

    async def run(self, request: Any, context: Any) -> AsyncGenerator[Event]:
        self.constraints.append(request.constraint)
        yield TextCompletionResult(choices=[], usage=Usage())


def test_a_file_has_grammars_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "infs.toml"
    path.write_text(FILE)
    grammars = load_config(path).models["m"].grammars
    assert grammars == {
        "line": 'root ::= [a-z]+ "\\n"',
        "answer": ChoiceConstraint(options=["yes", "no"]),
        "person": JsonConstraint(
            schema={"type": "object", "properties": {"age": {"type": "integer"}}}, whitespace="flexible"
        ),
    }
    assert parse_model("m", load_config(path).models["m"]).grammars == grammars


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ({"type": "jsn"}, r"grammars.g.type: 'jsn' is none of 'choice', 'grammar', 'json', 'regex'"),
        ({"schema": {}}, r"grammars.g.type: it is missing; there are 'choice', 'grammar', 'json', 'regex'"),
        ({"type": "named", "name": "g"}, r"grammars.g.type: 'named' is none of"),
        ({"type": "json", "shema": {}}, r"unknown key 'models.m.grammars.g.shema'; did you mean 'schema'"),
        ({"type": "json", "schema": 1}, r"grammars.g.schema: Expected `object \| null`, got `int`"),
        ({"type": "choice", "options": []}, r"grammars.g.options: Expected `array` of length >= 1"),
        ({"type": "grammar"}, r"grammars.g: Object missing required field `grammar`"),
        ({"type": "grammar", "grammar": "a", "syntax": "ebnf"}, r"grammars.g.syntax: Invalid enum value 'ebnf'"),
        (1, r"grammars.g: Expected `str \| object`, got `int`"),
    ],
)
def test_wrong_grammars_are_named(grammar: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_model("m", {"file": "m.gguf", "grammars": {"good": "text", "g": grammar}})


def test_a_default_has_to_name_one_that_is_there() -> None:
    defaults = {"constraint": {"type": "named", "name": "other"}}
    with pytest.raises(ConfigError, match=r"completion_defaults.constraint: .*'other'.*; there are: a, b") as caught:
        parse_model("m", {"completion_defaults": defaults, "grammars": {"b": "x", "a": "y"}})
    assert caught.value.param == "models.m.completion_defaults.constraint"
    with pytest.raises(ConfigError, match="there are: none"):
        parse_model("m", {"completion_defaults": defaults})


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (NamedConstraint(name="line"), GrammarConstraint(grammar="root ::= [a-z]+")),
        (NamedConstraint(name="answer"), ChoiceConstraint(options=["yes"])),
        (ChoiceConstraint(options=["no"]), ChoiceConstraint(options=["no"])),
    ],
)
async def test_engines_get_what_a_name_stands_for(asked: Constraint, got: Constraint) -> None:
    engine = Noting()
    grammars: dict[str, OwnConstraint | str] = {"line": "root ::= [a-z]+", "answer": ChoiceConstraint(options=["yes"])}
    defaults = {"constraint": {"type": "named", "name": "answer"}}
    model = ModelConfig(engine="fake", grammars=grammars, completion_defaults=defaults)
    async with InferenceServer({"m": model}, {"fake": lambda: engine}) as server:
        await server.run(TextCompletionRequest(model="m", prompt="x", constraint=asked))
        await server.run(TextCompletionRequest(model="m", prompt="x"))
    assert engine.constraints == [got, ChoiceConstraint(options=["yes"])]


async def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    model = ModelConfig(engine="fake", grammars={"b": "x", "a": "y"})
    async with InferenceServer({"m": model}, {"fake": FakeEngine}) as server:
        with pytest.raises(
            InvalidRequest, match=r"'m' has no grammar 'c' in its configuration; there are: a, b"
        ) as caught:
            await server.run(TextCompletionRequest(model="m", prompt="x", constraint=NamedConstraint(name="c")))
    assert caught.value.param == "constraint"


async def test_a_model_writes_what_a_named_grammar_says_and_a_wrong_one_is_known_at_load() -> None:
    demo = demo_model()
    good = ModelConfig(file=demo.file, device=demo.device, grammars={"answer": ChoiceConstraint(options=["yes", "no"])})
    bad = ModelConfig(file=demo.file, device=demo.device, grammars={"fine": 'root ::= "a"', "wrong": "root ::= ["})
    async with InferenceServer({"good": good, "bad": bad}) as server:
        asked = TextCompletionRequest(model="good", prompt="Well, ", constraint=NamedConstraint(name="answer"))
        assert (await server.run(asked)).text in ("yes", "no")
        with pytest.raises(ConfigError, match=r"grammars\.wrong: .*line 1"):
            await server.run(TextCompletionRequest(model="bad", prompt="x"))
