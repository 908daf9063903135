"""Python functions that change scores: what they see, what they may do, and that nobody else suffers from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infs.errors import GenerationFailed, InvalidRequest
from infs.llama import Llama, LogitsProcessor
from tests.llama.models import COUNT, QUESTIONS

SETTINGS: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 3}, {"logprobs": 2}, {"temperature": 1.0, "n": 2}]


def setting(value: float) -> LogitsProcessor:
    """A processor that gives every token the same score."""

    def process(tokens: list[int], scores: np.ndarray) -> None:
        scores[:] = value

    return process


def only(*wanted: int) -> LogitsProcessor:
    """A processor that lets nothing but `wanted` tokens through."""

    def process(tokens: list[int], scores: np.ndarray) -> None:
        kept = scores[list(wanted)].copy()
        scores[:] = -np.inf
        scores[list(wanted)] = kept

    return process


def test_a_processor_sees_all_tokens_and_all_scores(llm: Llama) -> None:
    seen: list[list[int]] = []

    def look(tokens: list[int], scores: np.ndarray) -> None:
        assert scores.shape == (llm.vocabulary_size,)
        assert scores.dtype == np.float32
        assert scores.flags.writeable
        seen.append([*tokens, int(scores.argmax())])

    text = llm.complete(COUNT, max_tokens=6, logits_processors=[look]).text
    assert text == llm.complete(COUNT, max_tokens=6).text
    prompt = llm.tokenize(COUNT)
    assert all(tokens[: len(prompt)] == prompt for tokens in seen)
    assert [len(tokens) for tokens in seen] == [len(prompt) + count for count in range(1, 7)]
    assert llm.detokenize(seen[-1]) == COUNT + text


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_processor_chooses(llm: Llama, settings: dict[str, Any]) -> None:
    token = llm.lookup_token(" river")
    assert token is not None
    result = llm.complete(COUNT, max_tokens=4, logits_processors=[only(token)], **settings)
    assert {choice.text for choice in result.choices} == {" river" * 4}


def test_processors_are_called_in_their_order(llm: Llama) -> None:
    one, two = llm.tokenize(" river", add_bos=False)[0], llm.tokenize(" stone", add_bos=False)[0]

    def swap(tokens: list[int], scores: np.ndarray) -> None:
        scores[[one, two]] = scores[[two, one]]

    first = llm.complete(COUNT, max_tokens=1, logits_processors=[only(one), swap]).text
    assert first == llm.detokenize([two])
    assert llm.complete(COUNT, max_tokens=1, logits_processors=swap).text  # one alone will do


def test_a_processor_and_a_constraint(llm: Llama) -> None:
    constraint = {"type": "choice", "options": ["yes", "no"]}

    def rather_no(tokens: list[int], scores: np.ndarray) -> None:
        scores[[t for t in range(llm.vocabulary_size) if llm.detokenize([t]).startswith("n")]] += 1000.0

    for settings in ({}, {"temperature": 1.0}):
        assert llm.chat("Yes?", constraint=constraint, logits_processors=[rather_no], **settings).text == "no"
    river = llm.lookup_token(" river")
    assert river is not None
    for settings in ({}, {"temperature": 1.0}):
        with pytest.raises(InvalidRequest, match="forbid all that the constraint allows"):
            llm.chat("Yes?", constraint=constraint, logits_processors=[only(river)], **settings)
    assert llm.chat(QUESTIONS[0]).text == "The capital of France is Paris."


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "not a number"), (float("inf"), "infinite"), (-float("inf"), "every token")]
)
def test_scores_that_choose_nothing_are_refused(llm: Llama, settings: dict[str, Any], value: float, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        llm.complete(COUNT, max_tokens=4, logits_processors=[setting(value)], **settings)
    assert caught.value.param == "logits_processors"


def test_one_score_that_is_not_a_number_is_found(llm: Llama) -> None:
    def spoil(tokens: list[int], scores: np.ndarray) -> None:
        scores[7] = np.nan

    with pytest.raises(InvalidRequest, match="not a number"):
        llm.complete(COUNT, temperature=1.0, logits_processors=[spoil])


def failing(error: Exception, after: int) -> LogitsProcessor:
    left = [after]

    def process(tokens: list[int], scores: np.ndarray) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return process


def test_one_that_raises_ends_only_its_own_request(llm: Llama) -> None:
    expected = llm.complete(COUNT, max_tokens=20).text
    handles = [
        llm.submit(COUNT, max_tokens=20, logits_processors=[failing(KeyError("x"), i)] if i % 2 else ())
        for i in range(8)
    ]
    for index, handle in enumerate(handles):
        if index % 2 == 0:
            assert handle.result().text == expected
            continue
        with pytest.raises(GenerationFailed, match="logits processor failed: KeyError") as caught:
            handle.result()
        assert isinstance(caught.value.__cause__, KeyError)


def test_an_infs_error_comes_out_as_it_is(llm: Llama) -> None:
    with pytest.raises(InvalidRequest, match="mine"):
        llm.complete(COUNT, logits_processors=[failing(InvalidRequest("mine"), 1)])


def test_a_processor_cannot_stop_what_calls_it(manual: Llama, llm: Llama) -> None:
    things: list[Callable[[Llama], object]] = [
        lambda llm: llm.close(),
        lambda llm: llm.complete("x", max_tokens=1),
        lambda llm: next(iter(llm.submit("x", max_tokens=1))),
    ]
    for do in things:
        with pytest.raises(InvalidRequest):
            llm.complete(COUNT, logits_processors=[lambda tokens, scores, do=do: do(llm)])  # type: ignore[misc]
    for do in (*things, lambda llm: llm.step(), lambda llm: llm.run()):
        handle = manual.submit(COUNT, logits_processors=[lambda tokens, scores, do=do: do(manual)])  # type: ignore[misc]
        manual.run()
        with pytest.raises(InvalidRequest):
            handle.result()


def test_a_processor_may_use_tokens_and_sequences(llm: Llama) -> None:
    def follow(tokens: list[int], scores: np.ndarray) -> None:
        with llm.new_sequence() as sequence:
            sequence.eval(tokens)
            assert sequence.logits() == pytest.approx(scores, abs=0.5)

    assert llm.complete(COUNT, max_tokens=3, logits_processors=[follow]).usage.completion_tokens == 3
