"""The third level: tokens, and sequences whose cache is the caller's to arrange."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.errors import CapacityError, GenerationFailed, InfsError, InvalidRequest, ServerClosed, Unsupported
from infs.llama import Llama, LowSequence
from infs.types import LoraScale
from tests.llama.models import COUNT, QUESTIONS, counting, demo, tiny
from tests.tiny import write_llama, write_lora, write_mamba


@pytest.fixture
def sequence(llm: Llama) -> Iterator[LowSequence]:
    """An empty one of the demo model."""
    with llm.new_sequence() as sequence:
        yield sequence


def greedy(sequence: LowSequence, count: int) -> list[int]:
    """The next `count` tokens, each the best one."""
    before = len(sequence)
    for _ in range(count):
        sequence.eval([sequence.sample(temperature=0.0)])
    return sequence.tokens[before:]


def of(llm: Llama, text: str) -> LowSequence:
    """A sequence with `text`, computed."""
    sequence = llm.new_sequence()
    sequence.eval(llm.tokenize(text))
    return sequence


def used(sequence: LowSequence) -> int:
    """Cells in use in the context of `sequence`."""
    return sequence.parts[0].cells.used


# --- tokens


def test_texts_and_tokens(llm: Llama) -> None:
    for text in ("", "Hello, you!", " two  blanks\n\t", "naïve 🙂 漢字", "\0"):
        tokens = llm.tokenize(text)
        assert llm.detokenize(tokens) == text
        assert llm.detokenize_bytes(tokens) == text.encode()
        assert all(0 <= token < llm.vocabulary_size for token in tokens)
    smile = llm.tokenize("🙂")
    assert b"".join(llm.detokenize_bytes([token]) for token in smile) == "🙂".encode()
    assert llm.detokenize(np.array(llm.tokenize("river"))) == "river"


def test_control_tokens(llm: Llama) -> None:
    [start] = llm.tokenize("<|im_start|>")
    assert llm.lookup_token("<|im_start|>") == llm.lookup_token(b"<|im_start|>") == start
    as_text = llm.tokenize("<|im_start|>", special=False)
    assert len(as_text) > 1
    assert start not in as_text
    assert llm.detokenize([start]) == llm.detokenize(as_text) == "<|im_start|>"
    assert llm.detokenize([start], special=False) == ""
    assert llm.eos_token in llm.end_tokens
    assert llm.lookup_token("no token is as long as this text") is None


def test_the_token_that_starts_a_text(llm: Llama, tmp_path: Path) -> None:
    assert llm.tokenize("a", add_bos=True) == [llm.bos_token, *llm.tokenize("a", add_bos=False)]
    with tiny(write_llama(tmp_path / "m.gguf")) as other:
        if other.bos_token is None:
            with pytest.raises(InvalidRequest, match="add_bos"):
                other.tokenize("a", add_bos=True)


def test_wrong_texts_and_tokens(llm: Llama) -> None:
    calls: list[Callable[[], object]] = [
        lambda: llm.tokenize("half \ud800"),
        lambda: llm.tokenize(b"bytes"),  # type: ignore[arg-type]
        lambda: llm.lookup_token("\ud800"),
        lambda: llm.lookup_token(5),  # type: ignore[arg-type]
        lambda: llm.detokenize([-1]),
        lambda: llm.detokenize([llm.vocabulary_size]),
        lambda: llm.detokenize([1.5]),  # type: ignore[list-item]
        lambda: llm.detokenize("text"),  # type: ignore[arg-type]
        lambda: llm.detokenize(5),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InvalidRequest):
            call()


# --- computing


def test_the_best_tokens_are_those_of_a_completion(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    expected = llm.complete(COUNT, max_tokens=30).text
    assert llm.detokenize(greedy(sequence, 30)) == expected
    assert len(sequence) == sequence.computed == len(llm.tokenize(COUNT)) + 30


def test_accepted_tokens_are_computed_later(llm: Llama, sequence: LowSequence) -> None:
    tokens = llm.tokenize(COUNT)
    for token in tokens:
        sequence.accept(token)
    assert (sequence.tokens, sequence.computed) == (tokens, 0)
    with pytest.raises(InvalidRequest, match="not computed"):
        sequence.logits()
    sequence.eval()
    assert sequence.computed == len(tokens)
    with of(llm, COUNT) as other:
        assert sequence.logits() == pytest.approx(other.logits(), abs=0.3)
    scores = sequence.logits()
    sequence.eval()  # nothing new, and nothing changes
    assert (sequence.logits() == scores).all()


def test_logits_are_a_copy(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    scores = sequence.logits()
    assert scores.shape == (llm.vocabulary_size,)
    assert scores.dtype == np.float32
    best = sequence.sample(temperature=0.0)
    assert best == scores.argmax()
    scores[best] = -np.inf
    assert sequence.sample(temperature=0.0) == best
    assert sequence.sample(scores=scores, temperature=0.0) == scores.argmax() != best


def test_one_token_at_a_time_or_all(llm: Llama, sequence: LowSequence) -> None:
    for token in llm.tokenize(COUNT):
        sequence.eval([token])
    assert llm.detokenize(greedy(sequence, 20)) == llm.complete(COUNT, max_tokens=20).text


def test_more_than_a_batch(llm: Llama) -> None:
    tokens = [*llm.tokenize("The river was long. " * 40), *llm.tokenize(COUNT)]
    assert len(tokens) > 128
    with llm.new_sequence() as one, llm.new_sequence() as two, llm.new_sequence() as three:
        one.eval(tokens)
        llm.eval([(two, tokens), (three, llm.tokenize(COUNT))])
        assert greedy(one, 10) == greedy(two, 10) == llm.tokenize(llm.complete(tokens, max_tokens=10).text)
        assert llm.detokenize(greedy(three, 10)) == llm.complete(COUNT, max_tokens=10).text


def test_several_in_one_batch(llm: Llama) -> None:
    prompts = [counting(first) for first in (1, 3, 5, 7)]
    sequences = [llm.new_sequence() for _ in prompts]
    llm.eval((sequence, llm.tokenize(prompt)) for sequence, prompt in zip(sequences, prompts, strict=True))
    for _ in range(15):
        for sequence in sequences:
            sequence.accept(sequence.sample(temperature=0.0))
        llm.eval(sequences)
    texts = [llm.detokenize(sequence.tokens) for sequence in sequences]
    assert texts == [prompt + llm.complete(prompt, max_tokens=15).text for prompt in prompts]
    for sequence in sequences:
        sequence.delete()


def test_threads_with_a_sequence_each_beside_requests(llm: Llama) -> None:
    def low(first: int) -> str:
        with of(llm, counting(first)) as sequence:
            return llm.detokenize(greedy(sequence, 15))

    def call(first: int) -> str:
        return llm.complete(counting(first), max_tokens=15).text

    firsts = [1, 2, 3, 4] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda work: work[0](work[1]), [(f, n) for n in firsts for f in (low, call)]))
    assert found[::2] == found[1::2] == [call(first) for first in firsts]


# --- the cache


def test_a_fork_goes_its_own_way(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    before = used(sequence)
    other = sequence.fork()
    assert used(sequence) == before, "the cells are shared"
    assert other.tokens == sequence.tokens
    assert (other.logits() == sequence.logits()).all()
    other.eval(llm.tokenize("7, 8, 9"))
    expected = llm.complete(COUNT, max_tokens=20).text
    assert llm.detokenize(greedy(sequence, 10)) == expected[: len(llm.detokenize(sequence.tokens)) - len(COUNT)]
    third = sequence.fork()
    sequence.delete()
    assert llm.detokenize(greedy(third, 10)) == expected[-len(llm.detokenize(third.tokens[-10:])) :]
    assert llm.detokenize(other.tokens).endswith("7, 8, 9")
    for left in (other, third):
        left.delete()


def test_trim_goes_back(llm: Llama, sequence: LowSequence) -> None:
    prompt = llm.tokenize(COUNT)
    sequence.eval(prompt)
    first = greedy(sequence, 20)
    sequence.trim(len(prompt) + 5)
    assert sequence.tokens == [*prompt, *first[:5]]
    with pytest.raises(InvalidRequest, match="eval"):
        sequence.logits()
    sequence.trim(len(prompt) + 4)
    sequence.eval(first[4:5])
    assert greedy(sequence, 15) == first[5:]
    sequence.trim(0)
    assert (len(sequence), sequence.computed) == (0, 0)
    sequence.eval(prompt)
    assert greedy(sequence, 20) == first


def test_what_was_accepted_is_trimmed_without_losing_scores(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    scores, length = sequence.logits(), len(sequence)
    sequence.accept(5)
    sequence.trim(length)
    assert (sequence.logits() == scores).all()


def test_saved_and_loaded(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    greedy(sequence, 5)
    sequence.accept(sequence.sample(temperature=0.0))
    data = sequence.save()
    tokens = sequence.tokens
    sequence.eval()
    expected = greedy(sequence, 10)
    with demo() as another, another.load_sequence(data) as elsewhere:
        assert elsewhere.tokens == tokens
        assert elsewhere.computed == len(tokens) - 1
        elsewhere.eval()
        assert greedy(elsewhere, 10) == expected
    before = used(sequence)
    sequence.load(memoryview(data))  # type: ignore[arg-type]
    assert used(sequence) == before - 11
    assert sequence.tokens == tokens
    sequence.eval()
    assert greedy(sequence, 10) == expected


def test_scores_are_saved_too(llm: Llama, sequence: LowSequence) -> None:
    empty = sequence.save()
    sequence.eval(llm.tokenize(COUNT))
    with llm.load_sequence(sequence.save()) as other:
        assert (other.logits() == sequence.logits()).all()
        other.load(empty)
        assert other.tokens == []


def test_what_cannot_be_loaded(llm: Llama, tmp_path: Path) -> None:
    with of(llm, COUNT) as sequence:
        data, tokens, scores = sequence.save(), sequence.tokens, sequence.logits()
        damaged = bytearray(data)
        damaged[-100] ^= 1
        wrong: list[tuple[Any, str]] = [
            (b"", "no saved sequence"),
            (b"hello" * 20, "no saved sequence"),
            (data[:-1], "damaged"),
            (data[:40], "damaged"),
            (damaged, "damaged"),
            (data[:8] + b"\x09\x00" + data[10:], "version 9"),
            ("text", "bytes"),
            (None, "bytes"),
        ]
        for what, said in wrong:
            with pytest.raises(InvalidRequest, match=said) as caught:
                sequence.load(what)
            assert caught.value.param == "data"
            assert sequence.tokens == tokens
            assert (sequence.logits() == scores).all()
    with demo(cache_type_k="f32") as other, pytest.raises(InvalidRequest, match="other settings: keys"):
        other.load_sequence(data)
    with tiny(write_llama(tmp_path / "m.gguf")) as other, pytest.raises(InvalidRequest, match="another model"):
        other.load_sequence(data)


def test_a_sequence_that_cannot_be_loaded_leaves_nothing(llm: Llama) -> None:
    for _ in range(40):  # more than there are places
        with pytest.raises(InvalidRequest):
            llm.load_sequence(b"nothing")


# --- room


def test_places_are_given_back() -> None:
    with demo(low_sequences=2) as llm:
        one, two = llm.new_sequence(), llm.new_sequence()
        data = one.save()
        for call in (llm.new_sequence, one.fork, functools.partial(llm.load_sequence, data)):
            with pytest.raises(CapacityError, match="low_sequences"):
                call()
        two.delete()
        two.delete()
        with one.fork():
            pass
        kept = llm.new_sequence()
        del one
        gc.collect()
        assert llm.new_sequence().id != kept.id


def test_cells_are_counted_once() -> None:
    with demo(low_tokens=64) as llm:
        tokens = llm.tokenize("river " * 300)
        one = llm.new_sequence()
        one.eval(tokens[:60])
        room = one.parts[0].cells.total or 0
        others = [one.fork() for _ in range(5)]
        left = room - 60
        with pytest.raises(CapacityError, match="low_tokens"):
            others[0].eval(tokens[: left + 1])
        assert others[0].tokens == tokens[:60]
        others[0].eval(tokens[:left])
        with pytest.raises(CapacityError):
            others[1].eval([5])
        with pytest.raises(CapacityError):
            llm.load_sequence(one.save())
        others[0].trim(60)
        others[1].eval([5])
        data = others[1].save()
        for sequence in (one, *others[2:], others[0]):
            sequence.delete()
        others[1].load(data)
        assert len(others[1]) == 61


def test_a_step_that_fails_changes_nothing(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Any:
        raise GenerationFailed("no memory")

    with of(llm, COUNT) as one, llm.new_sequence() as two:
        tokens, scores, before = one.tokens, one.logits(), used(one)
        with monkeypatch.context() as patch:
            patch.setattr("infs.engines.llama_cpp.decoder.Batch.compute", fail)
            with pytest.raises(GenerationFailed, match="no memory"):
                llm.eval([(one, [1, 2]), (two, [3])])
        assert (one.tokens, two.tokens, used(one)) == (tokens, [], before)
        assert (one.logits() == scores).all()
        assert llm.detokenize(greedy(one, 10)) == llm.complete(COUNT, max_tokens=10).text


# --- sampling


def test_a_seed_repeats_what_is_sampled(llm: Llama, sequence: LowSequence) -> None:
    hot: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    sequence.eval(llm.tokenize("Once"))
    runs = [[sequence.sample(seed=seed, **hot) for _ in range(20)] for seed in (1, 2)]
    assert runs[0] != runs[1]
    assert len(set(runs[0])) > 3, "the random numbers go on"
    assert [sequence.sample(seed=1, **hot) for _ in range(20)] == runs[0]


def test_settings_of_sampling_count(llm: Llama, sequence: LowSequence) -> None:
    river = llm.tokenize(" river", add_bos=False)[0]
    sequence.eval(llm.tokenize(COUNT))
    best = sequence.sample()  # the defaults of the model are greedy
    assert best == sequence.sample(top_k=1, temperature=5.0) == sequence.logits().argmax()
    assert sequence.sample(logit_bias=[{"token": river, "bias": 100.0}]) == river
    assert sequence.sample(logit_bias=[{"token": best, "bias": -100.0}]) != best
    flat = np.zeros(llm.vocabulary_size, np.float32)
    flat[[best, river]] = 10.0, 9.5
    sequence.eval([best])
    assert sequence.sample(scores=flat) == best
    assert sequence.sample(scores=flat, repeat_penalty=2.0) == river, "what was said before counts"
    assert sequence.sample(scores=flat.astype(np.float64).tolist()) == best


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temprature": 1.0}, "temprature"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"top_p": "x"}, "top_p"),
        ({"logit_bias": [{"token": 10**6, "bias": 1.0}]}, "logit_bias"),
        ({"scores": np.zeros(3)}, "scores"),
        ({"scores": "text"}, "scores"),
        ({"scores": np.full(2048, np.nan)}, "scores"),
        ({"scores": np.full(2048, -np.inf)}, "scores"),
    ],
)
def test_wrong_settings_of_sampling(llm: Llama, settings: dict[str, Any], param: str) -> None:
    with of(llm, "a") as sequence:
        with pytest.raises(InvalidRequest) as caught:
            sequence.sample(**settings)
        assert caught.value.param == param


# --- bad input


def test_wrong_tokens_change_nothing(llm: Llama, sequence: LowSequence) -> None:
    for tokens in ([-1], [llm.vocabulary_size], [2**40], ["a"], [1.5], "text", 5, [[1]]):
        for call in (sequence.eval, lambda tokens: llm.eval([(sequence, tokens)])):
            with pytest.raises(InvalidRequest):
                call(tokens)  # type: ignore[arg-type]
    for token in (-1, llm.vocabulary_size, "a", None):
        with pytest.raises(InvalidRequest):
            sequence.accept(token)  # type: ignore[arg-type]
    for length in (-1, 1, 1.5, "a"):
        with pytest.raises(InvalidRequest):
            sequence.trim(length)  # type: ignore[arg-type]
    assert sequence.tokens == []
    with pytest.raises(InvalidRequest, match="nothing to compute"):
        sequence.eval()
    for read in (sequence.logits, sequence.sample):
        with pytest.raises(InvalidRequest, match="eval"):
            read()


def test_wrong_sequences(llm: Llama, sequence: LowSequence) -> None:
    with pytest.raises(InvalidRequest, match="once"):
        llm.eval([(sequence, [1]), (sequence, [2])])
    for wrong in ([5], [(sequence,)], [(1, [2])], [None], ["text"], [(sequence, 5)]):
        with pytest.raises(InvalidRequest):
            llm.eval(wrong)  # type: ignore[arg-type]
    with demo() as other, pytest.raises(InvalidRequest, match="another model"):
        other.eval([(sequence, [1])])
    assert sequence.tokens == []


def test_a_deleted_sequence_is_of_no_use(llm: Llama) -> None:
    sequence = of(llm, COUNT)
    data = sequence.save()
    sequence.delete()
    for call in uses(llm, sequence, data):
        with pytest.raises(InvalidRequest, match="deleted"):
            call()


def test_a_closed_model_has_no_sequences() -> None:
    llm = demo()
    sequence = of(llm, COUNT)
    data = sequence.save()
    llm.close()
    for call in uses(llm, sequence, data):
        with pytest.raises(ServerClosed):
            call()
    sequence.delete()


def uses(llm: Llama, sequence: LowSequence, data: bytes) -> list[Callable[[], object]]:
    return [
        lambda: sequence.eval([1]),
        lambda: sequence.accept(1),
        sequence.logits,
        sequence.sample,
        sequence.fork,
        lambda: sequence.trim(0),
        sequence.save,
        lambda: sequence.load(data),
        lambda: llm.eval([sequence]),
        lambda: sequence.id,
    ]


# --- other models


def test_a_model_whose_state_cannot_be_cut(tmp_path: Path) -> None:
    with tiny(write_mamba(tmp_path / "mamba.gguf")) as llm:
        one = of(llm, "the river and the stone")
        two, data = one.fork(), one.save()
        first = greedy(one, 10)
        with pytest.raises(Unsupported, match="cannot be cut"):
            one.trim(len(one) - 1)
        three = llm.load_sequence(data)
        assert greedy(two, 10) == greedy(three, 10) == first
        one.trim(0)
        one.eval(llm.tokenize("the river and the stone"))
        assert greedy(one, 10) == first


def test_adapters_belong_to_sequences(tmp_path: Path) -> None:
    path, lora = write_llama(tmp_path / "m.gguf"), write_lora(tmp_path / "lora.gguf")
    with tiny(path, lora={"a": {"file": str(lora), "scale": 0.0}}) as llm:
        tokens = llm.tokenize("the river")
        plain, half, whole = (llm.new_sequence(lora=[LoraScale(name="a", scale=s)]) for s in (0.0, 0.5, 1.0))
        llm.eval([(plain, tokens), (whole, tokens), (half, tokens)])
        for sequence in (whole, plain):  # alone, as in a batch with others
            with llm.new_sequence(lora=[{"name": "a", "scale": float(sequence is whole)}]) as alone:  # type: ignore[list-item]
                alone.eval(tokens)
                assert alone.logits() == pytest.approx(sequence.logits(), abs=0.01)
        found = [sequence.logits() for sequence in (plain, half, whole)]
        assert min(np.abs(found[0] - found[1]).max(), np.abs(found[1] - found[2]).max()) > 0.05
        with llm.load_sequence(whole.save()) as loaded, whole.fork() as fork:
            for other in (loaded, fork):
                other.eval(tokens)
            whole.eval(tokens)
            assert loaded.logits() == pytest.approx(whole.logits(), abs=0.01)
            assert fork.logits() == pytest.approx(whole.logits(), abs=0.01)
        with pytest.raises(InvalidRequest, match="no adapter 'b'"):
            llm.new_sequence(lora=[LoraScale(name="b")])
        with pytest.raises(InfsError):
            llm.new_sequence(lora=5)  # type: ignore[arg-type]


# --- what is below


def test_the_model_behind_its_pointer(llm: Llama) -> None:
    model: Any = llm.model_pointer
    assert llama_cpp.llama_model_n_params(model) == llm.details["parameters"]
    assert llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)) == llm.vocabulary_size


def test_the_context_behind_its_pointer(llm: Llama, sequence: LowSequence) -> None:
    sequence.eval(llm.tokenize(COUNT))
    context: Any = llm.context_pointer
    with llm.context_lock:
        assert llama_cpp.llama_get_model(context) == llm.model_pointer
        memory = llama_cpp.llama_get_memory(context)
        assert llama_cpp.llama_memory_seq_pos_max(memory, sequence.id) == len(sequence) - 1
        [token] = llm.tokenize(" river", add_bos=False)[:1]
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, len(sequence)
        batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, sequence.id, 1
        assert llama_cpp.llama_decode(context, batch) == 0
        scores = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, 0), (llm.vocabulary_size,)).copy()
        assert llama_cpp.llama_memory_seq_rm(memory, sequence.id, len(sequence), -1)
        llama_cpp.llama_batch_free(batch)
    sequence.eval([token])
    assert sequence.logits() == pytest.approx(scores, abs=0.3)
    assert llm.chat(QUESTIONS[0]).text == "The capital of France is Paris."
