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
from infs.engines.llama_cpp.kernels import FASTER, LEAST, TILE, Tiles, tile
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.options import LlamaOptions
from tests.engines.llama import load_model, native_log

CPU = DeviceConfig(gpu=False, cpu_threads=1)
CELLS = 512
BEHIND = 300  # tokens


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
    ("start", "tokens", "batch"),
    [
        (0, 1, 1),
        (0, 48, 48),
        (0, TILE, TILE),
        (BEHIND, 1, 1),
        (BEHIND, LEAST, LEAST),
        (BEHIND, 48, TILE),
        (BEHIND, 63, TILE),
        (BEHIND, 64, TILE),
    ],
)
def test_much_of_a_prompt_behind_many_tokens_is_computed_as_a_tile(
    decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch, start: int, tokens: int, batch: int
) -> None:
    decoder.decode([Chunk(0, 0, [7] * start, 0)] if start else [Chunk(1, 0, [7], 0)])
    sizes = computed(decoder, monkeypatch)
    decoder.decode([Chunk(0, start, list(range(10, 10 + tokens)), 1)])
    assert sizes == [batch]


def test_a_tile_has_the_cells_of_all_sequences() -> None:
    tiles = Tiles(1000.0)
    long = 100_000  # cells, beside which the weights do not count
    worth = int(TILE / FASTER) + 2
    assert tiles.missing([Chunk(0, long, [1] * worth, 1)]) == TILE - worth
    assert tiles.missing([Chunk(0, long, [1] * (worth - 4), 1)]) == 0
    streams = [Chunk(seq, long, [1] * 3, 3) for seq in range(8)]
    assert tiles.missing(streams) == 0
    assert tiles.missing([Chunk(0, long, [1] * TILE, 1)]) == 0
    assert tiles.missing([]) == 0


def test_what_is_added_changes_no_scores(decoder: LlamaDecoder) -> None:
    prompt = [10 + n % 400 for n in range(BEHIND + 48)]
    decoder.decode([Chunk(0, 0, prompt[:BEHIND], 0)])
    (row,) = decoder.decode([Chunk(0, BEHIND, prompt[BEHIND:], 1)])
    padded = decoder.scores(row).copy()
    decoder.apply([Remove(0, BEHIND)])
    for start in range(BEHIND, len(prompt), 6):
        (row,) = decoder.decode([Chunk(0, start, prompt[start : start + 6], 1)])
    np.testing.assert_allclose(
        padded, decoder.scores(row), atol=0.3
    )  # a token of the prompt that is not there makes more of a difference
    assert padded.argmax() == decoder.scores(row).argmax()


def test_scores_of_several_prompts_are_where_they_are_said_to_be(
    decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(range(10, 65)), [50]]
    sizes = computed(decoder, monkeypatch)
    decoder.decode([Chunk(0, 0, [7] * BEHIND, 0)])
    rows = decoder.decode([Chunk(0, BEHIND, prompts[0], 1), Chunk(1, 0, prompts[1], 1)])
    together = [int(decoder.scores(row).argmax()) for row in rows]
    decoder.apply([Remove(0, BEHIND), Remove(1, 0)])
    (row,) = decoder.decode([Chunk(0, BEHIND, prompts[0], 1)])
    first = int(decoder.scores(row).argmax())
    (row,) = decoder.decode([Chunk(1, 0, prompts[1], 1)])
    assert together == [first, int(decoder.scores(row).argmax())]
    assert sizes == [BEHIND, TILE, TILE, 1]


def test_there_is_room_for_it_in_a_full_cache_and_none_is_lost(decoder: LlamaDecoder) -> None:
    assert decoder.cells == CELLS
    decoder.decode([Chunk(0, 0, [7] * (CELLS - 48), 0)])
    decoder.decode([Chunk(0, CELLS - 48, [7] * 48, 0)])
    memory = llama_cpp.llama_get_memory(decoder.context)
    assert llama_cpp.llama_memory_seq_pos_max(memory, 2) == -1
    decoder.apply([Remove(0, CELLS - 48)])
    decoder.decode([Chunk(1, 0, [7] * 48, 0)])


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
