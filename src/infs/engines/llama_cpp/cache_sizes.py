"""How large the context of a GGUF model is, by its header: keys and values, and states of recurrent layers."""

from __future__ import annotations

from typing import Any

from infs.engines.llama_cpp.sizing import ContextSizes
from infs.errors import LoadFailed
from infs.store.gguf_header import GgufHeader
from infs.store.gguf_types import TENSOR_TYPES

MOST_LAYERS = 10_000
STATE_BYTES = 4  # of a number in a state, which is always f32
CELL_PADDING = 256  # llama.cpp rounds the number of cells up to a multiple of this
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7"})
TYPE_SIZES = {known.name.lower(): known.bytes / known.elements for known in TENSOR_TYPES.values()}


class Layers:
    """The layers of a model, as its header describes them.

    Raises:
        LoadFailed: it claims to have a number of layers that no model has.
    """

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self.architecture = header.architecture
        self.count = self.number("block_count")
        if not 0 <= self.count <= MOST_LAYERS:
            raise LoadFailed(f"{header.files[0]} claims to have {self.count} layers; no model has {MOST_LAYERS}.")
        self.width = self.number("embedding_length")
        self.heads = max(self.each("attention.head_count"), default=0)
        # Models with few key-value heads name their number, others have as many as heads.
        self.kv_heads = (
            self.each("attention.head_count")
            if header.setting("attention.head_count_kv") is None
            else self.each("attention.head_count_kv")
        )
        self._interval = self.number("full_attention_interval")

    @property
    def feed_forward(self) -> int:
        """Values between the two halves of the widest layer."""
        experts = self.number("expert_used_count") * self.number("expert_feed_forward_length")
        return max([*self.each("feed_forward_length"), experts, 2 * self.number("ssm.inner_size")])

    def number(self, key: str) -> int:
        """The number called `key` of the architecture; 0 if there is none."""
        value = self._header.setting(key)
        return int(value) if isinstance(value, int | float) else 0

    def each(self, key: str) -> list[int]:
        """The same where every layer may have one of its own."""
        value: Any = self._header.setting(key)
        numbers = [int(one) for one in value if isinstance(one, int | float)] if isinstance(value, list) else []
        numbers = numbers or [self.number(key)]
        return [*numbers, *numbers[-1:] * self.count][: max(1, self.count)]

    def recurrent(self, layer: int) -> bool:
        """Whether a layer keeps a state instead of keys and values."""
        if self.architecture in RECURRENT:
            return True
        if self._state() == 0:
            return False
        if self._interval:
            return (layer + 1) % self._interval != 0
        return self.kv_heads[layer] == 0

    @property
    def cuttable(self) -> bool:
        """Whether the cache can be cut at any token: no layer has a state."""
        return not any(self.recurrent(layer) for layer in range(self.count))

    def cell(self, layer: int, keys: str, values: str) -> float:
        """Bytes of a token's keys and values in a layer with attention, stored as these types."""
        if rank := self.number("attention.kv_lora_rank"):  # latent attention keeps one vector for all heads
            return (rank + self.number("rope.dimension_count")) * TYPE_SIZES[keys]
        head = self.width // max(1, self.heads)
        key, value = (self.number(f"attention.{kind}_length") or head for kind in ("key", "value"))
        return self.kv_heads[layer] * (key * TYPE_SIZES[keys] + value * TYPE_SIZES[values])

    def _state(self) -> int:
        """Numbers in the state of a recurrent layer."""
        if head := self.number("wkv.head_size"):
            return self.width * (head + (self.number("token_shift_count") or 2))
        if window := self.number("shortconv.l_cache"):
            return self.width * (window - 1)
        inner, state = self.number("ssm.inner_size"), self.number("ssm.state_size")
        kernel, groups = self.number("ssm.conv_kernel"), self.number("ssm.group_count")
        return state * inner + max(0, kernel - 1) * (inner + 2 * groups * state)

    def cache_bytes(self, sizes: ContextSizes, keys: str, values: str) -> float:
        """Bytes of the context: of all cells, and of a state for each sequence."""
        cells = -(-sizes.n_ctx // CELL_PADDING) * CELL_PADDING
        return sum(
            STATE_BYTES * self._state() * sizes.n_seq_max
            if self.recurrent(layer)
            else self.cell(layer, keys, values) * cells
            for layer in range(self.count)
        )
