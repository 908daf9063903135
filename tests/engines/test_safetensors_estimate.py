"""What a model in safetensors files takes: against numbers that were worked out by hand."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from infs.engines.memory import TORCH_PROCESS, Tally, estimate_safetensors
from infs.errors import LoadFailed
from infs.store.safetensors_header import SafetensorsHeader, read_safetensors

# A decoder of two layers: width 64, 4 heads of 16, 2 key-value heads, feed-forward 128, vocabulary 1000.
DECODER: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
}
ENCODER = {"architectures": ["BertModel"], "d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 1000}
BOTH = {
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": 1000,
    "relative_attention_num_buckets": 32,
}
TENSORS = {
    "model.embed_tokens.weight": ("BF16", [1000, 64]),
    "model.layers.0.mlp.gate_proj.weight": ("BF16", [128, 64]),
    "model.layers.0.mlp.gate_proj.scales": ("F8_E4M3", [64]),
    "model.layers.0.positions": ("I64", [10]),
}
ELEMENTS = 1000 * 64 + 128 * 64  # of what can be converted
REST = 64 + 80  # bytes of what cannot


def written(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> SafetensorsHeader:
    """The header of a file with zeros."""
    sizes = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I64": 8}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * sizes[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    return read_safetensors(path)


@pytest.fixture
def header(tmp_path: Path) -> SafetensorsHeader:
    return written(tmp_path / "model.safetensors", TENSORS)


def test_a_decoder_in_its_own_type(header: SafetensorsHeader) -> None:
    use = estimate_safetensors(header, DECODER, context=100)
    assert use.parts == {
        "process": TORCH_PROCESS,
        "weights": 2 * ELEMENTS + REST,
        "context": 2 * 2 * 2 * 16 * 2 * 100,  # keys and values, layers, heads of 16, bytes, tokens
        "compute": 100 * (4 * 128 + 6 * 64) * 2 + 2 * 4 * 1000,
    }
    assert use.host == sum(use.parts.values())
    assert (use.devices, use.spare) == ({}, 0)


def test_sequences_of_a_batch_need_a_mask_and_a_cache_each(header: SafetensorsHeader) -> None:
    one, four = (estimate_safetensors(header, DECODER, context=100, batch=batch).parts for batch in (1, 4))
    assert four["context"] == 4 * one["context"]
    assert four["compute"] == 4 * one["compute"] + 4 * 100 * 100


def test_converted_weights_are_there_twice_while_they_are_loaded(header: SafetensorsHeader) -> None:
    use = estimate_safetensors(header, DECODER, dtype="float32", context=10, process=0)
    cache = 2 * 2 * 2 * 16 * 4 * 10
    assert use.parts == {"weights": 4 * ELEMENTS + REST, "context": cache, "compute": 2 * ELEMENTS - cache}
    assert use.host == 4 * ELEMENTS + REST + 2 * ELEMENTS
    same = estimate_safetensors(header, DECODER, dtype="torch.bfloat16", context=10, process=0)
    assert same.parts == estimate_safetensors(header, DECODER, context=10, process=0).parts


def test_on_a_device_only_the_process_is_in_main_memory(header: SafetensorsHeader) -> None:
    use = estimate_safetensors(header, DECODER, dtype="float16", context=100, device="cuda:0", process=7)
    assert (use.host, list(use.devices)) == (7, ["cuda:0"])
    assert use.devices["cuda:0"] == use.parts["weights"] + use.parts["context"] + use.parts["compute"]
    wider = estimate_safetensors(header, DECODER, dtype="float32", context=100, device="cuda:0", process=7)
    assert wider.host == 7 + 2 * ELEMENTS  # on its way


def test_an_encoder_keeps_nothing(tmp_path: Path) -> None:
    header = written(tmp_path / "model.safetensors", {"embeddings.weight": ("F32", [1000, 64])})
    use = estimate_safetensors(header, ENCODER, context=32, batch=2)
    assert "context" not in use.parts
    compute = 64 * (2 * 4 * 64 + 4 * 64) * 4 + 2 * 4 * 2 * 1000 + 2 * 32 * 32  # its feed-forward is 4 widths by default
    assert use.parts["compute"] == compute


def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    header = written(tmp_path / "model.safetensors", {"shared.weight": ("F32", [1000, 64])})
    use = estimate_safetensors(header, BOTH, context=50)
    cache = 2 * 2 * 4 * 16 * 4 * 50
    scores = 3 * 4 * 4 * 50 * 50
    assert use.parts["context"] == 2 * cache
    assert use.parts["compute"] == 50 * (2 * 96 + 4 * 64) * 4 + 2 * 4 * 1000 + scores - cache


def test_sizes_are_found_where_they_are(header: SafetensorsHeader) -> None:
    seeing = {"architectures": ["LlavaForConditionalGeneration"], "text_config": DECODER, "hidden_size": 5}
    plain = estimate_safetensors(header, DECODER, context=100)
    assert estimate_safetensors(header, seeing, context=100) == plain
    experts = {**DECODER, "moe_intermediate_size": 100, "num_experts_per_tok": 4}
    more = estimate_safetensors(header, experts, context=100).parts["compute"] - plain.parts["compute"]
    assert more == 100 * 4 * (400 - 128) * 2


def test_what_is_not_known_is_named(header: SafetensorsHeader) -> None:
    for key, named in (("hidden_size", "hidden_size, d_model"), ("num_attention_heads", "num_attention_heads")):
        config = {name: value for name, value in DECODER.items() if name != key}
        with pytest.raises(LoadFailed, match=f"none of {named}"):
            estimate_safetensors(header, config, context=10)
    with pytest.raises(LoadFailed, match=r"no dtype 'int3'.*float16"):
        estimate_safetensors(header, DECODER, dtype="int3", context=10)


def test_memory_that_is_shared_counts_in_both() -> None:
    tally = Tally()
    tally.add("weights", 5, "metal:0", shared=True)
    tally.add("weights", 7, "cuda:0")
    tally.add("process", 1)
    tally.add("nothing", 0)
    use = tally.use(spare=3)
    assert (use.host, use.devices, use.parts) == (6, {"metal:0": 5, "cuda:0": 7}, {"weights": 12, "process": 1})
    assert use.spare == 3
