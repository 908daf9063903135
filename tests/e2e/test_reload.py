"""A running server whose configuration changes, and one whose models do not all fit: real processes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from infs.demo import MODEL_FILE
from tests.e2e.served import Served, serve, until

DEMO = {"file": str(MODEL_FILE), "device": {"gpu": False, "cpu_threads": 1}, "options": {"disk_cache": 0}}


def write(path: Path, **models: dict[str, Any]) -> None:
    path.write_text(json.dumps({"models": {name: {**DEMO, **model} for name, model in models.items()}}))


def models_of(served: Served) -> list[str]:
    return [model["id"] for model in httpx.get(f"{served.url}/v1/models", timeout=30).json()["data"]]


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


async def long_stream(client: openai.AsyncOpenAI, model: str) -> Any:
    return await client.completions.create(
        model=model, prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )


async def count(stream: Any) -> int:
    reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
    assert reasons[-1] == "length"
    return len(reasons)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
async def test_models_come_change_and_go_while_streams_run(tmp_path: Path) -> None:
    config = tmp_path / "models.json"
    write(config, same={}, other={}, gone={})
    with serve(str(config), cwd=tmp_path) as served:
        async with client_of(served) as client:
            streams = [await long_stream(client, model) for model in ("same", "other", "gone")]
            reading = asyncio.gather(*(count(stream) for stream in streams))
            write(config, same={}, other={"context_size": 1024}, new={})
            served.process.send_signal(signal.SIGHUP)
            await until(lambda: models_of(served) == ["same", "other", "new"])
            with pytest.raises(openai.NotFoundError):
                await long_stream(client, "gone")
            assert await count(await long_stream(client, "new")) > 1
            assert await count(await long_stream(client, "other")) > 1
            assert len(await reading) == 3
        await until(lambda: served.status()["models"]["other"]["instances"][0]["context_size"] == 1024)
        await until(lambda: len(served.workers()) == 3)
        config.write_text("{")
        answer = await asyncio.to_thread(httpx.post, f"{served.url}/admin/reload", timeout=30)
        assert answer.status_code == 400, answer.text
        assert "not valid JSON" in answer.json()["error"]["message"]
        assert models_of(served) == ["same", "other", "new"], "nothing has changed"


async def test_models_that_do_not_fit_together_take_turns(tmp_path: Path) -> None:
    config = tmp_path / "models.json"
    write(config, **{name: {} for name in "abc"})
    with serve(str(config), "--max-memory", "180MB", cwd=tmp_path) as served:
        async with client_of(served) as client:

            async def ask(number: int) -> str:
                message: Any = {"role": "user", "content": "What is the capital of Italy?"}
                answer = await client.chat.completions.create(model="abc"[number % 3], messages=[message])
                return str(answer.choices[0].message.content)

            asking = asyncio.gather(*(ask(number) for number in range(30)))
            most = 0
            while not asking.done():
                status = await asyncio.to_thread(served.status)
                held = [m for m in status["models"].values() for i in m["instances"] if i["memory"]["host"]]
                most = max(most, len(held))
                assert status["memory"]["host"]["reserved"] <= 180_000_000
                await asyncio.sleep(0.05)
            assert set(await asking) == {"The capital of Italy is Rome."}
        status = served.status()
        assert most == 1
        assert sum(model["loads"] for model in status["models"].values()) <= 6, "each once or twice"
        assert sum(model["evictions"] for model in status["models"].values()) >= 2
