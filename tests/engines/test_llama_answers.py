"""Settings of text generation end to end: seeds, log-probabilities, echo, fill-in-the-middle, best of several."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infs.errors import InvalidRequest, RequestError, Unsupported
from infs.server import InferenceServer
from infs.types import ChoiceConstraint, Delta, JsonConstraint, LogitBias, TextCompletionResult, TokenLogprob
from tests.engines.llama import assistant, chat, deltas_of, demo_server, events_of, run_all, text, user
from tests.tiny import write_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = "Once upon a time there was"
COUNT = "Count from 1 to 5."
BOTH: list[Callable[..., Any]] = [text, chat]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server() as server:
        yield server


def joined(tokens: Sequence[TokenLogprob] | None) -> str:
    assert tokens is not None
    return b"".join(token.bytes for token in tokens).decode()


# --- seeds


async def test_a_seed_repeats_a_text_and_another_one_does_not(server: InferenceServer) -> None:
    for make in BOTH:
        request = make(STORY, temperature=1.5, max_tokens=24, seed=11)
        first, second = await server.run(request), await server.run(request)
        assert first.choices == second.choices
        other = await server.run(msgspec.structs.replace(request, seed=12))
        assert other.text != first.text


async def test_choices_with_a_seed_differ_and_repeat(server: InferenceServer) -> None:
    request = text(STORY, temperature=1.5, max_tokens=24, seed=5, n=4)
    first, second = await server.run(request), await server.run(request)
    assert first.choices == second.choices
    assert len({choice.text for choice in first.choices}) == 4


async def test_a_seed_repeats_beside_other_requests(server: InferenceServer) -> None:
    request = text(STORY, temperature=1.0, max_tokens=16, seed=3)
    alone = await server.run(request)
    others = [text(f"In a forest lived {name}", temperature=1.0, max_tokens=16) for name in ("Ada", "Ben", "Mia")]
    together = (await run_all(server, [*others, request]))[-1]
    assert together.text == alone.text


async def test_without_a_seed_answers_differ(server: InferenceServer) -> None:
    result = await server.run(text(STORY, temperature=1.5, max_tokens=24, n=4))
    assert len({choice.text for choice in result.choices}) > 1


async def test_biases_reach_the_text(server: InferenceServer) -> None:
    plain = await server.run(chat(COUNT, max_tokens=3))
    assert plain.text.startswith("1")
    banned = await server.run(chat(COUNT, max_tokens=3, logit_bias=[LogitBias(token="1", bias=-100.0)]))
    assert not banned.text.startswith("1")
    forced = await server.run(chat(COUNT, max_tokens=3, logit_bias=[LogitBias(token=" river", bias=100.0)]))
    assert forced.text == " river river river"
    with pytest.raises(InvalidRequest, match="has tokens 0 to 2047") as caught:
        await server.run(chat(COUNT, logit_bias=[LogitBias(token=99_999, bias=1.0)]))
    assert caught.value.param == "logit_bias"


async def test_penalties_see_the_prompt(server: InferenceServer) -> None:
    prompt = "apple apple apple apple apple apple apple apple"
    for penalty in ({"presence_penalty": 2.0, "frequency_penalty": 2.0}, {"repeat_penalty": 5.0}):
        result = await server.run(text(prompt, max_tokens=4, penalty_last_n=-1, **penalty))
        assert "apple" not in result.text


# --- log-probabilities


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_logprobs_have_the_asked_number_in_order(server: InferenceServer, count: int) -> None:
    for make in BOTH:
        result = await server.run(make(STORY, max_tokens=8, logprobs=count))
        tokens = result.choices[0].logprobs
        assert joined(tokens) == result.text
        assert len(tokens) == result.usage.completion_tokens
        for token in tokens:
            assert token.token.encode() == token.bytes
            assert token.logprob <= 0.0
            values = [top.logprob for top in token.top]
            assert len(values) == count
            assert values == sorted(values, reverse=True)
            if count:
                assert (token.top[0].bytes, token.top[0].logprob) == (token.bytes, token.logprob)  # greedy


async def test_without_asking_there_are_no_logprobs(server: InferenceServer) -> None:
    for make in BOTH:
        request = make(STORY, max_tokens=3)
        assert (await server.run(request)).choices[0].logprobs is None
        assert not any(delta.logprobs for delta in await deltas_of(server, request))


async def test_streamed_logprobs_are_those_of_the_result(server: InferenceServer) -> None:
    *before, result = await events_of(server, text(STORY, max_tokens=12, n=2, logprobs=2, temperature=1.0, seed=1))
    assert isinstance(result, TextCompletionResult)
    for choice in result.choices:
        told = [event for event in before if isinstance(event, Delta) and event.index == choice.index]
        assert [token for delta in told for token in delta.logprobs] == choice.logprobs


async def test_a_chosen_token_has_the_value_of_its_place_in_the_list(server: InferenceServer) -> None:
    result = await server.run(text(STORY, max_tokens=20, logprobs=100, temperature=1.3, seed=2, top_k=90))
    for token in result.choices[0].logprobs or []:
        assert token.logprob in [top.logprob for top in token.top if top.bytes == token.bytes]


async def test_an_echo_gives_the_values_that_generating_gave(server: InferenceServer) -> None:
    generated = await server.run(text(STORY, max_tokens=12, logprobs=3))
    echoed = await server.run(text(STORY + generated.text, max_tokens=0, echo=True, logprobs=3))
    assert echoed.text == STORY + generated.text
    assert echoed.usage.completion_tokens == 0
    assert echoed.choices[0].finish_reason == "length"
    tokens = echoed.choices[0].logprobs
    assert joined(tokens) == echoed.text
    assert tokens is not None
    assert tokens[0].logprob is None
    assert tokens[0].top == []
    told = generated.choices[0].logprobs
    assert told is not None
    for one, two in zip(told, tokens[-len(told) :], strict=True):
        assert one.bytes == two.bytes
        assert two.logprob == pytest.approx(one.logprob, abs=1e-3)
        assert [top.logprob for top in two.top] == pytest.approx([top.logprob for top in one.top], abs=1e-3)


async def test_a_long_echo_is_scored_in_many_steps(server: InferenceServer) -> None:
    prompt = "The sun was warm and the wind was soft. " * 40
    result = await server.run(text(prompt, echo=True, logprobs=1, max_tokens=2, n=2))
    for choice in result.choices:
        assert joined(choice.logprobs) == choice.text
        assert choice.text.startswith(prompt)
        values = [token.logprob for token in choice.logprobs or []]
        assert values[0] is None
        assert all(value is not None and value <= 0 for value in values[1:])


async def test_an_echo_of_one_token(server: InferenceServer) -> None:
    result = await server.run(text("Once", echo=True, logprobs=1, max_tokens=1))
    tokens = result.choices[0].logprobs
    assert joined(tokens) == result.text
    assert tokens is not None
    assert [token.logprob is None for token in tokens] == [True, False]


async def test_logprobs_are_the_model_s_own_whatever_the_sampling(server: InferenceServer) -> None:
    plain = await server.run(text(STORY, max_tokens=1, logprobs=20))
    (token,) = plain.choices[0].logprobs or []
    known = {top.bytes: top.logprob for top in token.top}
    second = next(top for top in token.top[1:] if top.token.isalnum() or top.token[1:].isalnum())
    ruled = await server.run(
        text(
            STORY,
            max_tokens=1,
            logprobs=20,
            temperature=5.0,
            repeat_penalty=3.0,
            constraint=ChoiceConstraint(options=[second.token]),
        )
    )
    (other,) = ruled.choices[0].logprobs or []
    assert other.bytes == second.bytes
    assert other.logprob == pytest.approx(second.logprob, abs=1e-3)
    assert {top.bytes: top.logprob for top in other.top} == pytest.approx(known, abs=1e-3)


# --- echo and filling in


async def test_echo_puts_the_prompt_before_the_text(server: InferenceServer) -> None:
    plain = await server.run(text(STORY, max_tokens=6))
    echoed = await server.run(text(STORY, max_tokens=6, echo=True, n=2))
    assert [choice.text for choice in echoed.choices] == [STORY + plain.text] * 2
    deltas = await deltas_of(server, text(STORY, max_tokens=6, echo=True))
    assert "".join(delta.text for delta in deltas) == STORY + plain.text
    stopped = await server.run(text("one two", max_tokens=6, echo=True, stop=["two"]))
    assert stopped.text.startswith("one two")  # only the output is looked through


async def test_suffix_fills_in_the_middle(server: InferenceServer) -> None:
    with_end = await server.run(
        text("Once there was a small fox called Tom.", suffix=" Tom never forgot that day.", max_tokens=60)
    )
    without = await server.run(text("Once there was a small fox called Tom.", max_tokens=60))
    assert with_end.text != without.text
    assert with_end.usage.prompt_tokens > without.usage.prompt_tokens + 3


async def test_suffix_is_refused_where_it_cannot_be(server: InferenceServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="prompt as text"):
        await server.run(text([20, 21], suffix="x"))
    with pytest.raises(Unsupported, match="suffix"):
        await server.run(text("a", suffix="b", echo=True, logprobs=1))
    with pytest.raises(RequestError, match="1024"):
        await server.run(text("word " * 800, suffix="word " * 800, context_overflow="shift"))
    async with demo_server(file=str(write_llama(tmp_path / "tiny.gguf"))) as tiny:
        with pytest.raises(Unsupported, match="not trained to fill in the middle") as caught:
            await tiny.run(text("a", suffix="b"))
        assert caught.value.param == "suffix"


# --- best of several


async def test_best_of_gives_the_most_likely(server: InferenceServer) -> None:
    options = {"temperature": 2.0, "max_tokens": 10, "seed": 21, "logprobs": 0}
    every = await server.run(text(STORY, n=6, **options))
    best = await server.run(text(STORY, n=2, best_of=6, **options))

    def mean(tokens: Sequence[TokenLogprob] | None) -> float:
        return statistics.fmean(token.logprob or 0.0 for token in tokens or [])

    ranked = sorted(every.choices, key=lambda choice: -mean(choice.logprobs))
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 60
    assert not await deltas_of(server, text(STORY, n=2, best_of=6, **options))


async def test_best_of_less_than_n_is_refused(server: InferenceServer) -> None:
    with pytest.raises(InvalidRequest, match="at least n") as caught:
        await server.run(text(STORY, n=3, best_of=2))
    assert caught.value.param == "best_of"


# --- beginnings and ends


async def test_a_final_message_is_continued(server: InferenceServer) -> None:
    result = await server.run(chat(user(COUNT), assistant("1, 2,"), continue_final_message=True))
    assert result.text == " 3, 4, 5"
    with pytest.raises(InvalidRequest, match="last message of the assistant"):
        await server.run(chat(COUNT, continue_final_message=True))


async def test_ignore_eos_goes_on(server: InferenceServer) -> None:
    plain = await server.run(chat(COUNT))
    assert plain.choices[0].finish_reason == "stop"
    on = await server.run(chat(COUNT, ignore_eos=True, max_tokens=40, temperature=1.0, logprobs=1))
    assert on.choices[0].finish_reason == "length"
    assert on.usage.completion_tokens == 40
    assert not {token.token for token in on.choices[0].logprobs or []} & {"<|im_end|>", "<|endoftext|>"}


async def test_ignore_eos_contradicts_a_constraint(server: InferenceServer) -> None:
    with pytest.raises(Unsupported, match="ignore_eos") as caught:
        await server.run(chat(COUNT, ignore_eos=True, constraint=JsonConstraint()))
    assert caught.value.param == "ignore_eos"


async def test_no_tokens_at_all(server: InferenceServer) -> None:
    for make in BOTH:
        *before, result = await events_of(server, make(STORY, max_tokens=0, n=2))
        assert [choice.finish_reason for choice in result.choices] == ["length", "length"]  # type: ignore[attr-defined]
        assert result.text == ""  # type: ignore[attr-defined]
        assert sum(isinstance(event, Delta) for event in before) == 2


async def test_token_ids_are_a_prompt(server: InferenceServer) -> None:
    echoed = await server.run(text(STORY, max_tokens=4, echo=True, logprobs=0))
    by_text = await server.run(text(STORY, max_tokens=4))
    ids = list(range(14, 60))
    result = await server.run(text(ids, max_tokens=0, echo=True, logprobs=0))
    assert joined(result.choices[0].logprobs) == result.text
    assert result.usage.prompt_tokens == len(ids)
    assert echoed.text == STORY + by_text.text


@pytest.mark.parametrize(
    ("prompt", "match"), [("", "empty"), ([], "empty"), ([5, 2048], "token 2048; the model has tokens 0 to 2047")]
)
async def test_prompts_that_are_none_are_refused(server: InferenceServer, prompt: str | list[int], match: str) -> None:
    for shift in ("refuse", "shift"):
        with pytest.raises(InvalidRequest, match=match) as caught:
            await server.run(text(prompt, context_overflow=shift, echo=True, logprobs=1))
        assert caught.value.param == "prompt"


async def test_a_request_may_be_given_up_while_it_is_made_ready(server: InferenceServer) -> None:
    for _ in range(20):
        task = asyncio.ensure_future(server.run(text(STORY, max_tokens=500, ignore_eos=True, n=8)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await server.run(chat(COUNT))).text == "1, 2, 3, 4, 5"
