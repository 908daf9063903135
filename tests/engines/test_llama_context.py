"""The context: what does not fit is refused with both numbers, or shifted; cells that run out change no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from infs.errors import ContextLengthExceeded, LoadFailed
from infs.server import InferenceServer
from tests.engines.llama import assistant, chat, demo_server, engine_status, run_all, text, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 256
WORDS = ["apple", "river", "stone", "cloud", "garden", "window", "table", "lamp", "bridge", "forest"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server(context_size=CONTEXT) as server:
        yield server


def tokens(count: int) -> list[int]:
    """A prompt of `count` tokens."""
    return [100 + index % 50 for index in range(count)]


# --- refused


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(server: InferenceServer) -> None:
    for count in (CONTEXT, CONTEXT + 1, 5000):
        with pytest.raises(ContextLengthExceeded, match=rf"has {count} tokens.* {CONTEXT} .*context_size") as caught:
            await server.run(text(tokens(count)))
        assert caught.value.param == "prompt"
    requests: list[Any] = [text("the river " * 200), chat("the river " * 200)]
    for request in requests:
        with pytest.raises(ContextLengthExceeded, match=rf"has \d{{3}} tokens.* {CONTEXT} "):
            await server.run(request)


async def test_the_longest_prompt_leaves_room_for_one_token(server: InferenceServer) -> None:
    result = await server.run(text(tokens(CONTEXT - 1), ignore_eos=True))
    assert result.usage.prompt_tokens == CONTEXT - 1
    assert result.usage.completion_tokens == 1
    assert result.choices[0].finish_reason == "length"


async def test_a_text_that_reaches_the_end_of_the_context_ends(server: InferenceServer) -> None:
    for limit in (None, 10_000):
        result = await server.run(text("Once upon a time", ignore_eos=True, max_tokens=limit))
        assert result.usage.total_tokens == CONTEXT
        assert result.choices[0].finish_reason == "length"


async def test_context_size_is_what_is_configured(server: InferenceServer) -> None:
    status = await server.status()
    assert status.models["m"].instances[0].context_size == CONTEXT
    async with demo_server(context_size=2048) as longer:
        result = await longer.run(text(tokens(1500), max_tokens=1))
        assert result.usage.prompt_tokens == 1500
        notes = (await longer.status()).models["m"].instances[0].notes
        assert any("2048" in note and "1024" in note for note in notes)


@pytest.mark.parametrize("size", [1, 3, 2**31, 2**40])
async def test_a_context_size_that_cannot_be_is_refused(size: int) -> None:
    async with demo_server(context_size=size) as server:
        with pytest.raises(LoadFailed, match=rf"context_size is {size}; it can be 4 .* to 2147483647"):
            await server.run(chat("hi"))


@pytest.mark.parametrize("size", [4, 5, 8])
async def test_the_smallest_contexts_work(size: int) -> None:
    async with demo_server(context_size=size) as server:
        result = await server.run(text(tokens(size - 1), ignore_eos=True))
        assert result.usage.completion_tokens == 1
        shifted = await server.run(text(tokens(50), ignore_eos=True, max_tokens=20, context_overflow="shift"))
        assert shifted.usage.completion_tokens == 20


async def test_a_cache_smaller_than_the_context_is_refused() -> None:
    async with demo_server(options={"cache_tokens": 100}) as server:
        with pytest.raises(LoadFailed, match=r"cache_tokens is 100.*1024"):
            await server.run(chat("hi"))


# --- shifted


@pytest.mark.parametrize("keep", [0, 10, 100, 10_000])
async def test_a_long_prompt_is_shifted(server: InferenceServer, keep: int) -> None:
    prompt = [20, 21, 22, *tokens(1000)]
    result = await server.run(
        text(prompt, context_overflow="shift", context_keep=keep, max_tokens=2, echo=True, logprobs=0)
    )
    kept = min(keep, (CONTEXT - 1) // 2)
    left = result.usage.prompt_tokens
    assert left == kept + (CONTEXT - kept) // 2
    assert result.usage.completion_tokens <= 2
    told = [token.bytes for token in result.choices[0].logprobs or []][:left]
    same = await server.run(
        text([*prompt[:kept], *prompt[len(prompt) - (left - kept) :]], max_tokens=0, echo=True, logprobs=0)
    )
    assert told == [token.bytes for token in same.choices[0].logprobs or []]


async def test_a_text_goes_on_beyond_the_context(server: InferenceServer) -> None:
    before = (await engine_status(server))["shifts"]
    requests = [
        text(
            f"Once upon a time there was a {word}",
            ignore_eos=True,
            max_tokens=1500,
            context_overflow="shift",
            context_keep=5,
        )
        for word in ("fox", "dog")
    ]
    for result in await run_all(server, requests):
        assert result.usage.completion_tokens == 1500
        assert result.choices[0].finish_reason == "length"
        assert len(result.text) > 1500
    # The first shift comes when the context is full, the next ones when the freed half is.
    assert (await engine_status(server))["shifts"] - before >= 2 * (1500 // CONTEXT)


async def test_without_a_limit_a_shifted_text_ends_after_one_more_context(server: InferenceServer) -> None:
    result = await server.run(text("Once upon a time", ignore_eos=True, context_overflow="shift"))
    assert result.usage.completion_tokens == CONTEXT
    assert result.choices[0].finish_reason == "length"


async def test_what_is_kept_steers_what_follows(server: InferenceServer) -> None:
    """The secret word is at the beginning: only where that is kept can it be told after a shift."""
    story = "Once there was a small fox called Tom. " * 30
    messages = [user("The secret word is river."), assistant("OK."), user(story), assistant("OK.")]
    question = user("What is the secret word?")
    options = {"context_overflow": "shift", "max_tokens": 12}
    kept = await server.run(chat(*messages, question, context_keep=22, **options))
    lost = await server.run(chat(*messages, question, context_keep=0, **options))
    assert "river" in kept.text
    assert "river" not in lost.text


# --- under pressure


async def test_few_cells_change_no_answer(server: InferenceServer) -> None:
    """Many conversations in cells for two: sequences are put back and go on, each with its own answer."""
    requests = [chat(f"Count from {start} to {start + 14}.", max_tokens=80) for start in range(1, 13)]
    requests += [chat(f"Repeat after me: {a} {b}", max_tokens=40) for a in WORDS[:4] for b in WORDS[4:8]]
    requests += [chat("Count from 1 to 20.", "Count from 1 to 20.", max_tokens=80)]
    alone = [(await server.run(request)).text for request in requests]
    async with demo_server(context_size=CONTEXT, max_sequences=12, options={"cache_tokens": CONTEXT}) as tight:
        together = [result.text for result in await run_all(tight, requests)]
        status = await engine_status(tight)
    assert together == alone
    assert status["preemptions"] > 0
    assert status["cells_evicted"] > 0
    assert (status["running"], status["waiting"]) == (0, 0)
    assert status["cells_used"] <= status["cells"] == CONTEXT
    assert all(len(answer) > 5 for answer in alone)


async def test_long_sequences_take_turns_in_cells_for_one() -> None:
    async with demo_server(context_size=CONTEXT, max_sequences=4, options={"cache_tokens": CONTEXT}) as tight:
        requests = [text(f"In a {word} lived", ignore_eos=True) for word in WORDS[:6]]
        for result in await run_all(tight, requests):
            assert result.usage.total_tokens == CONTEXT
        assert (await engine_status(tight))["preemptions"] > 0


async def test_cancelling_under_pressure_leaves_nothing_behind() -> None:
    async with demo_server(context_size=CONTEXT, max_sequences=4, options={"cache_tokens": CONTEXT}) as tight:
        await tight.run(chat("hi"))
        requests = [text(f"In a {word} lived", ignore_eos=True, n=3) for word in WORDS]
        tasks = [asyncio.ensure_future(tight.run(request)) for request in requests]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == len(tasks) - len(done)
        assert (await tight.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"
        status = await engine_status(tight)
        assert (status["running"], status["waiting"]) == (0, 0)
