"""Workers that die, hang, or are driven to their deaths by a request: everybody else gets all of his text."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infs.demo import MODEL_ID
from infs.errors import LoadFailed, RequestQuarantined, WorkerDied
from infs.server import InferenceServer
from infs.status import ModelStatus
from infs.testing import demo_server
from infs.types import EmbeddingRequest, TextCompletionRequest
from tests.engines.kit import eventually
from tests.survival.fragile import FRAGILE, WORDS

WHOLE = "".join(f"{number} " for number in range(WORDS))


def fragile_server(folder: Path, *, load: int = 0, **model: Any) -> InferenceServer:
    options = {"folder": str(folder), "load": load}
    return InferenceServer({"m": {"engine": "fragile", "options": options, **model}}, {"fragile": FRAGILE})


def ask(prompt: str) -> TextCompletionRequest:
    return TextCompletionRequest(model="m", prompt=prompt)


async def model_of(server: InferenceServer) -> ModelStatus:
    return (await server.status()).models["m"]


async def test_a_request_that_kills_is_quarantined_and_named_and_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fragile_server(tmp_path) as server:
        asked = [server.run(ask(f"die once at {place}")) for place in (2, 5, 9)]
        results = await asyncio.gather(
            server.run(ask("die at 3")), server.run(ask("x")), *asked, return_exceptions=True
        )
        bad, *good = results
        assert isinstance(bad, RequestQuarantined)
        assert "4 workers of 'm' died while they ran this request" in bad.message
        assert [getattr(result, "text", result) for result in good] == [WHOLE] * 4
        deaths = len((tmp_path / "deaths").read_text())
        name = bad.message.partition("log: ")[2].partition(")")[0]
        assert any(name in record.message and record.levelname == "ERROR" for record in caplog.records)
        with pytest.raises(RequestQuarantined, match="is not run again"):
            await server.run(ask("die at 3"))
        assert len((tmp_path / "deaths").read_text()) == deaths
        assert (await server.run(ask("x"))).text == WHOLE
        assert (await model_of(server)).quarantined == 1


async def test_without_replays_a_death_is_a_failure(tmp_path: Path) -> None:
    async with fragile_server(tmp_path, max_replays=0) as server:
        with pytest.raises(WorkerDied, match="ended with status 9"):
            await server.run(ask("die once at 3"))
        assert (await server.run(ask("die once at 3"))).text == WHOLE, "it is not to blame for sure"


async def test_a_task_without_tokens_is_done_once_more(tmp_path: Path) -> None:
    async with fragile_server(tmp_path) as server:
        result = await server.run(EmbeddingRequest(model="m", input=["x"]))
        assert result.dimensions == 1
        status = await model_of(server)
        assert (status.deaths, status.replays) == (1, 1)


@pytest.mark.parametrize("how", ["hang", "block"])
async def test_a_worker_that_hangs_is_replaced(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with fragile_server(tmp_path, hang_timeout=0.5) as server:
        results = await asyncio.gather(server.run(ask(f"{how} once at 4")), server.run(ask("x")))
        assert [result.text for result in results] == [WHOLE, WHOLE]
    assert "hang_timeout is 0.5 seconds" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
async def test_a_worker_that_was_stopped_is_replaced(tmp_path: Path) -> None:
    async with fragile_server(tmp_path, hang_timeout=0.5) as server:
        await server.run(ask("x"))
        [instance] = (await model_of(server)).instances
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGSTOP)
        assert (await server.run(ask("x"))).text == WHOLE


async def test_a_worker_that_dies_while_it_loads_is_tried_again_a_few_times(tmp_path: Path) -> None:
    async with fragile_server(tmp_path, load=2) as server:
        assert (await server.run(ask("x"))).text == WHOLE
        assert (await model_of(server)).deaths == 2
    (tmp_path / "load").unlink()
    async with fragile_server(tmp_path, load=100) as server:
        with pytest.raises(LoadFailed, match="ended with status 7"):
            await server.run(ask("x"))
        assert len((tmp_path / "load").read_text()) == 4


async def test_a_worker_that_dies_while_it_waits_for_memory_is_replaced(tmp_path: Path) -> None:
    model = {"engine": "fragile", "options": {"folder": str(tmp_path)}}
    async with InferenceServer({"m": model, "n": model}, {"fragile": FRAGILE}, max_memory="300MB") as server:
        busy = asyncio.create_task(server.run(ask("slow")))
        await eventually(lambda: server.pool.running == 1)
        waiting = asyncio.create_task(server.run(TextCompletionRequest(model="n", prompt="x")))
        await eventually(lambda: server.pool.find("n").use is not None)
        [instance] = server.pool.find("n").instances
        assert instance.engine.pid is not None
        os.kill(instance.engine.pid, signal.SIGTERM)
        assert [result.text for result in await asyncio.gather(busy, waiting)] == [WHOLE, WHOLE]
        assert (await server.status()).models["n"].deaths == 1


async def test_a_request_that_comes_as_a_worker_dies_is_served(tmp_path: Path) -> None:
    async with fragile_server(tmp_path) as server:
        for _ in range(3):
            await server.run(ask("x"))
            [instance] = (await model_of(server)).instances
            assert instance.pid is not None
            os.kill(instance.pid, signal.SIGTERM)
            assert (await server.run(ask("x"))).text == WHOLE


async def test_caches_of_a_real_worker_give_their_memory_back() -> None:
    async with demo_server(options={"disk_cache": 0}) as server:
        for number in range(3):
            await server.text_completion(model=MODEL_ID, prompt=f"{number} " * 200, max_tokens=1)
        await eventually_held(server, lambda held: held > 0)
        [instance] = server.pool.find(MODEL_ID).ready
        instance.engine.shrink(0)
        await eventually_held(server, lambda held: held == 0)
        assert (await server.text_completion(model=MODEL_ID, prompt="Once", max_tokens=3)).text


async def eventually_held(server: InferenceServer, condition: Callable[[int], bool]) -> None:
    """Wait until what the worker has in host memory for contexts is as it should be."""
    async with asyncio.timeout(20):
        while True:
            [instance] = (await server.status()).models[MODEL_ID].instances
            if condition(instance.engine["tiers"]["host"]["bytes"]):
                return
            await asyncio.sleep(0.05)


async def test_a_minimum_of_instances_is_kept_though_they_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infs.pool.lives.RESTART_DELAY", 0.01)
    async with fragile_server(tmp_path, min_instances=1) as server:
        await eventually(lambda: server.pool.find("m").ready)
        [first] = server.pool.find("m").ready
        assert first.engine.pid is not None
        os.kill(first.engine.pid, signal.SIGTERM)
        await eventually(lambda: first not in server.pool.find("m").ready and server.pool.find("m").ready)
