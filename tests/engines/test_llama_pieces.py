"""Embeddings that are computed in pieces are those that llama.cpp makes of whole texts."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infs.config import DeviceConfig
from infs.engines.llama_cpp import embedder as embedding
from infs.engines.llama_cpp.embedder import Embedder
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.pieces import Pools, cut_pieces
from infs.types import EmbeddingRequest
from tests.engines.llama import load_model, native_log

TEXTS = [[10 + (7 * index) % 80 for index in range(length)] for length in (5, 300, 1, 120, 500)]


def test_texts_are_cut_where_a_batch_is_full() -> None:
    texts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    batches = [[(c.seq, c.start, list(c.tokens)) for c in batch] for batch in cut_pieces(texts, 4)]
    assert batches == [[(0, 0, [1, 2, 3]), (1, 0, [4])], [(2, 0, [5, 6, 7, 8])], [(2, 4, [9])]]
    assert next(cut_pieces([[1, 2]], 2))[0].logits == 2
    assert list(cut_pieces([], 4)) == []


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[2.0], [20.0]]), ("cls", [[1.0], [10.0]]), ("last", [[3.0], [30.0]])]
)
def test_vectors_of_tokens_become_one(pooling: str, expected: list[list[float]]) -> None:
    pools = Pools(2, 1, pooling)
    values = np.array([[1], [2], [3], [10], [20], [30]], np.float32)
    for batch in cut_pieces([[0] * 3, [0] * 3], 4):
        count = sum(len(chunk.tokens) for chunk in batch)
        pools.take(batch, values[:count])
        values = values[count:]
    assert pools.vectors().tolist() == expected


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", ["llama", "mamba"])
async def test_pieces_change_nothing(
    kind: str, pooling: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: Path = request.getfixturevalue(kind)
    ours = await vectors(path, pooling)
    monkeypatch.setattr(embedding, "in_pieces", lambda model, options: False)
    theirs = await vectors(path, pooling)
    for one, other in zip(ours, theirs, strict=True):
        assert math.isclose(sum(a * b for a, b in zip(one, other, strict=True)), 1.0, abs_tol=1e-4)


async def vectors(path: Path, pooling: Any) -> list[list[float]]:
    model = load_model(path)
    options = LlamaOptions(pooling=pooling)
    embedder = await asyncio.to_thread(
        Embedder, model, DeviceConfig(gpu=False, cpu_threads=1), options, native_log(), context=512
    )
    try:
        result = await embedder.run(EmbeddingRequest(model="m", input=list(TEXTS)))
        return result.as_lists()
    finally:
        await asyncio.to_thread(embedder.close)
        model.close()
