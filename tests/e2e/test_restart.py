"""A conversation goes on from its cached tokens after whatever ended the instance, or the whole server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.served import Served, serve, until

SYSTEM = "You are Ada, a helpful assistant. " + "Be brief and kind. " * 15
FIRST: list[Any] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "The secret word is river."},
]
QUESTION = {"role": "user", "content": "What is the secret word?"}


@contextlib.contextmanager
def serve_with(cache: Path, *arguments: str) -> Iterator[Served]:
    """A server that keeps what it caches in `cache`."""
    with serve("--cache-path", str(cache), *arguments, cwd=cache.parent) as served:
        yield served


@contextlib.asynccontextmanager
async def client_of(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def turn(served: Served, messages: list[Any], **options: Any) -> tuple[str, Any]:
    """The next answer of a conversation and its usage, as the official client gives them."""
    async with client_of(served) as client:
        answer = await client.chat.completions.create(model="demo", messages=messages, **options)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or "", answer.usage


async def streamed_turn(served: Served, messages: list[Any]) -> tuple[str, Any]:
    """The same from a stream."""
    text, usage = "", None
    async with client_of(served) as client:
        stream = await client.chat.completions.create(
            model="demo", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
    return text, usage


def second(answer: str) -> list[Any]:
    """The messages of the second turn."""
    return [*FIRST, {"role": "assistant", "content": answer}, QUESTION]


async def check_goes_on(served: Served, first: tuple[str, Any], ask: Callable[..., Awaitable[Any]] = turn) -> None:
    """The second turn computes only what is new, and is answered as if all of it were computed anew."""
    text, usage = await ask(served, second(first[0]))
    assert usage.prompt_tokens_details.cached_tokens >= first[1].total_tokens - 2 > 50
    assert served.engine()["restored_tokens"] > 50
    assert "river" in text
    # A salt of its own is as good as a server that has seen nothing: see the equality tests of the engine.
    anew, new_usage = await turn(served, second(first[0]), extra_body={"cache_salt": "anew"})
    assert new_usage.prompt_tokens_details.cached_tokens == 0
    assert new_usage.prompt_tokens == usage.prompt_tokens
    assert text == anew


def written(served: Served) -> bool:
    """Whether the conversation is on disk; an instance with nothing to do writes it down."""
    return bool(served.engine()["tiers"]["disk"]["stored"])


async def ask_to_stop(served: Served) -> None:
    """It writes down what is not yet, where it can be asked."""
    if sys.platform == "win32":
        await until(lambda: written(served))
    await asyncio.to_thread(served.stop)


async def kill_all(served: Served) -> None:
    """Nobody gets to do anything any more."""
    workers = served.workers()
    for worker in workers:
        worker.kill()
    served.process.kill()
    await asyncio.to_thread(psutil.wait_procs, workers, 60)


async def test_after_the_server_was_stopped_and_started(tmp_path: Path) -> None:
    with serve_with(tmp_path / "cache") as served:
        first = await turn(served, FIRST)
        assert first[1].prompt_tokens_details.cached_tokens == 0
        await ask_to_stop(served)
    with serve_with(tmp_path / "cache") as served:
        await check_goes_on(served, first)


async def test_after_everything_was_killed_while_it_was_idle(tmp_path: Path) -> None:
    with serve_with(tmp_path / "cache") as served:
        first = await turn(served, FIRST)
        await until(lambda: written(served))
        await kill_all(served)
    with serve_with(tmp_path / "cache") as served:
        await check_goes_on(served, first, streamed_turn)


async def test_after_everything_was_killed_in_the_middle_of_answers(tmp_path: Path) -> None:
    """What was being computed is lost, and nothing else; what comes after is right."""
    with serve_with(tmp_path / "cache") as served:
        first = await turn(served, FIRST)
        await until(lambda: written(served))
        async with client_of(served) as client:
            story = await client.completions.create(
                model="demo", prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
            )
            await anext(aiter(story))
            await kill_all(served)
            with pytest.raises((openai.APIError, httpx.HTTPError)):
                async for _ in story:
                    pass
    with serve_with(tmp_path / "cache") as served:
        await check_goes_on(served, first)


async def test_after_its_time_to_live_was_over(tmp_path: Path) -> None:
    with serve_with(tmp_path / "cache", "--ttl", "0.3") as served:
        first = await turn(served, FIRST)
        await until(lambda: not served.workers())
        assert served.status()["models"]["demo"]["state"] == "idle"
        text, usage = await turn(served, second(first[0]))
        assert usage.prompt_tokens_details.cached_tokens >= first[1].total_tokens - 2 > 50
        await until(lambda: not served.workers())
        anew, new_usage = await turn(served, second(first[0]), extra_body={"cache_salt": "anew"})
        assert new_usage.prompt_tokens_details.cached_tokens == 0
    assert text == anew
    assert "river" in text
