"""Models in safetensors files: the memory that is estimated for them against what PyTorch and Transformers take.

Run with arguments it is the process that loads and runs one; see `measured`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.memory_use import PATIENCE, Watch, now
from infs.engines.memory import estimate_safetensors
from infs.store.safetensors_header import read_safetensors

MB = 1e6
ANSWER = 8  # tokens
HEAD = "| model | settings | estimated | at most | error |"
CASES: list[tuple[str, str, int, int]] = [  # model, dtype, context, batch
    ("llama", "bfloat16", 1024, 1),
    ("llama", "bfloat16", 2048, 2),
    ("llama", "float32", 1024, 1),
    ("llama", "float32", 2048, 4),
    ("gpt2", "float32", 1000, 4),
    ("bert", "float32", 128, 1),
    ("bert", "float32", 512, 16),
    ("bert", "bfloat16", 512, 16),
    ("t5", "float32", 512, 4),
    ("t5", "float32", 256, 8),
    # The figures in `infs.engines.memory` were chosen with the models above; these are only compared.
    ("qwen3", "bfloat16", 1024, 2),
    ("qwen3", "float32", 1024, 2),
    ("opt", "float32", 512, 4),
    ("roberta", "float32", 256, 8),
    ("bart", "float32", 256, 4),
]


def table(folder: Path, only: str) -> Iterator[str]:
    """The lines of the table of the cases whose model has `only` in its name."""
    yield HEAD
    yield "|---" * (HEAD.count("|") - 1) + "|"
    for model, dtype, context, batch in CASES:
        if only.lower() not in model:
            continue
        if not (folder / model).exists():
            _in_process("write", str(folder / model), model)
        config = msgspec.json.decode((folder / model / "config.json").read_bytes())
        header = read_safetensors(folder / model)
        use = estimate_safetensors(header, config, dtype=dtype, context=context, batch=batch)
        most = int(_in_process("run", str(folder / model), dtype, str(context), str(batch)))
        sizes = f"{use.host / MB:.0f} MB | {most / MB:.0f} MB | {use.host / most - 1:+.1%}"
        yield f"| {model}, {header.size / MB:.0f} MB | {dtype}, {batch} x {context} tokens | {sizes} |"


def _in_process(*arguments: str) -> str:
    """The last line that this module writes with `arguments`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.torch_memory", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, check=True, text=True)
    return run.stdout.strip().rpartition("\n")[2]


# --- in the process


def write(folder: Path, model: str) -> None:
    """Write a model of random weights to `folder`."""
    import torch
    import transformers as hf

    if model == "llama":
        sizes: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
        made = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_attention_heads=12, num_key_value_heads=4))
        made.to(torch.bfloat16).save_pretrained(folder)
    elif model == "gpt2":
        hf.GPT2LMHeadModel(hf.GPT2Config()).save_pretrained(folder)
    elif model == "bert":
        hf.BertModel(hf.BertConfig()).save_pretrained(folder)
    elif model == "qwen3":
        sizes = {"vocab_size": 60000, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 14}
        heads = {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 64}
        hf.Qwen3ForCausalLM(hf.Qwen3Config(**sizes, **heads)).to(torch.bfloat16).save_pretrained(folder)
    elif model == "opt":
        hf.OPTForCausalLM(hf.OPTConfig()).save_pretrained(folder)
    elif model == "roberta":
        hf.RobertaModel(hf.RobertaConfig(vocab_size=50265, max_position_embeddings=514)).save_pretrained(folder)
    elif model == "bart":
        sizes = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6}
        wide = {"encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
        hf.BartForConditionalGeneration(hf.BartConfig(**sizes, **wide, **heads)).save_pretrained(folder)
    else:
        sizes = {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 8, "decoder_start_token_id": 0}
        hf.T5ForConditionalGeneration(hf.T5Config(**sizes)).save_pretrained(folder)


def run(folder: Path, dtype: str, context: int, batch: int) -> int:
    """Bytes that this process has at most, while it loads a model and runs it on `batch` texts."""
    import torch
    import transformers as hf

    config = hf.AutoConfig.from_pretrained(folder)
    generates = config.is_encoder_decoder or config.architectures[0].endswith(("ForCausalLM", "LMHeadModel"))
    kind = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    with Watch() as watch:
        model = (kind if generates else hf.AutoModel).from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        length = context if config.is_encoder_decoder or not generates else context - ANSWER
        texts = torch.randint(5, 900, (batch, length))
        with torch.inference_mode():
            if generates:
                # What an encoder-decoder writes has all of the context to itself.
                answer = context - 1 if config.is_encoder_decoder else ANSWER
                mask = torch.ones_like(texts)
                model.generate(texts, attention_mask=mask, max_new_tokens=answer, min_new_tokens=answer)
            else:
                model(texts, attention_mask=torch.ones_like(texts))
        watch.most = max(watch.most, now())
    return watch.most


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        print(run(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
