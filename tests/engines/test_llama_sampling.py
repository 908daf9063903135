"""Every sampling setting has the effect that it names: over made-up scores, with many draws."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.sampling import Sampler, Sampling
from infs.errors import InvalidRequest
from infs.types import GENERATION_OPTIONS, LogitBias
from tests.engines.llama import load_model

NOT_SAMPLING = {
    "max_tokens",
    "n",
    "best_of",
    "stop",
    "logprobs",
    "constraint",
    "ignore_eos",
    "context_overflow",
    "context_keep",
    "cache_salt",
    "cache_reuse",
    "reasoning_budget",
    "speculation",
    "lora",
}
PLAIN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7}
GREEDY: dict[str, Any] = {"temperature": 0.0}
FOUR = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    model = load_model()
    yield model
    model.close()


class Drawing:
    """A sampler over made-up scores of the tokens 0, 1, 2, ..."""

    def __init__(self, model: LlamaModel, options: dict[str, Any], before: Sequence[int] = (), **more: Any) -> None:
        self.sampler = Sampler(model, Sampling.of(options), **{"context": 1024, **more})
        self.sampler.note(before)

    def draw(self, scores: Sequence[float], tokens: Sequence[int] | None = None) -> int:
        tokens = tokens or range(len(scores))
        data = (llama_cpp.llama_token_data * len(scores))()
        for place, (token, score) in enumerate(zip(tokens, scores, strict=True)):
            data[place].id, data[place].logit = token, score
        array = llama_cpp.llama_token_data_array(data=data, size=len(scores), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.sampler.chain, ctypes.byref(array))
        chosen: int = array.data[array.selected].id
        return chosen


def drawn(
    model: LlamaModel, options: dict[str, Any], scores: Sequence[float] = FOUR, count: int = 2000, **more: Any
) -> list[int]:
    drawing = Drawing(model, {**PLAIN, **options}, **more)
    return [drawing.draw(scores) for _ in range(count)]


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(score / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def test_every_setting_of_a_request_is_one_of_the_sampler_or_known_not_to_be() -> None:
    assert set(Sampling.__struct_fields__) | NOT_SAMPLING == set(GENERATION_OPTIONS)
    assert not set(Sampling.__struct_fields__) & NOT_SAMPLING


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_scales_the_scores(model: LlamaModel, temperature: float) -> None:
    counts = Counter(drawn(model, {"temperature": temperature}, count=6000))
    for token, expected in enumerate(softmax(FOUR, temperature)):
        assert counts[token] / 6000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 1e-9])
def test_no_temperature_takes_the_best(model: LlamaModel, temperature: float) -> None:
    assert set(drawn(model, {"temperature": temperature}, [30.0, 31.0, -500.0, 30.9], 20)) == {1}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_k": 0}, {0, 1, 2, 3}),
        ({"top_k": -1}, {0, 1, 2, 3}),
        ({"top_k": 2**32 + 1}, {0, 1, 2, 3}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.0}, {0}),
        ({"top_p": 0.94}, {0, 1, 2}),
        ({"min_p": 0.4}, {0, 1}),
        ({"min_p": 0.2}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.1}, {2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, {1, 2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.4}, {0, 1, 2, 3}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.1}, {0, 1, 2, 3}),
        ({"xtc_probability": 0.0, "xtc_threshold": 0.1}, {0, 1, 2, 3}),
    ],
)
def test_truncation_leaves_what_it_says(model: LlamaModel, options: dict[str, Any], left: set[int]) -> None:
    assert set(drawn(model, options)) == left


def test_xtc_happens_as_often_as_it_says(model: LlamaModel) -> None:
    often, seldom = (
        Counter(drawn(model, {"xtc_probability": probability, "xtc_threshold": 0.1}))[0] for probability in (0.2, 0.8)
    )
    assert often > 2 * seldom > 0


def test_typical_p_prefers_the_token_of_usual_surprise(model: LlamaModel) -> None:
    scores = [math.log(p) for p in (0.6, 0.2, 0.1, 0.1)]  # the second is nearest to the entropy
    assert set(drawn(model, {"typical_p": 0.1}, scores)) == {1}
    assert set(drawn(model, {"typical_p": 0.7}, scores)) == {0, 1}
    assert set(drawn(model, {"typical_p": 1.0}, scores)) == {0, 1, 2, 3}


def test_top_n_sigma_keeps_what_is_near_the_best(model: LlamaModel) -> None:
    scores = [5.0, 4.5, 2.0, *[0.0] * 7]
    assert set(drawn(model, {"top_n_sigma": 1.0}, scores)) == {0, 1}
    assert set(drawn(model, {"top_n_sigma": 2.0}, scores)) == {0, 1, 2}
    assert len(set(drawn(model, {"top_n_sigma": -1.0}, scores))) > 3


def chosen(model: LlamaModel, options: dict[str, Any], scores: list[float], before: list[int]) -> int:
    return Drawing(model, GREEDY | options, before).draw(scores)


@pytest.mark.parametrize(
    ("options", "before", "expected"),
    [
        ({"repeat_penalty": 2.0}, [0], 1),
        ({"repeat_penalty": 1.2}, [0], 0),
        ({"repeat_penalty": 2.0}, [5], 0),
        ({"repeat_penalty": 2.0, "penalty_last_n": 2}, [0, 9, 9], 0),
        ({"repeat_penalty": 2.0, "penalty_last_n": 3}, [0, 9, 9], 1),
        ({"repeat_penalty": 2.0, "penalty_last_n": 0}, [0], 0),
        ({"repeat_penalty": 2.0}, [0, *[9] * 100], 0),
        ({"repeat_penalty": 2.0, "penalty_last_n": -1}, [0, *[9] * 1000], 1),
        ({"repeat_penalty": 2.0, "penalty_last_n": 2**40}, [0, *[9] * 1000], 1),
        ({"frequency_penalty": 0.3}, [0, 0, 0], 1),
        ({"frequency_penalty": 0.3}, [0], 0),
        ({"presence_penalty": 0.6}, [0], 1),
        ({"presence_penalty": 0.4}, [0, 0, 0], 0),
        ({"frequency_penalty": -0.3}, [1, 1], 1),
        ({"presence_penalty": -0.6}, [1], 1),
    ],
)
def test_penalties_weigh_what_was_there(
    model: LlamaModel, options: dict[str, Any], before: list[int], expected: int
) -> None:
    assert chosen(model, options, [2.0, 1.5, 0.0], before) == expected


DRY: dict[str, Any] = {"dry_multiplier": 1.0, "dry_base": 1.75, "dry_allowed_length": 2}


@pytest.mark.parametrize(
    ("options", "repeats"),
    [
        ({}, True),
        (DRY, False),
        (DRY | {"dry_multiplier": 0.1}, True),
        (DRY | {"dry_base": 1.0}, True),
        (DRY | {"dry_allowed_length": 4}, True),
        (DRY | {"dry_allowed_length": 2**40}, True),
        (DRY | {"dry_penalty_last_n": 4}, True),
        (DRY | {"dry_penalty_last_n": 7}, False),
        (DRY | {"dry_penalty_last_n": 2**40}, False),
        (DRY | {"dry_sequence_breakers": [" stone"]}, True),
        (DRY | {"dry_sequence_breakers": []}, False),
    ],
)
def test_dry_keeps_a_sequence_from_being_repeated(model: LlamaModel, options: dict[str, Any], repeats: bool) -> None:
    words = model.tokenize(" river stone cloud garden apple", add_special=False, parse_special=False)
    assert len(set(words)) == 5
    river, stone, cloud, garden, apple = words
    drawing = Drawing(model, GREEDY | options, [river, stone, cloud, garden, river, stone, cloud])
    assert drawing.draw([2.0, 0.5], [garden, apple]) == (garden if repeats else apple)


ZIPF = [-1.1 * math.log(rank) for rank in range(1, 400)]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_aims_at_a_surprise(model: LlamaModel, version: int) -> None:
    bits = [-math.log2(p) for p in softmax(ZIPF)]

    def mean_surprise(**options: float) -> float:
        tokens = drawn(model, {"mirostat": version, **options}, ZIPF, 1500)
        return float(np.mean([bits[token] for token in tokens[100:]]))

    low, high = (mean_surprise(mirostat_tau=tau, mirostat_eta=0.1) for tau in (2.0, 4.0))
    assert low < high - 1.0
    # Without learning, the bound on the surprise stays where it starts: at twice the aim.
    fixed = drawn(model, {"mirostat": version, "mirostat_tau": 2.0, "mirostat_eta": 0.0}, ZIPF)
    learning = drawn(model, {"mirostat": version, "mirostat_tau": 2.0, "mirostat_eta": 0.5}, ZIPF)
    assert len(set(fixed)) < len(set(learning))
    if version == 2:
        assert max(bits[token] for token in fixed) <= 4.0 < max(bits[token] for token in learning)


@pytest.mark.parametrize("seed", [0, 1, -1, -5, 2**32 - 1, 2**32, 2**62])
def test_a_seed_repeats(model: LlamaModel, seed: int) -> None:
    assert drawn(model, {"seed": seed}, count=100) == drawn(model, {"seed": seed}, count=100)
    assert drawn(model, {"seed": seed}, count=100) != drawn(model, {"seed": seed + 1}, count=100)
    assert drawn(model, {"seed": seed}, count=100) != drawn(model, {"seed": seed}, count=100, choice=1)


def test_without_a_seed_nothing_repeats(model: LlamaModel) -> None:
    options = {name: value for name, value in PLAIN.items() if name != "seed"}
    first, second = (Drawing(model, options) for _ in range(2))
    assert [first.draw(FOUR) for _ in range(100)] != [second.draw(FOUR) for _ in range(100)]


def biased(model: LlamaModel, *biases: tuple[int | str, float], scores: list[float] = FOUR, **more: Any) -> set[int]:
    told = [LogitBias(token=token, bias=bias) for token, bias in biases]
    return set(drawn(model, {"logit_bias": told}, scores, **more))


def test_logit_bias_moves_and_bans_tokens(model: LlamaModel) -> None:
    assert biased(model, (3, 100.0)) == {3}
    assert biased(model, (0, -100.0), (1, -100.0)) == {2, 3}
    assert biased(model, (0, -100.0), scores=[200.0, 0.0]) == {1}  # a ban holds whatever the score
    assert biased(model, (0, -99.0), scores=[200.0, 0.0]) == {0}
    assert biased(model, (3, 100.0), ban=[3]) == {0, 1, 2}


def test_logit_bias_takes_texts(model: LlamaModel) -> None:
    (word,) = model.tokenize(" river", add_special=False, parse_special=False)
    told = [LogitBias(token=" river", bias=50.0)]
    drawing = Drawing(model, GREEDY | {"logit_bias": told})
    assert drawing.draw([0.0, 10.0], [word, word + 1]) == word


@pytest.mark.parametrize(
    ("biases", "match"),
    [
        ([LogitBias(token=10**6, bias=1.0)], r"token 1000000; the model has tokens 0 to 2047"),
        ([LogitBias(token="", bias=1.0)], "empty text"),
    ],
)
def test_a_bias_that_means_nothing_is_refused(model: LlamaModel, biases: list[LogitBias], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        Drawing(model, {"logit_bias": biases})
    assert caught.value.param == "logit_bias"


def test_banning_every_token_is_refused(model: LlamaModel) -> None:
    biases = [LogitBias(token=token, bias=-100.0) for token in range(model.size)]
    with pytest.raises(InvalidRequest, match="every token"):
        Drawing(model, {"logit_bias": biases})


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1e-300},
        {"repeat_penalty": 1e300},
        {"dry_multiplier": 1e300},
        {"dry_multiplier": 1.0, "dry_base": 0.0},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ["", "a" * 100_000, "a\0b"]},
        {"mirostat": 1, "mirostat_tau": 0.0, "mirostat_eta": 1e300},
        {"mirostat": 2, "mirostat_tau": 1e300, "mirostat_eta": 1e300},
        {"top_n_sigma": 1e-300},
        {"typical_p": 0.0},
    ],
)
def test_extreme_settings_still_choose_a_token(model: LlamaModel, options: dict[str, Any]) -> None:
    assert set(drawn(model, options, count=20, before=[1, 2, 1, 2])) <= {0, 1, 2, 3}
