"""What sizes of batches llama.cpp's kernels are good at, where it is known without measuring."""

from __future__ import annotations

from infs.config import DeviceConfig
from infs.engines.llama_cpp.native import offloads
from infs.engines.llama_cpp.options import LlamaOptions

TILE = 64  # tokens from which on the CPU's flash attention works in tiles of as many, which is far faster
PADDED = 48  # tokens from which on it pays to compute up to a whole tile, as measured


def tile(device: DeviceConfig, options: LlamaOptions) -> int:
    """Tokens of which steps should be multiples; 1 where any number is as good as its neighbours."""
    plain = options.cache_type_k == options.cache_type_v and options.cache_type_k in ("f16", "f32")
    return TILE if plain and options.flash_attention is not False and not offloads(device) else 1
