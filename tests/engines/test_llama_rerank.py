"""Rerankers: how a query and a document become one text, scores, and the order they make."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from infs.engines.llama_cpp.pairs import Pairs
from infs.errors import ContextLengthExceeded, InvalidRequest, LoadFailed, Unsupported
from infs.server import InferenceServer
from infs.types import EmbeddingRequest, RerankRequest, validate
from tests.engines.bare import bare_model
from tests.engines.llama import chat, demo_server
from tests.tiny import write_bert

CLS, SEP = 2, 3
DOCUMENTS = ["a stone", "the river", "one two", "water and fire", "a"]


def rerank(query: str = "what flows", documents: list[str] | None = None, **options: Any) -> RerankRequest:
    return RerankRequest(model="m", query=query, documents=DOCUMENTS if documents is None else documents, **options)


def reranker(tmp_path: Path, **options: Any) -> Path:
    return write_bert(tmp_path / "rank.gguf", pooling="rank", **options)


def shape(tokens: list[int]) -> str:
    """Where control tokens stand among letters."""
    names = {CLS: "[CLS]", SEP: "[SEP]"}
    return "".join(names.get(token, ".") for token in tokens)


# --- pairs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "[CLS]..[SEP]...[SEP]"),
        ({"add_eos": True, "add_sep": False}, "[CLS]..[SEP]...[SEP]"),
        ({"add_eos": True, "add_sep": True}, "[CLS]..[SEP][SEP]...[SEP]"),
        ({"add_eos": False, "add_sep": False}, "[CLS]....."),
    ],
)
def test_pairs_are_as_the_vocabulary_says(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with bare_model(reranker(tmp_path, **options)) as model:
        assert shape(Pairs(model).tokens("ab", "cde")) == expected


def test_a_text_in_a_pair_has_no_control_tokens(tmp_path: Path) -> None:
    with bare_model(reranker(tmp_path)) as model:
        assert shape(Pairs(model).tokens("ab", "c [SEP] d")) == "[CLS]..[SEP].......[SEP]"


def test_a_template_makes_the_pairs(tmp_path: Path) -> None:
    template = "[CLS]judge {document} [SEP] for {query}{query} {other}"
    with bare_model(reranker(tmp_path, template=template)) as model:
        pairs = Pairs(model)
        plain = model.tokenize("[CLS]judge xyz [SEP] for abab {other}", add_special=False, parse_special=True)
        assert pairs.tokens("ab", "xyz") == plain
        assert shape(plain).startswith("[CLS]........[SEP]")
        assert shape(pairs.tokens("ab", "[SEP]")).count("[SEP]") == 1
        assert len(pairs.tokens("{document}", "ab")) > len(pairs.tokens("ab", "ab"))  # not a place for itself


# --- scores


async def scores_of(server: InferenceServer, request: RerankRequest) -> dict[int, float]:
    return {document.index: document.score for document in (await server.run(request)).documents}


async def test_documents_come_best_first(tmp_path: Path) -> None:
    async with demo_server(file=str(reranker(tmp_path))) as server:
        result = await server.run(rerank())
        found = [document.score for document in result.documents]
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == len(DOCUMENTS)
        assert sorted(document.index for document in result.documents) == list(range(len(DOCUMENTS)))
        best = await server.rerank(model="m", query="what flows", documents=DOCUMENTS, top_n=2)
        assert [document.index for document in best.documents] == [d.index for d in result.documents[:2]]
        assert best.usage == result.usage
        alone = await scores_of(server, rerank(documents=["the river"]))
        assert alone[0] == pytest.approx((await scores_of(server, rerank()))[1], abs=1e-4)
        other = await scores_of(server, rerank("where is fire"))
        assert other[1] != pytest.approx(alone[0], abs=1e-5)
        with pytest.raises(Unsupported, match="it can do: embedding, rerank"):
            await server.run(chat("hi"))


async def test_a_score_is_that_of_the_pair_s_tokens(tmp_path: Path) -> None:
    """The head gives the same for the pair as for its tokens as a text."""
    path = reranker(tmp_path)
    with bare_model(path) as model:
        tokens = Pairs(model).tokens("what flows", "the river")
    async with demo_server(file=str(path)) as server:
        by_tokens = (await server.run(EmbeddingRequest(model="m", input=[tokens]))).as_lists()[0][0]
        result = await server.run(rerank(documents=["the river"]))
    assert result.documents[0].score == pytest.approx(by_tokens, abs=1e-5)
    assert result.usage.prompt_tokens == len(tokens)


async def test_many_pairs_of_many_requests(tmp_path: Path) -> None:
    async with demo_server(file=str(reranker(tmp_path)), task="rerank") as server:
        expected = await scores_of(server, rerank())
        many = await scores_of(server, rerank(documents=DOCUMENTS * 30))
        for index, score in many.items():
            assert score == pytest.approx(expected[index % len(DOCUMENTS)], abs=1e-4)
        for found in await asyncio.gather(*(scores_of(server, rerank()) for _ in range(10))):
            assert found == pytest.approx(expected, abs=1e-4)
        with pytest.raises(Unsupported, match="it can do: rerank"):
            await server.run(EmbeddingRequest(model="m", input=["a"]))


async def test_equal_documents_keep_their_order(tmp_path: Path) -> None:
    async with demo_server(file=str(reranker(tmp_path))) as server:
        result = await server.run(rerank(documents=["same"] * 4))
    order = [(-document.score, document.index) for document in result.documents]
    assert order == sorted(order)
    assert max(order)[0] - min(order)[0] < 1e-4


async def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    async with demo_server(file=str(reranker(tmp_path))) as server:
        with pytest.raises(ContextLengthExceeded, match=r"documents\[1\] with the query has \d+ tokens.* 64") as caught:
            await server.run(rerank("a" * 40, ["a", "b" * 40]))
        assert caught.value.param == "documents[1]"
        with pytest.raises(ContextLengthExceeded, match=r"query has at least \d+ tokens"):
            await server.run(rerank("hello " * 2_000_000))
        with pytest.raises(ContextLengthExceeded, match=r"documents\[0\] has at least"):
            await server.run(rerank("a", ["hello " * 2_000_000]))
        with pytest.raises(InvalidRequest, match="documents"):
            validate(rerank(documents=[]))
        with pytest.raises(InvalidRequest, match="top_n"):
            validate(rerank(top_n=0))
        assert len((await server.run(rerank("", ["", "a"], top_n=9))).documents) == 2


async def test_only_rerankers_rerank(tmp_path: Path) -> None:
    async with demo_server() as server:
        with pytest.raises(Unsupported, match="cannot do rerank; it can do: text-completion"):
            await server.run(rerank())
    async with demo_server(task="rerank") as server:
        with pytest.raises(LoadFailed, match="task is rerank, but the model is no reranker"):
            await server.run(rerank())
    async with demo_server(file=str(reranker(tmp_path)), options={"pooling": "cls"}) as server:
        with pytest.raises(Unsupported, match="cannot do rerank; it can do: embedding"):
            await server.run(rerank())
