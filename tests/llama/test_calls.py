"""The first level: every call, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infs.errors import (
    ContextLengthExceeded,
    InfsError,
    InvalidRequest,
    RequestTimeout,
    ServerClosed,
    Unsupported,
)
from infs.llama import Llama
from infs.toolbox import tool
from infs.types import (
    ChoiceAnswer,
    ChoiceQuestion,
    JsonConstraint,
    LoraScale,
    Message,
    NamedConstraint,
    Predicate,
    ScoreQuestion,
    TokenLogprob,
    Tool,
)
from tests.engines.kit import eventually
from tests.llama.models import COUNT, QUESTIONS, STORY, counting, demo, tiny
from tests.tiny import write_bert, write_llama, write_lora

WEATHER = Tool(
    name="get_weather",
    description="Get the current weather in a given city",
    parameters={"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
)

BEFORE, AFTER = "Once there was a small fox called Tom.", " Tom never forgot that day."


# --- texts and chats


def test_a_text_is_completed(llm: Llama) -> None:
    result = llm.complete(COUNT, max_tokens=8)
    assert result.choices[0].finish_reason == "length"
    assert result.usage.completion_tokens == 8
    assert llm.complete(llm.tokenize(COUNT), max_tokens=8).text == result.text
    assert llm.complete(COUNT, max_tokens=8, echo=True).text == COUNT + result.text


@pytest.mark.parametrize(
    "messages",
    [
        QUESTIONS[0],
        [Message(role="user", content=QUESTIONS[0])],
        [{"role": "user", "content": QUESTIONS[0]}],
        [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[0]}]}],
    ],
)
def test_a_chat_is_answered(llm: Llama, messages: Any) -> None:
    assert llm.chat(messages).text == "The capital of France is Paris."


def test_settings_count(llm: Llama) -> None:
    whole = llm.complete(COUNT, max_tokens=30).text
    assert llm.complete(COUNT, max_tokens=30, stop=whole[5:9]).text == whole[: whole.index(whole[5:9])]
    logprobs = llm.complete(COUNT, max_tokens=2, logprobs=3).choices[0].logprobs
    assert logprobs is not None
    assert all(isinstance(token, TokenLogprob) and len(token.top) == 3 for token in logprobs)


def test_a_seed_repeats_choices_that_differ(manual: Llama) -> None:
    settings: dict[str, Any] = {
        "max_tokens": 8,
        "temperature": 2.0,
        "n": 3,
        "seed": 1,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }
    choices = []
    for salt in ("first", "second"):  # so that the second one computes the same batches, too
        handle = manual.submit(STORY, cache_salt=salt, **settings)
        manual.run()
        choices.append(handle.result().choices)
    assert choices[0] == choices[1]
    assert len({choice.text for choice in choices[0]}) == 3


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_structured_output(llm: Llama, as_dictionary: bool) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    constraint: Any = {"type": "json", "schema": schema} if as_dictionary else JsonConstraint(schema=schema)
    assert llm.chat("Give me a number.", constraint=constraint).text in ('{"n": 1}', '{"n": 2}')


def test_tools_are_called_and_not_run(llm: Llama) -> None:
    result = llm.chat("What is the weather in Rome?", tools=[WEATHER], tool_choice="required")
    [call] = result.choices[0].message.tool_calls
    assert call.name == "get_weather"
    assert result.choices[0].finish_reason == "tool_calls"
    deltas = list(llm.stream_chat("What is the weather in Rome?", tools=[WEATHER], tool_choice="required"))
    assert "".join(piece.arguments for delta in deltas for piece in delta.tool_calls) == call.arguments


def test_one_call_is_one_call_without_parallel_ones(llm: Llama) -> None:
    result = llm.chat(
        "What is the weather in Rome and in Paris?", tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    assert len(result.choices[0].message.tool_calls) == 1


def test_the_middle_is_filled_in(llm: Llama, tmp_path: Path) -> None:
    result = llm.infill(BEFORE, AFTER, max_tokens=5)
    assert result.text == llm.complete(BEFORE, suffix=AFTER, max_tokens=5).text != ""
    assert result.text != llm.complete(BEFORE, max_tokens=5).text
    with tiny(write_llama(tmp_path / "m.gguf")) as plain, pytest.raises(Unsupported, match="suffix"):
        plain.infill("a", "b")


def test_streams_tell_what_the_results_say(llm: Llama) -> None:
    for stream, call, what in ((llm.stream_chat, llm.chat, QUESTIONS[0]), (llm.stream_complete, llm.complete, COUNT)):
        deltas = list(stream(what, max_tokens=12))
        assert "".join(delta.text for delta in deltas) == call(what, max_tokens=12).text != ""
        assert deltas[-1].finish_reason is not None


def test_defaults_hold_where_a_request_says_nothing() -> None:
    with demo(defaults={"temperature": 0.0, "max_tokens": 3, "stop": "xyz"}) as llm:
        assert llm.complete(COUNT).usage.completion_tokens == 3
        assert llm.complete(COUNT, max_tokens=5).usage.completion_tokens == 5


def test_adapters_are_chosen_by_each_request(tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.gguf")
    settings: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}
    with tiny(write_llama(tmp_path / "m.gguf"), defaults={"temperature": 0.0}) as plain:
        without = plain.complete("the river", **settings).text
    with tiny(tmp_path / "m.gguf", defaults={"temperature": 0.0}, lora={"a": {"file": str(lora)}}, threads=1) as llm:
        changed = llm.complete("the river", **settings).text
        assert changed != without
        for none in ([], [LoraScale(name="a", scale=0.0)], [{"name": "a", "scale": 0.0}]):
            assert llm.complete("the river", lora=none, **settings).text == without
        assert llm.complete("the river", lora=[LoraScale(name="a")], **settings).text == changed
        with pytest.raises(InvalidRequest, match="no adapter 'b'"):
            llm.complete("the river", lora=[LoraScale(name="b")])


# --- embeddings


def test_texts_become_vectors(llm: Llama) -> None:
    result = llm.embed(["one", "two", llm.tokenize("one")])
    one, two, same = result.as_lists()
    assert len(one) == result.dimensions
    assert one == pytest.approx(same, abs=1e-3)
    assert one != pytest.approx(two, abs=1e-3)
    assert llm.embed("one").as_lists()[0] == pytest.approx(one, abs=0.02)
    assert llm.embed("one", dimensions=4).dimensions == 4
    assert sum(x * x for x in llm.embed("one", normalize=False).as_lists()[0]) != pytest.approx(1.0, abs=1e-3)
    for wrong in ([], [""], [[-1]], [[1.5]], ["a \ud800"], [llm.vocabulary_size]):
        with pytest.raises(InvalidRequest):
            llm.embed(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as caught:
        llm.embed("one", dimensions=10_000)
    assert caught.value.param == "dimensions"
    with pytest.raises(ContextLengthExceeded):
        llm.embed("word " * 5000)


def test_an_adapter_changes_vectors(tmp_path: Path) -> None:
    path, lora = write_llama(tmp_path / "m.gguf"), write_lora(tmp_path / "lora.gguf")
    with tiny(path) as plain, tiny(path, lora={"a": {"file": str(lora)}}) as changed:
        assert plain.embed("river").as_lists()[0] != pytest.approx(changed.embed("river").as_lists()[0], abs=1e-2)


def test_a_model_that_makes_embeddings_only(tmp_path: Path) -> None:
    with tiny(write_bert(tmp_path / "bert.gguf", pooling="mean")) as llm:
        assert len(llm.embed(["a b", "c"]).as_lists()) == 2
        calls: list[Callable[[], object]] = [
            lambda: llm.complete("a"),
            lambda: llm.chat("a"),
            lambda: llm.submit("a"),
            llm.new_sequence,
            llm.step,
            llm.counts,
        ]
        for call in calls:
            with pytest.raises(Unsupported, match=r"bert\.gguf makes embeddings"):
                call()
        with pytest.raises(Unsupported, match="cannot rank"):
            llm.rerank("a", ["b"])
        assert llm.detokenize(llm.tokenize("ab")) != ""


def test_documents_are_ranked(tmp_path: Path) -> None:
    with tiny(write_bert(tmp_path / "rank.gguf", pooling="rank")) as llm:
        ranked = llm.rerank("river", ["river", "stone and cloud", "table"]).documents
        assert sorted(document.index for document in ranked) == [0, 1, 2]
        assert [d.score for d in ranked] == sorted((d.score for d in ranked), reverse=True)
        assert llm.rerank("river", ["river", "stone and cloud", "table"], top_n=1).documents == ranked[:1]
        again = asyncio.run(llm.arerank("river", ["river", "stone and cloud", "table"]))
        assert again.documents == ranked
        with pytest.raises(InvalidRequest):
            llm.rerank("river", [])


# --- decisions


def test_questions_are_decided(llm: Llama) -> None:
    capital = ChoiceQuestion(name="capital", question=QUESTIONS[0], options=["Paris", "Tokyo", "Rome"])
    plain = {"type": "predicate", "question": "Is it raining?"}
    result = llm.decide([capital, plain, ScoreQuestion(question="How much?", minimum=1, maximum=3)], input="It rains.")
    about = result.answer("capital")
    assert isinstance(about, ChoiceAnswer)
    assert sum(about.probabilities.values()) == pytest.approx(1.0)
    assert about.best == max(about.probabilities, key=lambda option: about.probabilities[option])
    assert [type(answer).__name__ for answer in result.answers] == ["ChoiceAnswer", "PredicateAnswer", "ScoreAnswer"]
    again = asyncio.run(llm.adecide([capital], messages=[{"role": "user", "content": "It rains."}]))
    assert len(llm.decide(plain).answers) == len(again.answers) == 1


def test_decisions_of_many_threads(llm: Llama) -> None:
    def work(number: int) -> Any:
        return llm.decide(ChoiceQuestion(question=QUESTIONS[number % 4], options=["Paris", "Tokyo"])).answers[0]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(16)))
    for number, answer in enumerate(answers):
        assert answer.probabilities == pytest.approx(work(number).probabilities, abs=0.1)


def test_wrong_questions(llm: Llama, tmp_path: Path) -> None:
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ([], {}),
        ([{"type": "predicate"}], {}),
        ([{"type": "guess", "question": "?"}], {}),
        (5, {}),
        ({"type": "choice", "question": "?", "options": ["a", "a"]}, {}),
        (Predicate(question="?"), {"temperature": 1.0}),
        (Predicate(question="?"), {"timeout": 0.0}),
    ]
    for questions, settings in wrong:
        with pytest.raises(InvalidRequest):
            llm.decide(questions, **settings)
    with pytest.raises(RequestTimeout, match="1e-09 seconds"):
        llm.decide(Predicate(question="?"), timeout=1e-9)
    with pytest.raises(ContextLengthExceeded, match="number 0"):
        llm.decide(Predicate(question="word " * 3000))
    with (
        tiny(write_bert(tmp_path / "bert.gguf", pooling="mean")) as other,
        pytest.raises(Unsupported, match="decision"),
    ):
        other.decide(Predicate(question="?"))


async def test_a_cancelled_decision_ends() -> None:
    async with demo(run="manual", batch_tokens=8) as llm:
        task = asyncio.create_task(llm.adecide(Predicate(question="Is it? " * 20)))
        await eventually(llm.step)  # a step of several
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not llm.step())
        assert llm.counts()["computed_tokens"] < 60, "of 96"


def test_decisions_end_with_their_model() -> None:
    llm = demo(run="manual")
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(llm.decide, Predicate(question=f"Is it {number}?")) for number in range(4)]
        llm.close()
        for future in futures:
            with pytest.raises(ServerClosed):
                future.result()


# --- bad input


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temprature": 1.0}, "temprature"),
        ({"n": 0}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"constraint": {"type": "json", "schema": 1}}, "constraint.schema"),
        ({"constraint": NamedConstraint(name="x")}, "constraint"),
        ({"logit_bias": [{"token": 10**6, "bias": 1.0}]}, "logit_bias"),
        ({"timeout": 0.0}, "timeout"),
        ({"logits_processors": [3]}, "logits_processors"),
    ],
)
def test_wrong_settings_are_named(llm: Llama, settings: dict[str, Any], param: str) -> None:
    for call in (llm.chat, llm.complete, llm.submit, llm.stream_chat):
        with pytest.raises(InvalidRequest) as caught:
            call("hello", **settings)
        assert caught.value.param == param


@pytest.mark.parametrize(
    "prompt", ["", [], [-1], [2**40], [1.5], [2048], "half \ud800 a pair", 5, None, {"role": "user"}, [None], [[]]]
)
def test_wrong_prompts_are_refused(llm: Llama, prompt: Any) -> None:
    for call in (llm.complete, llm.submit, llm.stream_complete):
        with pytest.raises(InvalidRequest):
            call(prompt)


@pytest.mark.parametrize(
    "messages", [[], [{"role": "king", "content": "x"}], [{"content": "x"}], [5], "\ud800", None, [{"role": []}]]
)
def test_wrong_messages_are_refused(llm: Llama, messages: Any) -> None:
    for call in (llm.chat, llm.stream_chat):
        with pytest.raises(InvalidRequest):
            call(messages)


def test_a_near_name_is_offered(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="Did you mean temperature"):
        llm.chat("x", temprature=1.0)


def test_what_only_a_server_does_is_refused(llm: Llama) -> None:
    @tool
    def get_time(city: str) -> str:
        return city

    with pytest.raises(InvalidRequest, match="not data"):
        llm.chat("x", tools=[get_time])
    with pytest.raises(Unsupported, match="max_tool_rounds"):
        llm.chat("x", tools=[WEATHER], max_tool_rounds=2)


def test_a_text_has_no_reasoning_to_limit(llm: Llama) -> None:
    with pytest.raises(Unsupported, match="reasoning_budget"):
        llm.complete("x", reasoning_budget=2)


def test_a_prompt_that_is_too_long_is_refused(llm: Llama) -> None:
    with pytest.raises(ContextLengthExceeded, match="1024"):
        llm.complete("word " * 3000)


def test_a_timeout_ends_a_call(llm: Llama) -> None:
    for call in (llm.chat, llm.complete):
        with pytest.raises(RequestTimeout, match="timeout"):
            call(COUNT, timeout=1e-9)
    with pytest.raises(RequestTimeout):
        list(llm.stream_chat(COUNT, timeout=1e-9))
    with pytest.raises(RequestTimeout):
        asyncio.run(llm.achat(COUNT, timeout=1e-9))


# --- coroutines


async def test_everything_on_an_event_loop(llm: Llama) -> None:
    answers, text, middle, vectors = await asyncio.gather(
        asyncio.gather(*(llm.achat(question) for question in QUESTIONS)),
        llm.acomplete(COUNT, max_tokens=5),
        llm.ainfill(BEFORE, AFTER, max_tokens=5),
        llm.aembed(["one", "two"]),
    )
    assert [answer.text for answer in answers] == [llm.chat(question).text for question in QUESTIONS]
    assert text.text == llm.complete(COUNT, max_tokens=5).text
    assert middle.text == llm.infill(BEFORE, AFTER, max_tokens=5).text
    assert len(vectors.as_lists()) == 2
    assert "".join([delta.text async for delta in llm.astream_chat(QUESTIONS[0])]) == answers[0].text
    assert "".join([d.text async for d in llm.astream_complete(COUNT, max_tokens=5)]) == text.text
    with pytest.raises(InvalidRequest):
        await llm.achat("x", n=0)
    with pytest.raises(Unsupported):
        await llm.arerank("a", ["b"])


async def test_calls_for_threads_work_where_an_event_loop_runs(llm: Llama) -> None:
    assert llm.chat(QUESTIONS[0]).text == "The capital of France is Paris."
    assert llm.embed("one").dimensions > 0


async def test_a_cancelled_task_cancels_its_request() -> None:
    async with demo() as llm:
        task = asyncio.create_task(llm.achat(COUNT, max_tokens=900, ignore_eos=True))
        await eventually(lambda: llm.counts()["running"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not llm.counts()["running"])
        async for _ in (stream := llm.astream_chat(COUNT, max_tokens=900, ignore_eos=True)):
            break
        await stream.aclose()
        await eventually(lambda: not llm.counts()["running"])


async def test_a_task_that_is_cancelled_while_its_request_is_prepared(llm: Llama) -> None:
    for _ in range(20):
        task = asyncio.create_task(llm.acomplete(COUNT * 20, max_tokens=900, ignore_eos=True))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await eventually(lambda: not (llm.counts()["running"] or llm.counts()["waiting"]))


# --- many at once


def test_sixteen_threads_share_a_model(llm: Llama) -> None:
    texts = [counting(first) for first in (1, 2, 3, 4)]

    def work(number: int) -> list[str]:
        start.wait()
        chat = llm.chat(QUESTIONS[number % 4]).text
        complete = llm.complete(texts[number % 4], max_tokens=20).text
        stream = "".join(delta.text for delta in llm.stream_chat(QUESTIONS[(number + 1) % 4]))
        async_ = asyncio.run(llm.acomplete(texts[(number + 1) % 4], max_tokens=20)).text
        llm.embed(["a", "b"])
        return [chat, complete, stream, async_]

    with demo() as alone:
        chats = [alone.chat(question).text for question in QUESTIONS]
        plain = [alone.complete(text, max_tokens=20).text for text in texts]
    start = threading.Barrier(16)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(work, range(16)))
    assert found == [[chats[i % 4], plain[i % 4], chats[(i + 1) % 4], plain[(i + 1) % 4]] for i in range(16)]


def test_what_ends_badly_ends_only_itself(llm: Llama) -> None:
    def work(number: int) -> str:
        try:
            return llm.complete(COUNT, max_tokens=10, n=0 if number % 2 else 1).text
        except InfsError as error:
            return type(error).__name__

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(16)))
    assert found[1::2] == ["InvalidRequest"] * 8
    assert set(found[::2]) == {llm.complete(COUNT, max_tokens=10).text}
