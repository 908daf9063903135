"""The facade: configuration at the door, files prepared, engines found."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from infs.config import Config, parse_config
from infs.demo import MODEL_FILE, demo_model
from infs.engines.base import EngineSpec
from infs.engines.registry import find_engine
from infs.errors import ConfigError, EngineNotFound, GenerationFailed, SourceNotFound, Unsupported
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import UNSET, EmbeddingRequest, Message, TextCompletionRequest
from tests.engines.kit import eventually

SPEC = EngineSpec(name="offered", factory=FakeEngine, in_process=True, needs_files=False)


def test_an_unknown_engine_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(EngineNotFound, match=r"'llama'; there are: fake, llama-cpp"):
        InferenceServer({"m": {"engine": "llama"}}, {"fake": FakeEngine})


def test_an_engine_can_come_from_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("offered", "tests.test_server:SPEC", "infs.engines")
    monkeypatch.setattr("infs.engines.registry.entry_points", lambda group: [point])
    assert find_engine("offered") is SPEC
    with pytest.raises(EngineNotFound, match="llama-cpp, offered"):
        find_engine("other")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "models.m needs a url or a file"),
        ({"file": "x.gguf", "options": {"cash_tokens": 5}}, "did you mean 'cache_tokens'"),
        ({"file": "x.gguf", "options": {"batch_tokens": "many"}}, "models.m.options.batch_tokens"),
        ({"file": "x.gguf", "contextsize": 5}, "did you mean 'context_size'"),
        ({"file": "x.gguf", "completion_defaults": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"file": "x.gguf", "completion_defaults": {"temperature": -1}}, "completion_defaults.temperature"),
        ({"engine": "fake", "preload": {}}, "preload needs messages or prefix"),
    ],
)
def test_a_wrong_model_is_refused_when_the_server_is_made(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        InferenceServer({"m": model}, {"fake": FakeEngine})


def test_a_server_is_made_from_a_configuration() -> None:
    config = parse_config({"models": {"demo": {"file": str(MODEL_FILE)}}, "concurrency": 3})
    assert isinstance(config, Config)
    server = InferenceServer.from_config(config)
    assert list(server.models) == ["demo"]


async def test_files_are_prepared_before_or_beside_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = str(tmp_path / "missing.gguf")
    with pytest.raises(SourceNotFound, match=r"missing\.gguf"):
        async with InferenceServer({"m": {"file": missing, "prepare": "blocking"}}):
            raise AssertionError("it must not start")
    async with InferenceServer({"m": {"file": missing, "prepare": "async"}}) as server:
        await eventually(lambda: "could not be prepared" in caplog.text)
        with pytest.raises(SourceNotFound):
            await server.run(TextCompletionRequest(model="m", prompt="x"))
    async with InferenceServer({"m": {"file": missing}}) as server:
        assert (await server.status()).models["m"].state == "idle"
    async with InferenceServer({"m": {"file": str(MODEL_FILE), "prepare": "blocking"}}) as server:
        assert (await server.status()).models["m"].instances == [], "prepared is not loaded"


async def test_a_task_that_the_model_cannot_do_is_refused() -> None:
    class OnlyTexts(FakeEngine):
        async def load(self, setup: Any, progress: Any) -> Any:
            info = await super().load(setup, progress)
            return type(info)(tasks=["text-completion"])

    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": OnlyTexts}) as server:
        with pytest.raises(Unsupported, match="cannot do embedding; it can do: text-completion"):
            await server.run(EmbeddingRequest(model="m", input=["x"]))


async def test_a_budget_of_reasoning_is_for_chats() -> None:
    class Thinking(FakeEngine):
        budgets: ClassVar[list[Any]] = []

        def run(self, request: Any, context: Any) -> Any:
            self.budgets.append(request.reasoning_budget)
            return super().run(msgspec.structs.replace(request, reasoning_budget=UNSET), context)

    model = {"engine": "fake", "completion_defaults": {"reasoning_budget": 5, "max_tokens": 1}}
    async with InferenceServer({"m": model}, {"fake": Thinking}) as server:
        for set_by_itself in (0, 7):
            with pytest.raises(Unsupported, match=r"reasoning_budget .*leave it out") as caught:
                await server.run(TextCompletionRequest(model="m", prompt="x", reasoning_budget=set_by_itself))
            assert caught.value.param == "reasoning_budget"
        text = await server.run(TextCompletionRequest(model="m", prompt="x y"))
        assert text.text == "x", "the other defaults hold"
        assert (await server.run(TextCompletionRequest(model="m", prompt="x", reasoning_budget=None))).text == "x"
        for options in ({}, {"reasoning_budget": 0}, {"reasoning_budget": None}):
            await server.chat_completion(model="m", messages=[Message(role="user", content="x")], **options)
        assert Thinking.budgets == [UNSET, None, 5, 0, None]


async def test_an_engine_that_ends_without_a_result_is_a_failure() -> None:
    class Silent(FakeEngine):
        async def run(self, request: Any, context: Any) -> Any:
            return
            yield

    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": Silent}) as server:
        with pytest.raises(GenerationFailed, match="without a result"):
            await asyncio.wait_for(server.run(TextCompletionRequest(model="m", prompt="x")), 10)


async def test_logs_go_where_they_are_told(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("somebody.else")
    caplog.set_level(logging.INFO, logger="somebody.else")
    async with InferenceServer({"demo": demo_model()}, log=log) as server:
        await server.chat_completion(model="demo", messages=[Message(role="user", content="Hi")], max_tokens=1)
    assert any(record.name == "somebody.else" and "Loaded demo" in record.message for record in caplog.records)
