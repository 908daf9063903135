"""Write a trained model as GGUF, with its tokenizer, chat template and fill-in-the-middle tokens.

python export_gguf.py build/hf demo.gguf --type Q8_0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, TokenType, quants
from safetensors.numpy import load_file

Array = npt.NDArray[np.float32]

NAME = "infs demo"
FIM = {"fim_pre": "<|fim_prefix|>", "fim_suf": "<|fim_suffix|>", "fim_mid": "<|fim_middle|>"}
CONTROL = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", *FIM.values()}
# Weights of a layer: GGUF name, name in Transformers.
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def interleave(weight: Array, heads: int) -> Array:
    """Reorder the rows of each head from rotary halves (Transformers) to rotary pairs (llama.cpp)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_name(NAME)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def token_type(token: str, added: bool) -> TokenType:
    if token in CONTROL:
        return TokenType.CONTROL
    return TokenType.USER_DEFINED if added else TokenType.NORMAL


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], template: str) -> None:
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids: dict[str, int] = tokenizer["model"]["vocab"] | added
    tokens = sorted(ids, key=ids.__getitem__)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    # The same split as "smollm" (single digits, then the words of GPT-2), and older readers know it too.
    writer.add_tokenizer_pre("starcoder")
    writer.add_token_list(tokens)
    writer.add_token_types([token_type(token, token in added) for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids["<|endoftext|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])
    writer.add_add_bos_token(False)
    for key, token in FIM.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[token])
    writer.add_chat_template(template)


def named_weights(source: Path, config: dict[str, Any]) -> dict[str, Array]:
    """The weights under their GGUF names. The output layer is the embedding, so it is not stored again."""
    stored = load_file(source / "model.safetensors")
    weights = {key: value.astype(np.float32) for key, value in stored.items()}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    named = {"token_embd": weights["model.embed_tokens.weight"], "output_norm": weights["model.norm.weight"]}
    for i in range(config["num_hidden_layers"]):
        for name, original in LAYER.items():
            weight = weights[f"model.layers.{i}.{original}.weight"]
            named[f"blk.{i}.{name}"] = interleave(weight, heads[name]) if name in heads else weight
    return named


def export(source: Path, target: Path, kind: str) -> None:
    """Write the Transformers directory `source` to the GGUF file `target`."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    writer = gguf.GGUFWriter(target, "llama")
    add_shape(writer, config)
    add_tokenizer(writer, tokenizer, template)
    for name, weight in named_weights(source, config).items():
        # Norms are single rows: nothing is won by making them smaller.
        stored = GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        writer.add_tensor(f"{name}.weight", quants.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a trained model as GGUF.")
    parser.add_argument("source", type=Path, help="directory that train.py wrote: build/hf")
    parser.add_argument("target", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", default="Q8_0", choices=["Q8_0", "F16", "F32"], help="of the matrices")
    arguments = parser.parse_args()
    export(arguments.source, arguments.target, arguments.type)


if __name__ == "__main__":
    main()
