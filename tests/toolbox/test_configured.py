"""Tools of the configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from infs import ServerTool
from infs.config import parse_config
from infs.errors import ConfigError, GenerationFailed
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    Tool,
)
from tests.toolbox.scripted import CLIENTS, MODULE, USER, Scripted, add, calling, saying, told


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, with a name of its own; what is imported and found is forgotten again."""
    name = f"tools_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def configured(engine: FakeEngine, *tools: dict[str, Any], **model: Any) -> InferenceServer:
    config = parse_config({"models": {"m": {"engine": "fake", "tools": list(tools), **model}}})
    return InferenceServer.from_config(config, engines={"fake": lambda: engine})


async def test_tools_of_the_configuration_are_offered_and_run(module: str) -> None:
    tools: list[dict[str, Any]] = [
        {"handler": f"{module}:get_weather"},
        {"handler": f"{module}:double", "name": "twice", "description": "Two times"},
        {"handler": f"{module}:raw", "name": "keys", "parameters": {"type": "object"}, "parallel": False},
        {"handler": f"{module}:Group.inner", "strict": True},
    ]
    calls = [("get_weather", {"location": "Rome"}), ("twice", {"a": 4}), ("keys", {"b": 1, "a": 2}), ("inner", {})]
    engine = Scripted(calling(*calls), saying("Done."))
    async with configured(engine, *tools, max_tool_rounds=1) as server:
        result = await server.chat_completion(model="m", messages=[USER], tools=[CLIENTS])
    assert result.text == "Done."
    assert told(engine) == ["sunny, 21 degrees", "8", '["a","b"]', "inner"]
    offered = engine.asked[0].tools
    assert [t.name for t in offered] == ["get_weather", "twice", "keys", "inner", "theirs"]
    assert [t.description for t in offered[:2]] == ["Get the weather in a location", "Two times"]
    assert [t.strict for t in offered] == [False, False, False, True, False]


async def test_the_requests_own_tool_beats_that_of_the_configuration(module: str) -> None:
    engine = Scripted(calling(("double", {"a": 1})), calling(("double", {"a": 1})), saying("."))
    async with configured(engine, {"handler": f"{module}:double"}) as server:
        result = await server.chat_completion(model="m", messages=[USER], tools=[Tool(name="double")])
        assert result.choices[0].finish_reason == "tool_calls", "it is the client's now"
        mine = ServerTool(name="double", handler=lambda arguments: f"mine {arguments}")
        await server.chat_completion(model="m", messages=[USER], tools=[mine])
    assert told(engine) == ["mine {'a': 1}"]
    assert [len(request.tools) for request in engine.asked] == [1, 1, 1]


async def test_without_tools_those_of_the_configuration_are_not_offered(module: str) -> None:
    engine = Scripted(saying("."), saying("."))
    async with configured(engine, {"handler": f"{module}:double"}) as server:
        await server.chat_completion(model="m", messages=[USER], tool_choice="none")
        await server.chat_completion(model="m", messages=[USER], tool_choice="none", tools=[add])
    assert [[t.name for t in request.tools] for request in engine.asked] == [[], ["add"]]


async def test_the_rounds_of_the_configuration_are_a_default(module: str) -> None:
    again = calling(("double", {"a": 1}))
    engine = Scripted(again, again, again, again, saying("2"))
    async with configured(engine, {"handler": f"{module}:double"}, max_tool_rounds=1) as server:
        with pytest.raises(GenerationFailed, match="after 1 rounds"):
            await server.chat_completion(model="m", messages=[USER])
        assert (await server.chat_completion(model="m", messages=[USER], max_tool_rounds=2)).text == "2"


@pytest.mark.parametrize(
    ("tools", "said", "param"),
    [
        ([{"handler": "nowhere_at_all:f"}], "ModuleNotFoundError: No module named 'nowhere_at_all'", "[0].handler"),
        ([{"handler": "MODULE:nothing"}], "has no attribute 'nothing'", "[0].handler"),
        ([{"handler": "MODULE_broken:f"}], "cannot be imported: ZeroDivisionError", "[0].handler"),
        ([{"handler": "MODULE"}], 'write "module:function"', "[0].handler"),
        ([{"handler": "MODULE:number"}], "is 5, which cannot be called", "[0]"),
        ([{"handler": "MODULE:number", "parameters": {}}], "is 5, which cannot be called", "[0]"),
        ([{"handler": "MODULE:untyped"}], "the parameter 'a' has no type", "[0]"),
        ([{"handler": "MODULE:double", "name": "two words"}], "name: Expected `str` matching", "[0]"),
        ([{"handler": "MODULE:double"}] * 2, "another tool of this model is called 'double'", "[1]"),
        ([{"handler": "MODULE:double", "timeout": 0}], "Expected `float` > 0", "[0].timeout"),
        ([{"handler": "MODULE:double", "paralel": True}], "did you mean 'parallel'", "[0].paralel"),
        ([{}], "missing required field `handler`", "[0]"),
        ([3], "Expected `object`", "[0]"),
    ],
)
def test_a_wrong_tool_of_the_configuration_is_named(tools: list[Any], said: str, param: str, module: str) -> None:
    for given in tools:
        if isinstance(given, dict) and "handler" in given:
            given["handler"] = given["handler"].replace("MODULE", module)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        configured(FakeEngine(), *tools)
    assert caught.value.param == f"models.m.tools{param}"
    assert f"models.m.tools{param}" in caught.value.message


@pytest.mark.parametrize("task", ["embedding", "rerank"])
def test_a_model_that_cannot_chat_has_no_tools(module: str, task: str) -> None:
    with pytest.raises(ConfigError, match=f"a model for {task} cannot call"):
        configured(FakeEngine(), {"handler": f"{module}:double"}, task=task)
