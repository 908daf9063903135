"""Guessed tokens change how long an answer takes, and never what it says."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infs.demo import MODEL_FILE
from infs.errors import LoadFailed
from infs.server import InferenceServer
from infs.types import CompletionChoice, Delta, JsonConstraint
from tests.engines.equality import (
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
from tests.engines.llama import assistant, chat, deltas_of, engine_status, run_all, text, user
from tests.tiny import write_llama, write_mamba

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"
ECHOES: list[Any] = [
    chat(user("Count from 1 to 12."), assistant(COUNT), user("Count from 1 to 12.")),
    chat(
        user("Tell me a story."),
        assistant("Once upon a time there was a fox."),
        user("Tell me a story."),
        max_tokens=60,
    ),
    chat("Count from 1 to 20."),
    text("The fox and the goat. The fox and the goat. The fox and", max_tokens=40),
]
"""What comes next was said before, mostly."""

LOOPS = [text(start * 6, max_tokens=48, logprobs=2) for start in ("the fox ", "a goat, ", "1 2 3 ")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("speculation") / "llama.gguf", context=512)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain() -> AsyncIterator[InferenceServer]:
    async with plain_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def echoes(plain: InferenceServer) -> list[Any]:
    return await plain_answers(plain, ECHOES, tie=QUANTISED_TIE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loops(llama: Path) -> list[Any]:
    async with plain_server(llama) as server:
        return await plain_answers(server, LOOPS)


def guessing(**options: Any) -> dict[str, Any]:
    return {"speculation": {"mode": "always", "match": 2, "most": 8, **options}}


DRAFTS = {"lookup": {}, "draft": {"draft": {"file": str(MODEL_FILE)}}}


@pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)
async def test_guesses_of_the_demo_model(echoes: list[Any], draft: dict[str, Any]) -> None:
    async with server_of(options=guessing(**draft), max_sequences=4) as server:
        for request, choice in zip(ECHOES, echoes, strict=True):
            assert_all_same_or_tie([choice], [await server.run(request)], tie=QUANTISED_TIE)
        alone = await engine_status(server)
        assert 0 < alone["accepted_tokens"] <= alone["guessed_tokens"]
        assert alone["steps"] + alone["accepted_tokens"] >= alone["generated_tokens"]
        assert alone["steps"] < alone["generated_tokens"]
        if draft:
            assert alone["accepted_tokens"] > alone["guessed_tokens"] // 2, "it guesses what it will say itself"
        assert_all_same_or_tie(echoes, await run_all(server, ECHOES), tie=QUANTISED_TIE)
        assert (await engine_status(server))["accepted_tokens"] > alone["accepted_tokens"]


@pytest.mark.parametrize("draft", [False, True], ids=["lookup", "draft"])
async def test_guesses_of_a_random_model(llama: Path, loops: list[Any], draft: bool) -> None:
    """Also with few cells, in which guesses are the first to give way."""
    options = guessing(**({"draft": {"file": str(llama)}} if draft else {}))
    async with server_of(llama, options=options) as server:
        assert_all_same_or_tie(loops, [await server.run(request) for request in LOOPS])
        assert (await engine_status(server))["guessed_tokens"] > 0
    async with server_of(llama, context_size=150, max_sequences=6, options={"cache_tokens": 150, **options}) as server:
        assert_all_same_or_tie(loops * 3, await run_all(server, LOOPS * 3))
        status = await engine_status(server)
    assert status["preemptions"] > 0
    assert status["guessed_tokens"] > 0


async def test_a_request_can_do_without(echoes: list[Any]) -> None:
    async with server_of(options=guessing()) as server:
        results = [await server.run(msgspec.structs.replace(request, speculation="off")) for request in ECHOES]
        assert_all_same_or_tie(echoes, results, tie=QUANTISED_TIE)
        assert (await engine_status(server))["guessed_tokens"] == 0


async def test_ends_within_guesses(echoes: list[Any], plain: InferenceServer) -> None:
    """Stops and limits that fall into the middle of what was guessed right, and the turn after them."""
    whole = text_of(echoes[0])
    assert whole == COUNT
    async with server_of(options=guessing(match=1, most=16)) as server:
        for limit in range(1, 12):
            request = msgspec.structs.replace(ECHOES[0], max_tokens=limit)
            cut = await server.run(request)
            assert cut.usage.completion_tokens == limit
            assert whole.startswith(cut.text)
            assert cut.text == (await plain.run(salted(request, "cut"))).text
        for stop in (", 5", "7, 8", "12"):
            cut = await server.run(msgspec.structs.replace(ECHOES[0], stop=[stop]))
            assert cut.text == whole[: whole.index(stop)]
            assert (await server.run(ECHOES[0])).text == whole
        assert (await engine_status(server))["accepted_tokens"] > 20


async def test_streams_logprobs_and_choices(llama: Path, loops: list[Any]) -> None:
    async with server_of(llama, options=guessing()) as server:
        for request, choice in zip(LOOPS, loops, strict=True):
            deltas = await deltas_of(server, request)
            scores = [score for delta in deltas for score in delta.logprobs]
            assert len(scores) == 48
            told = CompletionChoice(index=0, text="", finish_reason="length", logprobs=scores)
            assert_same_or_tie(choice, told)
            pairs = zip(scores, choice.logprobs, strict=True)
            for score, expected in itertools.takewhile(lambda pair: pair[0].bytes == pair[1].bytes, pairs):
                assert score.logprob == pytest.approx(expected.logprob, abs=TIE)
            several = await server.run(msgspec.structs.replace(request, n=3))
            assert_all_same_or_tie([choice], [several])
        assert (await engine_status(server))["accepted_tokens"] > 0


async def test_seeds_and_penalties(llama: Path) -> None:
    """Each token is drawn from its own scores, in order: so a seed means what it means without guesses."""
    settings: list[dict[str, Any]] = [
        {"temperature": 0.8, "seed": 5},
        {"temperature": 0.3, "seed": 6, "top_k": 8, "presence_penalty": 0.5},
        {"frequency_penalty": 0.5, "repeat_penalty": 1.3},
        {"dry_multiplier": 0.8},
    ]
    requests = [msgspec.structs.replace(LOOPS[0], **extra) for extra in settings]
    async with plain_server(llama) as server:
        alone = [bytes_of((await server.run(salted(request, "seeds"))).choices[0]) for request in requests]
    async with server_of(llama, options=guessing(match=1)) as server:
        assert [bytes_of((await server.run(request)).choices[0]) for request in requests] == alone
        assert (await engine_status(server))["guessed_tokens"] > 20


async def test_guesses_that_a_grammar_forbids(plain: InferenceServer) -> None:
    number = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    rule = JsonConstraint(schema={"type": "array", "items": number, "minItems": 6, "maxItems": 8})
    request = msgspec.structs.replace(ECHOES[0], constraint=rule, max_tokens=90)
    alone = await plain_answers(plain, [request], tie=QUANTISED_TIE)
    async with server_of(options=guessing(match=1)) as server:
        for extra in ({}, {"logprobs": 1}):
            result = await server.run(msgspec.structs.replace(request, **extra))
            assert_all_same_or_tie(alone, [result], tie=QUANTISED_TIE)
            assert {key for item in json.loads(result.text) for key in item} == {"n"}
        assert (await engine_status(server))["accepted_tokens"] > 0


async def test_a_client_that_leaves_while_guesses_run(echoes: list[Any]) -> None:
    async with server_of(options=guessing(), max_sequences=2) as server:
        for _ in range(3):
            events = server.stream(msgspec.structs.replace(ECHOES[3], max_tokens=500, ignore_eos=True))
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    break
            await events.aclose()
            assert_all_same_or_tie(echoes, await run_all(server, ECHOES), tie=QUANTISED_TIE)


async def test_a_recurrent_model_does_not_guess_and_takes_no_draft(tmp_path: Path) -> None:
    mamba = write_mamba(tmp_path / "mamba.gguf")
    async with server_of(mamba, options={**guessing(), **STATES}) as server:
        await server.run(LOOPS[0])
        assert (await engine_status(server))["guessed_tokens"] == 0
    async with server_of(mamba, options={**guessing(draft={"file": str(mamba)}), **STATES}) as server:
        with pytest.raises(LoadFailed, match="mamba model cannot take back guesses") as caught:
            await server.run(LOOPS[0])
        assert caught.value.param == "options.speculation.draft"
