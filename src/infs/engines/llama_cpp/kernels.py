"""What sizes of batches llama.cpp's kernels are good at, where it is known without measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp

from infs.batching.base import Chunk
from infs.config import DeviceConfig
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import offloads
from infs.engines.llama_cpp.options import LlamaOptions

TILE = 64  # tokens from which on the CPU's flash attention works in tiles of as many, which is far faster
FASTER = 3.0  # by how much, for a token and a cell, as measured
LEAST = 8  # tokens below which a tile is never worth it
ATTENTION = 0.4  # operations of a tile in the time of one of a weight, as measured


def tile(device: DeviceConfig, options: LlamaOptions) -> int:
    """Tokens of which steps should be multiples; 1 where any number is as good as its neighbours."""
    plain = options.cache_type_k == options.cache_type_v and options.cache_type_k in ("f16", "f32")
    return TILE if plain and options.flash_attention is not False and not offloads(device) else 1


def tiled(device: DeviceConfig, options: LlamaOptions, *, cuttable: bool, media: bool) -> bool:
    """Whether steps may be filled up to whole tiles, which takes cells: for a model with or without `media`."""
    return tile(device, options) == TILE and cuttable and not media


@dataclass(frozen=True, slots=True)
class Tiles:
    """When it pays to compute more tokens than are wanted, so that attention works in tiles.

    Args:
        cells: cells that a token attends to in a tile in the time that the weights take for it.
    """

    cells: float

    @classmethod
    def of(cls, model: LlamaModel) -> Tiles:
        """Those of `model`, by the numbers of its weights and heads."""
        width = max(1, int(llama_cpp.llama_model_n_embd(model.pointer)))
        layers = max(1, int(llama_cpp.llama_model_n_layer(model.pointer)))
        weights = int(llama_cpp.llama_model_n_params(model.pointer))
        return cls(ATTENTION * weights / (2 * width * layers))

    def missing(self, chunks: Sequence[Chunk]) -> int:
        """How many tokens to compute beside those of `chunks`: up to a tile, or none."""
        tokens = sum([len(chunk.tokens) for chunk in chunks])
        if not LEAST <= tokens < TILE:
            return 0
        # A tile has the cells of all sequences, a token on its own those before it.
        one_by_one = sum([len(chunk.tokens) * (self.cells + FASTER * chunk.start) for chunk in chunks])
        together = TILE * (self.cells + sum([chunk.start for chunk in chunks]))
        return TILE - tokens if one_by_one > together else 0
