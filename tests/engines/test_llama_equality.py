"""Whatever is done to be fast, a request is answered what it is answered alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infs.server import InferenceServer
from infs.types import Delta, JsonConstraint, Message
from tests.engines.equality import (
    FLASH_TIE,
    QUANTISED_FLASH_TIE,
    QUANTISED_TIE,
    STATES,
    TIE,
    assert_all_same_or_tie,
    assert_same_or_tie,
    bytes_of,
    plain_answers,
    plain_server,
    salted,
    server_of,
    text_of,
)
from tests.engines.llama import chat, engine_status, events_of, run_all, text

pytestmark = pytest.mark.asyncio(loop_scope="module")


def system(name: str) -> Message:
    """Long enough for its cells to be worth keeping."""
    return Message(role="system", content=f"You are {name}, a helpful assistant. " + "Be brief and kind. " * 15)


CHATS = [
    chat("Tell me a story.", max_tokens=60),
    chat("Count from 1 to 20."),
    chat(system("Ada"), "Tell me a story about a fox.", max_tokens=40),
    chat(system("Ada"), "What is the capital of France?"),
    chat("What is the capital of Japan?"),
    chat(system("Bob"), "Count from 3 to 12."),
    chat(system("Cleo"), "The secret word is river. What is the secret word?"),
    chat(system("Dora"), "Tell me a joke.", max_tokens=40),
]
STORY = "The fox and the goat went to the river. The goat was sad, and the fox was glad. "
TEXTS = [
    text(f"{start} {STORY * count}", max_tokens=tokens, logprobs=3)
    for count, tokens in ((0, 120), (3, 32))
    for start in ("The", "He", "A")
]
"""For tiny models, whose bytes are no text: only log-probabilities tell what they really are."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain() -> AsyncIterator[InferenceServer]:
    async with plain_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chats(plain: InferenceServer) -> list[Any]:
    return await plain_answers(plain, CHATS, tie=QUANTISED_TIE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def llama_texts(llama: Path) -> list[Any]:
    async with plain_server(llama) as server:
        return await plain_answers(server, TEXTS)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mamba_texts(mamba: Path) -> list[Any]:
    async with plain_server(mamba, options=STATES) as server:
        return await plain_answers(server, TEXTS)


def check(plain: list[Any], results: list[Any]) -> None:
    """Chats of the demo model, whose weights are quantised."""
    assert_all_same_or_tie(plain, results, tie=QUANTISED_TIE)


async def in_turn(server: InferenceServer, requests: list[Any]) -> list[Any]:
    return [await server.run(request) for request in requests]


# --- the measure itself


async def test_a_salt_is_as_good_as_a_fresh_server(chats: list[Any]) -> None:
    """The first request of a server is as bare as can be, and says what the one with a salt of its own said."""
    async with plain_server() as server:
        check(chats[:1], [await server.run(CHATS[0])])


async def test_the_measure_finds_differences(chats: list[Any]) -> None:
    def said(content: str, choice: Any = chats[3]) -> Any:
        message = msgspec.structs.replace(choice.message, content=content)
        return msgspec.structs.replace(choice, message=message, logprobs=None)

    right = text_of(chats[3])
    assert "Paris" in right
    for wrong in (right.replace("Paris", "Rome"), right + " It is.", right[:-4], ""):
        with pytest.raises(AssertionError, match=r"behind|goes on"):
            assert_same_or_tie(chats[3], said(wrong))
    assert_same_or_tie(chats[3], said(right))


# --- the cells


async def test_from_the_live_cache(chats: list[Any]) -> None:
    async with server_of() as server:
        await in_turn(server, CHATS)
        again = await in_turn(server, CHATS)
        check(chats, again)
        assert all(result.usage.cached_tokens == result.usage.prompt_tokens - 1 for result in again)


async def test_from_host_memory(chats: list[Any]) -> None:
    async with server_of(context_size=320, options={"cache_tokens": 320, "host_cache": 1 << 28}) as server:
        check(chats, await in_turn(server, CHATS))
        again = await in_turn(server, CHATS)
        check(chats, again)
        status = await engine_status(server)
    assert status["restored_tokens"] > 100
    assert status["tiers"]["host"]["hits"] > 0


async def test_from_disk_by_another_server(chats: list[Any], tmp_path: Path) -> None:
    for run in range(2):
        async with server_of(cache=tmp_path, options={"disk_cache": 1 << 28}) as server:
            results = await in_turn(server, CHATS)
            check(chats, results)
            status = await engine_status(server)
            assert (status["tiers"]["disk"]["hits"] > 0) == bool(run)
    assert all(result.usage.cached_tokens >= 100 for result in results if result.usage.prompt_tokens > 100)
    assert status["restored_tokens"] > 300


ENDLESS = [
    text(f"In a {word} lived", max_tokens=80, ignore_eos=True, logprobs=0)
    for word in ("house", "wood", "box", "tree", "lake")
]


async def test_preempted(plain: InferenceServer) -> None:
    alone = await plain_answers(plain, ENDLESS, tie=QUANTISED_TIE)
    for extra in ({}, {"host_cache": 1 << 28}):
        options = {"cache_tokens": 200, **extra}
        async with server_of(context_size=200, max_sequences=8, options=options) as server:
            check(alone * 2, await run_all(server, ENDLESS * 2))
            assert (await engine_status(server))["preemptions"] > 0


async def test_in_a_batch_with_others(chats: list[Any]) -> None:
    async with server_of(max_sequences=8, options={"batch_tokens": 64}) as server:
        check(chats, await run_all(server, CHATS))


async def test_choices(chats: list[Any]) -> None:
    async with server_of() as server:
        requests = [msgspec.structs.replace(request, n=4) for request in CHATS[:4]]
        results = await run_all(server, requests)
        assert all(len(result.choices) == 4 for result in results)
        check(chats[:4], results)


@pytest.mark.parametrize("extra", [{"n": 5}, {"best_of": 5}, {"n": 2, "best_of": 5}], ids=str)
async def test_candidates_share_a_prompt_that_is_computed_once(
    llama: Path, llama_texts: list[Any], extra: dict[str, Any]
) -> None:
    """All but its last token, which each computes: that is where its own scores come from."""
    async with server_of(llama, options={"batch_tokens": 64}, max_sequences=5) as server:
        await server.run(text("x", max_tokens=0))
        for number, (request, choice) in enumerate(zip(TEXTS[3:], llama_texts[3:], strict=True)):
            before = await engine_status(server)
            result = await server.run(salted(msgspec.structs.replace(request, **extra), f"{number}"))
            after = await engine_status(server)
            assert after["computed_tokens"] - before["computed_tokens"] == result.usage.prompt_tokens + 4
            assert result.usage.cached_tokens == 0
            assert result.usage.completion_tokens == 5 * len(choice.logprobs)
            assert len(result.choices) == extra.get("n", 1)
            assert_all_same_or_tie([choice], [result])


async def test_streamed_and_stopped(plain: InferenceServer, chats: list[Any]) -> None:
    for request, choice in zip(CHATS[:5], chats[:5], strict=True):
        whole = text_of(choice)
        events = await events_of(plain, salted(request, "streamed"))
        assert "".join(event.text for event in events if isinstance(event, Delta)) == whole
        stop = whole[len(whole) // 2 :][:5]
        cut = await plain.run(msgspec.structs.replace(request, stop=[stop], cache_salt="stopped"))
        assert cut.text == whole[: whole.index(stop)]
        again = await plain.run(salted(request, "stopped"))
        assert again.text == whole, "after an answer that was cut within a token"


@pytest.mark.parametrize("options", [{"host_cache": 1 << 28}, {"batch_tokens": 16}, {}], ids=["host", "pieces", "bare"])
async def test_a_random_model_with_few_cells(llama: Path, llama_texts: list[Any], options: dict[str, Any]) -> None:
    """A model with random weights forgives nothing: one wrong cell, and its scores are other ones."""
    options = {"cache_tokens": 320, **options}
    async with server_of(llama, context_size=320, max_sequences=6, options=options) as server:
        results = await run_all(server, TEXTS * 4)
        assert_all_same_or_tie(llama_texts * 4, results)
        status = await engine_status(server)
    assert status["preemptions"] > 0
    assert (status["restored_tokens"] > 0) == ("host_cache" in options)


async def test_scores_of_a_prompt_that_had_to_wait_in_the_middle(llama: Path) -> None:
    """Whoever is put back into the queue before all of the prompt is computed still tells all of its scores."""
    requests = [text(f"{index} {STORY * 3}", max_tokens=4, echo=True, logprobs=1) for index in range(6)]
    async with plain_server(llama) as server:
        alone = await in_turn(server, requests)
    options = {"cache_tokens": 400, "batch_tokens": 64}
    async with server_of(llama, context_size=400, max_sequences=6, options=options) as server:
        running = [asyncio.ensure_future(server.run(text("x", max_tokens=300))) for _ in range(2)]
        results = await run_all(server, requests)
        await asyncio.gather(*running)
        assert (await engine_status(server))["preemptions"] > 0
    for one, other in zip(alone, results, strict=True):
        assert len(one.choices[0].logprobs) == len(other.choices[0].logprobs)
        for a, b in zip(one.choices[0].logprobs[1:], other.choices[0].logprobs[1:], strict=True):
            if a.bytes != b.bytes:
                break
            assert a.logprob == pytest.approx(b.logprob, abs=TIE)


BY_DEFAULT = {"flash_attention": None, "cache_type_k": "f16", "cache_type_v": "f16"}


async def test_with_flash_attention_and_half_precision(llama: Path) -> None:
    """As it is by default, where sums of 16 bits depend more on the batch."""
    for path, requests, tie in ((llama, TEXTS, FLASH_TIE), (None, CHATS[:5], QUANTISED_FLASH_TIE)):
        async with plain_server(path, options=BY_DEFAULT) as server:
            alone = await plain_answers(server, requests, tie=tie)
        options = {**BY_DEFAULT, "cache_tokens": 320, "host_cache": 1 << 28}
        async with server_of(path, context_size=320, max_sequences=6, options=options) as server:
            assert_all_same_or_tie(alone * 3, await run_all(server, requests * 3), tie=tie)
            assert (await engine_status(server))["cells_evicted"] > 0


# --- states


async def test_states_again_and_in_choices(mamba: Path, mamba_texts: list[Any]) -> None:
    async with server_of(mamba, max_sequences=4, options=STATES) as server:
        assert_all_same_or_tie(mamba_texts, await in_turn(server, TEXTS))
        again = await in_turn(server, TEXTS)
        assert_all_same_or_tie(mamba_texts, again)
        assert sum(result.usage.cached_tokens == result.usage.prompt_tokens - 1 for result in again) >= len(TEXTS) // 2
        several = [msgspec.structs.replace(request, n=3) for request in TEXTS]
        assert_all_same_or_tie(mamba_texts, await run_all(server, several))


@pytest.mark.parametrize("options", [{"host_cache": 1 << 28}, {}], ids=["host", "bare"])
async def test_states_with_few_cells(mamba: Path, mamba_texts: list[Any], options: dict[str, Any]) -> None:
    options = {"cache_tokens": 320, **STATES, **options}
    async with server_of(mamba, context_size=320, max_sequences=6, options=options) as server:
        assert_all_same_or_tie(mamba_texts * 4, await run_all(server, TEXTS * 4))
        status = await engine_status(server)
    assert status["cells_evicted"] > 0
    assert (status["restored_tokens"] > 0) == bool("host_cache" in options)


async def test_states_of_another_server(mamba: Path, mamba_texts: list[Any], tmp_path: Path) -> None:
    for run in range(2):
        async with server_of(mamba, cache=tmp_path, options={"disk_cache": 1 << 28, **STATES}) as server:
            results = await in_turn(server, TEXTS)
            assert_all_same_or_tie(mamba_texts, results)
            assert ((await engine_status(server))["restored_tokens"] > 0) == bool(run)
    assert all(result.usage.cached_tokens > 100 for result in results if result.usage.prompt_tokens > 100)


# --- structure

NAMES = ["complete_name", "favourite_colour", "years_of_age"]
PERSON = {
    "type": "object",
    "properties": {
        "complete_name": {"type": "string", "maxLength": 10},
        "favourite_colour": {"enum": ["red", "green", "blue"]},
        "years_of_age": {"type": "integer"},
    },
    "required": NAMES,
    "additionalProperties": False,
}


async def test_forced_tokens(plain: InferenceServer) -> None:
    """What is appended unseen, and what is checked as a guess because its scores are wanted."""
    rule = JsonConstraint(schema=PERSON)
    requests = [chat(question, constraint=rule, max_tokens=80) for question in ("Who are you?", "Tell me a story.")]
    for request in requests:
        before = await engine_status(plain)
        exact = await plain.run(salted(request, "exact"))
        between = await engine_status(plain)
        assert between["forced_tokens"] - before["forced_tokens"] > 10
        assert set(json.loads(exact.text)) == set(NAMES)
        scored = await plain.run(msgspec.structs.replace(request, cache_salt="scored", logprobs=50))
        after = await engine_status(plain)
        assert after["accepted_tokens"] - between["accepted_tokens"] > 5
        assert after["steps"] - between["steps"] < after["generated_tokens"] - between["generated_tokens"]
        choice = scored.choices[0]
        assert bytes_of(choice).decode() == scored.text
        assert_same_or_tie(choice, exact.choices[0], tie=QUANTISED_TIE)
        assert all(token.logprob is not None and token.logprob <= 0.0 for token in choice.logprobs or [])


async def test_forced_tokens_in_a_batch(plain: InferenceServer) -> None:
    rule = JsonConstraint(schema=PERSON)
    requests = [chat(f"Who is {name}?", constraint=rule, max_tokens=80) for name in ("Ann", "Bo", "Cy", "Di")]
    alone = await plain_answers(plain, requests, tie=QUANTISED_TIE)
    async with server_of(options={"cache_tokens": 256}, context_size=256, max_sequences=4) as server:
        for extra in ({}, {"logprobs": 2}):
            results = await run_all(server, [msgspec.structs.replace(r, **extra) for r in requests] * 3)
            check(alone * 3, results)
            assert all(set(json.loads(result.text)) == set(NAMES) for result in results)


async def test_nothing_is_forced_where_nothing_is_wanted(plain: InferenceServer) -> None:
    for extra in ({}, {"logprobs": 1}):
        result = await plain.run(chat("Who?", constraint=JsonConstraint(schema=PERSON), max_tokens=0, **extra))
        assert result.text == ""
        assert result.usage.completion_tokens == 0
        assert result.choices[0].finish_reason == "length"
