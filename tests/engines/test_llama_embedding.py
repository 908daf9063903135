"""Vectors: of generating models, of encoders and of rerankers; pooled, batched and bounded."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infs.errors import ContextLengthExceeded, InvalidRequest, LoadFailed, Unsupported
from infs.server import InferenceServer
from infs.types import EmbeddingRequest, EmbeddingResult
from tests.engines.llama import chat, demo_server, engine_status, load_model, text
from tests.tiny import write_bert, write_llama, write_mamba

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS: list[str | list[int]] = [
    "hello",
    "the river and the stone",
    "a",
    "one two three four five six seven",
    "river " * 30,
]


def embed(*items: str | list[int], **options: Any) -> EmbeddingRequest:
    return EmbeddingRequest(model="m", input=list(items), **options)


def cosine(one: list[float], two: list[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True)) / (math.hypot(*one) * math.hypot(*two))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server(task="embedding", context_size=256) as server:
        yield server


async def one_by_one(server: InferenceServer, *items: str | list[int]) -> list[list[float]]:
    return [(await server.run(embed(item))).as_lists()[0] for item in items]


async def check_batching(server: InferenceServer) -> None:
    alone = await one_by_one(server, *TEXTS)
    for request in (embed(*TEXTS), embed(*TEXTS, *TEXTS)):
        for index, vector in enumerate((await server.run(request)).as_lists()):
            assert cosine(vector, alone[index % len(TEXTS)]) > 0.9999
    results = await asyncio.gather(*(server.run(embed(item)) for item in TEXTS * 3))
    for index, result in enumerate(results):
        assert cosine(result.as_lists()[0], alone[index % len(TEXTS)]) > 0.9999


async def test_many_texts_are_as_one_at_a_time(server: InferenceServer) -> None:
    await check_batching(server)
    many = await server.run(embed(*(f"number {n}" for n in range(200))))
    assert len(many.vectors) == 200
    assert len(set(many.vectors)) == 200


async def test_a_batch_is_computed_together(server: InferenceServer) -> None:
    before = (await engine_status(server))["embedding_batches"]
    await server.run(embed(*["one", "two", "three"] * 10))
    assert (await engine_status(server))["embedding_batches"] == before + 1


async def test_a_model_for_embeddings_does_nothing_else(server: InferenceServer) -> None:
    await server.run(embed("x"))
    assert set(await engine_status(server)) == {"pid", "embedding_batches"}  # there is no context to generate in
    requests: list[Any] = [chat("hi"), text("hi")]
    for request in requests:
        with pytest.raises(Unsupported, match=r"cannot do .*; it can do: embedding") as caught:
            await server.run(request)
        assert caught.value.param == "model"


async def test_a_text_longer_than_the_context_is_refused(server: InferenceServer) -> None:
    exact = await server.run(embed([50] * 256))
    assert exact.usage.prompt_tokens == 256
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 257 tokens.* 256") as caught:
        await server.run(embed("x", [50] * 257))
    assert caught.value.param == "input[1]"
    with pytest.raises(ContextLengthExceeded, match=r"input\[0\] has \d+ tokens.* 256"):
        await server.run(embed("apple river " * 200))


async def test_tokens_are_as_good_as_their_text(server: InferenceServer) -> None:
    model = load_model()
    tokens = model.tokenize("the river and the stone", add_special=True, parse_special=False)
    model.close()
    result = await server.run(embed(tokens, "the river and the stone"))
    one, two = result.as_lists()
    assert cosine(one, two) > 0.9999
    assert result.usage.prompt_tokens == 2 * len(tokens)


async def test_dimensions_cut_and_normalize_measures(server: InferenceServer) -> None:
    (whole,) = (await server.run(embed("river", normalize=False))).as_lists()
    (unit,) = (await server.run(embed("river"))).as_lists()
    (cut,) = (await server.run(embed("river", dimensions=7))).as_lists()
    (raw,) = (await server.run(embed("river", dimensions=7, normalize=False))).as_lists()
    assert math.hypot(*whole) != pytest.approx(1.0, abs=1e-3)
    assert math.hypot(*unit) == pytest.approx(1.0, abs=1e-5)
    assert math.hypot(*cut) == pytest.approx(1.0, abs=1e-5)
    assert raw == pytest.approx(whole[:7], rel=1e-5)
    assert cosine(whole, unit) > 0.9999


@pytest.mark.parametrize(
    ("request_", "param", "match"),
    [
        (embed("a", ""), "input[1]", "empty"),
        (embed("a", []), "input[1]", "empty"),
        (embed([5, 10**6]), "input[0]", "token 1000000; the model has tokens 0 to 2047"),
        (embed("a", dimensions=100_000), "dimensions", "100000"),
    ],
)
async def test_wrong_inputs_are_refused(
    server: InferenceServer, request_: EmbeddingRequest, param: str, match: str
) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        await server.run(request_)
    assert caught.value.param == param
    assert (await server.run(embed("still there"))).dimensions > 1


async def pooled(pooling: str | None, *items: str | list[int], **model: Any) -> EmbeddingResult:
    options = {} if pooling is None else {"pooling": pooling}
    async with demo_server(task="embedding", options=options, **model) as server:
        return await server.run(embed(*items, normalize=False))


async def test_pooling_means_what_it_says() -> None:
    """In a model that only looks back, the state of a text's first tokens is that of the text that ends there."""
    tokens = [300, 310, 320]
    beginnings = [tokens[:1], tokens[:2], tokens]
    first, _, last = states = (await pooled("last", *beginnings)).as_lists()
    (mean,) = (await pooled("mean", tokens)).as_lists()
    (cls,) = (await pooled("cls", tokens)).as_lists()
    assert mean == pytest.approx([sum(values) / 3 for values in zip(*states, strict=True)], abs=2e-2)
    assert cls == pytest.approx(first, abs=2e-2)
    assert min(1 - cosine(one, two) for one, two in ((mean, cls), (cls, last), (last, mean))) > 0.01
    (default,) = (await pooled(None, tokens)).as_lists()
    assert default == pytest.approx(mean, rel=1e-5)


async def test_pooling_to_a_score_needs_a_reranker() -> None:
    with pytest.raises(LoadFailed, match="no reranker") as caught:
        await pooled("rank", "a")
    assert caught.value.param == "options.pooling"


async def test_a_model_that_generates_embeds_too() -> None:
    async with demo_server() as server:
        vectors = (await server.run(embed("river", "stone"))).as_lists()
        assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"
        assert (await server.run(embed("river"))).as_lists()[0] == pytest.approx(vectors[0], abs=1e-4)


# --- encoders


@pytest.mark.parametrize("pooling", ["mean", "cls"])
async def test_an_encoder(tmp_path: Path, pooling: Any) -> None:
    path = write_bert(tmp_path / "bert.gguf", pooling=pooling, context=160)
    async with demo_server(file=str(path)) as server:
        await check_batching(server)
        result = await server.run(embed("hello world"))
        assert (result.dimensions, result.usage.prompt_tokens) == (32, 12)  # with [CLS] and [SEP]
        (other,) = (await pooled({"mean": "cls", "cls": "mean"}[pooling], "hello world", file=str(path))).as_lists()
        assert cosine(result.as_lists()[0], other) < 0.99
        with pytest.raises(ContextLengthExceeded, match=r"has 202 tokens.* 160"):
            await server.run(embed("a" * 200))
        with pytest.raises(Unsupported, match="it can do: embedding"):
            await server.run(chat("hi"))


async def test_blanks_are_nothing_to_an_encoder(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf", pooling="mean")
    async with demo_server(file=str(path)) as server:
        result = await server.run(embed("hello" + " \n" * 2_000_000 + "world", "hello world"))
        one, two = result.as_lists()
        assert cosine(one, two) > 0.9999
        with pytest.raises(ContextLengthExceeded, match=r"at least \d{6,} tokens.* 64"):
            await server.run(embed("hello " * 2_000_000))


async def test_a_context_smaller_than_a_batch_of_texts(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf", pooling="mean", context=16)
    async with demo_server(file=str(path)) as server:
        assert len((await server.run(embed(*["ab", "cd"] * 30))).vectors) == 60


async def test_a_reranker_gives_scores(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "rank.gguf", pooling="rank")
    async with demo_server(file=str(path)) as server:
        result = await server.run(embed(*TEXTS[:4]))
        assert result.dimensions == 1
        scores = [vector[0] for vector in result.as_lists()]
        assert len(set(scores)) == 4
        assert not all(abs(score) == pytest.approx(1.0) for score in scores)  # a score is not brought to unit length
        alone = [vector[0] for vector in await one_by_one(server, *TEXTS[:4])]
        assert scores == pytest.approx(alone, abs=1e-4)


async def test_an_encoder_cannot_be_had_for_text(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf", pooling="mean")
    async with demo_server(file=str(path), task="chat-completion") as server:
        with pytest.raises(LoadFailed, match=r"makes embeddings only.*chat-completion"):
            await server.run(chat("hi"))


# --- other models that generate


async def test_a_model_without_a_template_gets_plain_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_llama(tmp_path / "plain.gguf")
    async with demo_server(file=str(path)) as server:
        by_chat = await server.run(chat("hello", max_tokens=6, ignore_eos=True))
        by_text = await server.run(text("user: hello\nassistant:", max_tokens=6, ignore_eos=True))
        assert by_chat.text == by_text.text
        assert by_chat.usage.prompt_tokens == by_text.usage.prompt_tokens
        notes = (await server.status()).models["m"].instances[0].notes
    assert any("no chat template" in note for note in notes)
    assert "no chat template" in caplog.text


async def test_a_recurrent_model_answers_and_goes_on_with_states_it_kept(tmp_path: Path) -> None:
    path = write_mamba(tmp_path / "mamba.gguf")
    prompts = ["hello", "the river " * 12, "a", "the river " * 12 + "b"]
    async with demo_server(file=str(path), max_sequences=3) as server:
        requests = [text(prompt, max_tokens=10, ignore_eos=True, logprobs=1) for prompt in prompts]
        alone = [await server.run(request) for request in requests]
        together = await asyncio.gather(*(server.run(request) for request in requests * 3))
        for index, result in enumerate(together):
            first = alone[index % len(alone)].choices[0].logprobs or []
            second = result.choices[0].logprobs or []
            assert second[0].logprob == pytest.approx(first[0].logprob, abs=0.02)
            assert second[0].top[0].logprob == pytest.approx(first[0].top[0].logprob, abs=0.02)
        assert any(result.usage.cached_tokens for result in together), "a state that was kept is gone on with"
        notes = (await server.status()).models["m"].instances[0].notes
        assert any("cannot be cut" in note for note in notes)
        choices = await server.run(text("abc", n=3, max_tokens=5, temperature=1.0, seed=1))
        assert len(choices.choices) == 3
        shifted = await server.run(text("abc", max_tokens=600, ignore_eos=True, context_overflow="shift"))
        assert shifted.usage.completion_tokens == 600


async def test_a_model_for_generation_alone_refuses_embeddings() -> None:
    async with demo_server(task="chat-completion") as server:
        assert (await server.text_completion(model="m", prompt="Once", max_tokens=1)).usage.completion_tokens == 1
        with pytest.raises(Unsupported, match="cannot do embedding; it can do: text-completion, chat-completion"):
            await server.embedding(model="m", input=["x"])
