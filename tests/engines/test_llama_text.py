"""Texts that are hard for a tokenizer: cut where they must be, refused where they are too long, never fatal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.runs import LONGEST_RUN, cut_runs
from infs.errors import ContextLengthExceeded
from infs.server import InferenceServer
from infs.types import ChoiceConstraint, EmbeddingRequest
from tests.engines.llama import chat, deltas_of, demo_server, load_model, text
from tests.tiny import write_llama

SPECIAL = ["<|user|>", "<|end|>"]
HUGE = 10_000_000
LONG = 150_000


# --- cutting


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "<|user|>", " ", "\n", "\u3042", "<|end|>"]), st.integers(1, 3000)), max_size=6
    )
)
def test_cutting_loses_nothing_and_leaves_special_tokens_whole(parts: list[tuple[str, int]]) -> None:
    whole = "".join(part * count for part, count in parts)
    pieces = cut_runs(whole, SPECIAL)
    assert "".join(pieces) == whole
    assert sum(piece.count(special) for piece in pieces for special in SPECIAL) == sum(map(whole.count, SPECIAL))
    for piece in pieces:
        assert max(map(len, piece.split()), default=0) <= LONGEST_RUN


def test_usual_texts_are_not_cut() -> None:
    usual = "One sentence of some words.\n" * 1000
    assert cut_runs(usual, SPECIAL) == [usual]


@pytest.fixture(scope="module")
def recursing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """A model whose words are found by the C++ library's regular expressions, which recurse."""
    path = tmp_path_factory.mktemp("tiny") / "recursing.gguf"
    model = load_model(write_llama(path, pre="gpt-4o", add_bos=True, add_eos=True))
    yield model
    model.close()


@pytest.mark.parametrize("letter", ["a", "!", " ", "\u3042"])
def test_a_long_run_of_letters_is_survived(recursing: LlamaModel, letter: str) -> None:
    count = LONG // len(letter.encode())
    tokens = recursing.tokenize(letter * count, add_special=True, parse_special=True)
    assert tokens[0] == recursing.tokenize("", add_special=True, parse_special=False)[0]
    assert tokens[-1] == recursing.end_tokens[0]
    assert recursing.text(tokens[1:-1]) == letter * count


def test_what_needs_no_cut_is_tokenized_as_ever(recursing: LlamaModel) -> None:
    for words in ("hello world <|user|> x", "", "word " * 1000):
        for add in (True, False):
            once = recursing._tokenize(words, add, True)
            assert recursing.tokenize(words, add_special=add, parse_special=True) == once


# --- huge requests

on_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server(context_size=512) as server:
        yield server


@pytest.mark.parametrize("part", ["apple river ", " ", "\n\t", "a", "1", "\U0001f642", "<|im_end|>"])
@on_one_loop
async def test_ten_megabytes_are_refused_without_reading_them(server: InferenceServer, part: str) -> None:
    huge = part * (HUGE // len(part.encode()))
    requests: list[Any] = [text(huge), chat(huge), EmbeddingRequest(model="m", input=["x", huge])]
    for request in requests:
        with pytest.raises(ContextLengthExceeded, match=r"at least \d{6,} tokens.* 512") as caught:
            await server.run(request)
        assert caught.value.param == ("input[1]" if isinstance(request, EmbeddingRequest) else "prompt")


@on_one_loop
async def test_ten_megabytes_may_be_shifted_and_only_the_ends_are_read(server: InferenceServer) -> None:
    story = await server.run(text("Once upon a time there was a small dog named Tom.", max_tokens=1))
    assert story.usage.prompt_tokens > 5
    huge = "apple river " * (HUGE // 12) + "Count from 1 to 5."
    for keep in (0, 20):
        result = await server.run(chat(huge, context_overflow="shift", context_keep=keep, max_tokens=3, logprobs=0))
        assert result.usage.prompt_tokens == keep + (512 - keep) // 2
        assert result.usage.completion_tokens == 3


@on_one_loop
async def test_a_megabyte_is_refused_where_it_does_not_fit(server: InferenceServer) -> None:
    with pytest.raises(ContextLengthExceeded, match="512"):
        await server.run(chat("word " * 200_000))


# --- characters


@on_one_loop
async def test_streams_never_split_a_character(server: InferenceServer) -> None:
    said = "h\u00e9llo w\u00f6rld \U0001f642 \u65e5\u672c"
    for request in (
        chat("hi", constraint=ChoiceConstraint(options=[said])),
        text("hi", constraint=ChoiceConstraint(options=[said])),
    ):
        deltas = await deltas_of(server, request)
        assert "".join(delta.text for delta in deltas) == said
        assert not any("\ufffd" in delta.text for delta in deltas)
        assert len(deltas) > 8


@on_one_loop
async def test_a_character_that_is_cut_off_becomes_a_mark(server: InferenceServer) -> None:
    result = await server.run(chat("hi", constraint=ChoiceConstraint(options=["\U0001f642"]), max_tokens=2))
    assert result.text == "\ufffd"
    assert result.choices[0].finish_reason == "length"


@on_one_loop
async def test_a_stop_string_of_several_tokens_and_characters(server: InferenceServer) -> None:
    said = "ab \U0001f642\U0001f642 cd"
    result = await server.run(
        chat("hi", constraint=ChoiceConstraint(options=[said]), stop=["\U0001f642\U0001f642 c", "zz"])
    )
    assert (result.text, result.choices[0].finish_reason) == ("ab ", "stop")


@on_one_loop
async def test_prompts_of_odd_characters_are_answered(server: InferenceServer) -> None:
    for odd in ("\0", "\ufffd", "\u202e\u200b", "e\u0301" * 20, "\x7f\x80\x9f", "\U0010ffff", "<|im_start|>system\n"):
        assert (await server.run(chat(odd, max_tokens=2))).usage.completion_tokens <= 2
        assert (await server.run(text(odd, max_tokens=2))).usage.completion_tokens <= 2
        echoed = await server.run(text(odd, max_tokens=0, echo=True))
        assert echoed.text == odd


def test_a_file_of_a_tiny_model_is_small(tmp_path: Path) -> None:
    assert write_llama(tmp_path / "tiny.gguf").stat().st_size < 500_000
