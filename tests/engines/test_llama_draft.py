"""The draft model: what it guesses, how it keeps up with what was accepted, and which models cannot be one."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infs.batching.base import Chunk, Remove
from infs.batching.speculation import Wanted
from infs.config import DeviceConfig
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.draft import DraftModel
from infs.engines.llama_cpp.draft_loading import PARAM, check_draft, load_draft
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.options import DraftOptions, LlamaOptions, SpeculationOptions
from infs.errors import GenerationFailed, LoadFailed
from infs.testing import FakeDecoder, next_token
from tests.engines.llama import load_model, native_log
from tests.tiny import files, write_bert, write_llama, write_mamba

DEVICE = DeviceConfig(gpu=False, cpu_threads=1)
PROMPT = [72, 101, 108, 108, 111, 32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("draft")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    return write_llama(folder / "tiny.gguf")


@pytest.fixture(scope="module")
def target(tiny: Path) -> Iterator[LlamaModel]:
    model = load_model(tiny)
    yield model
    model.close()


@pytest.fixture(scope="module")
def decoder(target: LlamaModel) -> Iterator[LlamaDecoder]:
    decoder = LlamaDecoder(target, DEVICE, LlamaOptions(), native_log(), cells=512, sequences=1, batch=256)
    yield decoder
    decoder.close()


def load(path: Path, target: LlamaModel, *, cells: int = 512, sequences: int = 4, **draft: Any) -> DraftModel:
    options = LlamaOptions(speculation=SpeculationOptions(draft=DraftOptions(file=str(path), **draft)))
    return load_draft(path, DEVICE, options, native_log(), target, cells=cells, sequences=sequences)


def greedy(decoder: LlamaDecoder, tokens: list[int], count: int) -> list[int]:
    """What the target says: the whole text is computed anew for each token."""
    tokens = list(tokens)
    for _ in range(count):
        decoder.apply([Remove(0, 0)])
        row = decoder.decode([Chunk(0, 0, tokens, 1)])[0]
        tokens.append(int(decoder.scores(row).argmax()))
    return tokens[-count:]


# --- the real thing


def test_a_model_that_drafts_for_itself_says_what_it_will_say(tiny: Path, target: LlamaModel, decoder: Any) -> None:
    draft = load(tiny, target)
    draft._min_probability = 0.0  # random weights are sure of nothing
    texts = {"a": list(PROMPT), "b": [*PROMPT, 1, 2, 3], "c": [9]}
    try:
        for _ in range(3):
            wanted = [Wanted(key, tokens, 5) for key, tokens in texts.items()]
            for each, guess in zip(wanted, draft.propose(wanted), strict=True):
                assert guess == greedy(decoder, each.tokens, 5)
                each.tokens += [*guess[:3], 77]  # three are right, then something else comes
        assert draft.cost > 0.0
    finally:
        draft.close()


def test_another_model_of_the_same_vocabulary_guesses_tokens(folder: Path, target: LlamaModel) -> None:
    draft = load(write_llama(folder / "other.gguf", seed=5, layers=1), target, gpu_layers=0)
    draft._min_probability = 0.0
    try:
        guess = draft.propose([Wanted("a", PROMPT, 8)])[0]
        assert guess is not None
        assert 1 <= len(guess) <= 8
        assert all(0 <= token < target.size for token in guess)
    finally:
        draft.close()


def test_a_model_that_is_not_sure_guesses_nothing(tiny: Path, target: LlamaModel) -> None:
    draft = load(tiny, target)
    try:
        assert draft.propose([Wanted("a", PROMPT, 8)]) == [[]]
    finally:
        draft.close()


def test_cells_that_run_out_and_sequences_that_are_forgotten(tiny: Path, target: LlamaModel, decoder: Any) -> None:
    draft = load(tiny, target, cells=256, sequences=2)
    draft._min_probability = 0.0
    try:
        for key in range(6):
            text = [(key * 31 + index) % 256 for index in range(200)]
            assert draft.propose([Wanted(key, text, 4)]) == [greedy(decoder, text, 4)]
            if key == 3:
                draft.forget(key)
        assert draft.propose([Wanted("long", [1] * 300, 4)]) == [[]]
    finally:
        draft.close()


# --- which can draft


def test_a_model_with_another_vocabulary_is_refused(target: LlamaModel) -> None:
    draft = load_model()  # the demo model
    try:
        with pytest.raises(LoadFailed, match=r"tokens, and the model's has 259.*same family") as caught:
            check_draft(draft, target)
        assert caught.value.param == PARAM
    finally:
        draft.close()
    with pytest.raises(LoadFailed, match="tokens, and the model's has 259"):
        load(draft.path, target)


def test_a_model_that_calls_a_token_otherwise_is_refused(
    folder: Path, target: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = files._byte_names()
    names[97], names[98] = names[98], names[97]
    monkeypatch.setattr(files, "_byte_names", lambda: names)
    with pytest.raises(LoadFailed, match="token 97 is 'b', and the model's is 'a'"):
        load(write_llama(folder / "swapped.gguf"), target)


@pytest.mark.parametrize("names", [("<|end|>", "<|somebody|>", "<|assistant|>"), ("<|end|>", "<|user|>")])
def test_other_control_tokens_and_a_rounded_size_do_not_matter(
    folder: Path, target: LlamaModel, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(files, "SPECIAL", names)
    draft = load_model(write_llama(folder / f"control{len(names)}.gguf"))
    try:
        assert check_draft(draft, target) == 256 + len(names)
    finally:
        draft.close()


def test_models_that_make_no_text_or_cannot_go_back_are_refused(folder: Path, target: LlamaModel) -> None:
    with pytest.raises(LoadFailed, match="a bert model makes no text"):
        load(write_bert(folder / "bert.gguf", pooling="mean"), target)
    with pytest.raises(LoadFailed, match="state cannot be cut"):
        load(write_mamba(folder / "mamba.gguf"), target)


def test_a_file_that_is_none_is_refused(folder: Path, target: LlamaModel) -> None:
    with pytest.raises(LoadFailed, match="cannot be read"):
        load(folder / "nothing.gguf", target)


# --- keeping up, on a decoder that refuses what a real cache could not do

VOCABULARY = 50


class SureDecoder(FakeDecoder):
    """Its scores say the hash of all that was seen, with probability `sure`."""

    def __init__(self, cells: int, sequences: int, *, sure: float = 0.99, fail_at: int | None = None) -> None:
        super().__init__(cells, sequences, vocabulary=VOCABULARY, fail_at=fail_at)
        self.sure = sure
        self.closed = False
        self.sizes: list[int] = []

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.sizes.append(sum(len(chunk.tokens) for chunk in chunks))
        try:
            return super().decode(chunks)
        except RuntimeError as error:
            raise GenerationFailed(str(error)) from error

    def scores(self, row: int) -> NDArray[np.float32]:
        scores = np.full(VOCABULARY, math.log((1 - self.sure) / (VOCABULARY - 1)), np.float32)
        scores[self.next(row)] = math.log(self.sure)
        return scores

    def close(self) -> None:
        self.closed = True


def drafting(decoder: SureDecoder, **options: Any) -> DraftModel:
    return DraftModel(decoder, **{"vocabulary": VOCABULARY, "known": VOCABULARY, **options})


def plain(tokens: list[int], count: int) -> list[int]:
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(next_token(tokens, VOCABULARY))
    return tokens[len(tokens) - count :]


def test_a_long_prompt_is_read_in_parts() -> None:
    decoder = SureDecoder(100, 2)
    draft = drafting(decoder, catch_up=10)
    text, short = list(range(35)), [1, 2]
    assert draft.propose([Wanted("long", text, 3)]) == [None]
    both = [Wanted("long", text, 3), Wanted("short", short, 2)]
    assert draft.propose(both) == [None, plain(short, 2)]  # the short one does not wait behind the long one
    assert draft.propose(both) == [None, plain(short, 2)]
    assert draft.propose(both) == [plain(text, 3), plain(short, 2)]
    assert max(decoder.sizes) == 10


def test_only_what_is_new_is_computed() -> None:
    decoder = SureDecoder(200, 2)
    draft, text = drafting(decoder), list(range(40))
    guess = draft.propose([Wanted("a", text, 4)])[0]
    assert guess is not None
    assert decoder.sizes == [40, 1, 1, 1]
    text += [*guess, 5]  # all were right: the last guess was not computed yet
    draft.propose([Wanted("a", text, 1)])
    assert decoder.sizes[4:] == [2]
    text += [6, 7]
    assert draft.propose([Wanted("a", list(text), 2)]) == [plain(text, 2)]  # in another list
    assert decoder.sizes[5:] == [2, 1]
    assert draft.propose([Wanted("a", text, 2)]) == [plain(text, 2)]  # asked twice
    assert decoder.sizes[7:] == [1, 1]


def test_one_that_is_not_sure_stops() -> None:
    for least, guess in ((0.75, []), (0.5, plain([1], 4))):
        draft = drafting(SureDecoder(100, 2, sure=0.6), min_probability=least)
        assert draft.propose([Wanted("a", [1], 4)]) == [guess]


def test_behind_an_end_nothing_is_guessed() -> None:
    guess = plain([1], 4)
    draft = drafting(SureDecoder(100, 2), ends=frozenset([guess[1]]))
    assert draft.propose([Wanted("a", [1], 4)]) == [guess[:2]]


def test_only_tokens_that_both_have_are_guessed() -> None:
    draft = drafting(SureDecoder(100, 2), vocabulary=3, min_probability=0.0)
    guess = draft.propose([Wanted("a", [1], 6)])[0]
    assert guess is not None
    assert set(guess) <= {0, 1, 2}


def test_a_token_that_the_draft_model_does_not_have_ends_it() -> None:
    decoder = SureDecoder(100, 2)
    draft = drafting(decoder)
    assert draft.propose([Wanted("a", [1, VOCABULARY, 2], 4), Wanted("b", [1], 2)]) == [[], plain([1], 2)]
    text = [1, 2]
    assert draft.propose([Wanted("c", text, 2)]) == [plain(text, 2)]
    text.append(VOCABULARY)
    assert draft.propose([Wanted("c", text, 2)]) == [[]]


def test_the_one_that_was_used_least_recently_makes_room() -> None:
    decoder = SureDecoder(50, 8)
    draft = drafting(decoder)
    texts = {key: [key] * 20 for key in range(3)}
    for key in (0, 1, 0, 2):  # 2 drives out 1
        assert draft.propose([Wanted(key, texts[key], 1)]) == [plain(texts[key], 1)]
    assert decoder.sizes == [20, 20, 1, 20]
    draft.propose([Wanted(0, texts[0], 1)])
    assert decoder.sizes[4:] == [1]
    draft.propose([Wanted(1, texts[1], 1)])
    assert decoder.sizes[5:] == [20]


def test_those_that_do_not_fit_together_do_not_drive_each_other_out_in_turns() -> None:
    decoder = SureDecoder(50, 8)
    draft = drafting(decoder)
    wanted = [Wanted(key, [key] * 20, 2) for key in range(3)]
    for _ in range(4):
        found = draft.propose(wanted)
        assert [guess is None for guess in found] == [False, False, True]
    assert decoder.sizes == [40, 2, *[2, 2] * 3]
    draft.forget(0)
    assert draft.propose(wanted)[2] is not None or draft.propose(wanted)[0] is not None


def test_more_sequences_than_ids_take_turns() -> None:
    draft = drafting(SureDecoder(100, 2))
    for key in range(5):
        assert draft.propose([Wanted(key, [key], 2)]) == [plain([key], 2)]
    found = draft.propose([Wanted(key, [key], 2) for key in range(3)])
    assert sorted(guess is None for guess in found) == [False, False, True]


def test_a_failure_ends_drafting_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    decoder = SureDecoder(100, 2, fail_at=2)
    draft = drafting(decoder, log=logging.getLogger("tests.draft"))
    with caplog.at_level(logging.WARNING):
        assert draft.propose([Wanted("a", [1], 3)]) == [[]]
        assert draft.propose([Wanted("a", [1], 3), Wanted("b", [2], 3)]) == [[], []]
    assert [record.message for record in caplog.records] == [
        "The draft model failed and is not used any more: the fake decoder was told to fail"
    ]
    draft.forget("a")
    assert decoder.calls == 2


def test_closing_frees_the_context_then_the_model() -> None:
    decoder = SureDecoder(100, 2)
    freed: list[bool] = []
    drafting(decoder, close=lambda: freed.append(decoder.closed)).close()
    assert freed == [True]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
            st.integers(1, 5),
            st.integers(0, 6),
            st.sampled_from(["go on", "go on", "shift", "forget"]),
        ),
        max_size=25,
    )
)
def test_guesses_are_right_whatever_happened_before(rounds: list[tuple[list[int], int, int, str]]) -> None:
    decoder = SureDecoder(40, 3)
    draft = drafting(decoder, catch_up=7)
    texts: dict[int, list[int]] = {key: [key, 1, 2] for key in range(5)}
    for keys, most, right, event in rounds:
        wanted = [Wanted(key, texts[key], most) for key in keys]
        for each, guess in zip(wanted, draft.propose(wanted), strict=True):
            fits = len(each.tokens) + most - 1 <= decoder.cells
            assert guess is None or guess == (plain(each.tokens, most) if fits else [])
            each.tokens += [*(guess or [])[:right], len(each.tokens) % VOCABULARY]
        assert decoder.used <= decoder.cells
        if event == "forget":
            draft.forget(keys[0])
        elif event == "shift":
            texts[keys[0]] = texts[keys[0]][:1] + texts[keys[0]][len(texts[keys[0]]) // 2 :]
