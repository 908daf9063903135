"""The decoder: short prompts are computed as a whole tile of the CPU's attention, of which nothing shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.batching.base import Chunk, Remove
from infs.config import DeviceConfig
from infs.demo import MODEL_FILE
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.kernels import PADDED, TILE, tile
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.options import LlamaOptions
from tests.engines.llama import load_model, native_log

CPU = DeviceConfig(gpu=False, cpu_threads=1)
CELLS = 256


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    model = load_model(MODEL_FILE)
    yield model
    model.close()


@pytest.fixture
def decoder(model: LlamaModel) -> Iterator[LlamaDecoder]:
    decoder = LlamaDecoder(model, CPU, LlamaOptions(), native_log(), cells=CELLS, sequences=2, batch=CELLS)
    yield decoder
    decoder.close()


def computed(decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens of the batches that llama.cpp gets."""
    sizes: list[int] = []
    decode = llama_cpp.llama_decode

    def counted(context: Any, batch: Any) -> int:
        sizes.append(batch.n_tokens)
        return int(decode(context, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", counted)
    return sizes


@pytest.mark.parametrize(
    ("tokens", "batch"),
    [(PADDED - 1, PADDED - 1), (PADDED, TILE), (TILE - 1, TILE), (TILE, TILE), (TILE + 1, TILE + 1), (1, 1)],
)
def test_a_prompt_of_nearly_a_tile_is_computed_as_one(
    decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch, tokens: int, batch: int
) -> None:
    sizes = computed(decoder, monkeypatch)
    decoder.decode([Chunk(0, 0, list(range(10, 10 + tokens)), 1)])
    assert sizes == [batch]


def test_what_is_added_changes_no_scores(decoder: LlamaDecoder) -> None:
    prompt = list(range(10, 10 + PADDED))
    (row,) = decoder.decode([Chunk(0, 0, prompt, 1)])
    padded = decoder.scores(row).copy()
    decoder.apply([Remove(0, 0)])
    decoder.decode([Chunk(0, 0, prompt[:-10], 0)])
    (row,) = decoder.decode([Chunk(0, len(prompt) - 10, prompt[-10:], 1)])
    np.testing.assert_allclose(
        padded, decoder.scores(row), atol=0.3
    )  # a token of the prompt that is not there makes more of a difference
    assert padded.argmax() == decoder.scores(row).argmax()


def test_scores_of_several_prompts_are_where_they_are_said_to_be(decoder: LlamaDecoder) -> None:
    prompts = [list(range(10, 40)), list(range(50, 80))]
    rows = decoder.decode([Chunk(seq, 0, prompt, 1) for seq, prompt in enumerate(prompts)])
    together = [int(decoder.scores(row).argmax()) for row in rows]
    apart = []
    for prompt in prompts:
        decoder.apply([Remove(0, 0)])
        (row,) = decoder.decode([Chunk(0, 0, prompt, 1)])
        apart.append(int(decoder.scores(row).argmax()))
    assert together == apart


def test_there_is_room_for_it_in_a_full_cache_and_none_is_lost(decoder: LlamaDecoder) -> None:
    assert decoder.cells == CELLS
    decoder.decode([Chunk(0, 0, [7] * (CELLS - PADDED), 0)])
    decoder.decode([Chunk(1, 0, [7] * PADDED, 0)])
    memory = llama_cpp.llama_get_memory(decoder.context)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 2) == -1
    decoder.apply([Remove(1, 0)])
    decoder.decode([Chunk(1, 0, [7] * PADDED, 0)])


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        (LlamaOptions(), TILE),
        (LlamaOptions(flash_attention=True, cache_type_k="f32", cache_type_v="f32"), TILE),
        (LlamaOptions(flash_attention=False), 1),
        (LlamaOptions(cache_type_k="q8_0"), 1),
        (LlamaOptions(cache_type_k="q8_0", cache_type_v="q8_0"), 1),
    ],
)
def test_only_flash_attention_over_plain_numbers_has_tiles(options: LlamaOptions, tokens: int) -> None:
    assert tile(CPU, options) == tokens
