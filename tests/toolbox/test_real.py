"""The demo model, HTTP, and the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec.structs import replace

from infs import tool
from infs.config import parse_config
from infs.demo import demo_model
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    Message,
)
from tests.e2e.served import serve
from tests.toolbox.scripted import MODULE

DOCUMENT = (Path(__file__).parents[2] / "docs" / "tools.md").read_text(encoding="utf-8")


@tool
def get_weather(location: str) -> str:
    """Get the weather in a location"""
    return {"Rome": "sunny, 21 degrees"}.get(location, "rainy, 3 degrees")


async def test_a_real_model_answers_with_the_result_and_its_second_prompt_is_cheap() -> None:
    question = Message(role="user", content="What is the weather in Rome and Paris?")
    async with InferenceServer({"demo": replace(demo_model(), max_sequences=2)}) as server:
        plain = await server.chat_completion(
            model="demo", messages=[question], tools=[get_weather.plain()], temperature=0.0
        )
        result = await server.chat_completion(model="demo", messages=[question], tools=[get_weather], temperature=0.0)
    assert result.text == "The weather in Rome is sunny, 21 degrees. The weather in Paris is rainy, 3 degrees."
    assert [message.role for message in result.choices[0].messages] == ["assistant", "tool", "tool"]
    first = plain.usage.prompt_tokens
    assert result.usage.prompt_tokens > 2 * first
    assert result.usage.cached_tokens > 2 * first - 10, "the first prompt was cached, and so was its part of the second"


async def test_over_http_the_configurations_tools_are_run_and_not_seen(tmp_path: Path) -> None:
    (tmp_path / "weather.py").write_text(MODULE)
    (tmp_path / "infs.toml").write_text('[models.demo]\ntools = [{ handler = "weather:get_weather", timeout = 20 }]\n')
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    ask: Any
    with serve(cwd=tmp_path) as served:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            ask = partial(client.chat.completions.create, model="demo", messages=messages, temperature=0)
            answer = await ask()
            chunks = [chunk async for chunk in await ask(stream=True, stream_options={"include_usage": True})]
            without = await ask(tool_choice="none")
    [choice] = answer.choices
    assert choice.message.content == "The weather in Rome is sunny, 21 degrees."
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == choice.message.content
    assert not any(chunk.choices[0].delta.tool_calls for chunk in pieces)
    assert [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices[0].finish_reason] == ["stop"]
    assert last.usage is not None
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens
    assert without.usage.prompt_tokens < answer.usage.prompt_tokens / 2
    assert "21 degrees" not in (without.choices[0].message.content or "")


def blocks(language: str) -> Sequence[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    [code] = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[-1] == "The weather in Rome is sunny, 21 degrees."
    assert "['user', 'assistant', 'tool', 'assistant']" in lines
    assert 'get_weather {"location": "Rome"} sunny, 21 degrees' in lines
    assert f"print(result.text)  # {lines[0]}" in code


def test_the_configuration_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    [text] = blocks("toml")
    data = tomllib.loads(text)
    data["models"]["demo"]["engine"] = "fake"
    (tmp_path / "weather.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "weather", raising=False)
    server = InferenceServer.from_config(parse_config(data), engines={"fake": FakeEngine})
    assert server.models["demo"].max_tool_rounds == 4
    monkeypatch.delitem(sys.modules, "weather")
