"""``python -m benchmarks.estimates``: the memory that is estimated for a model against what it really takes.

With ``--transformers`` models in safetensors files, which PyTorch and Transformers load and run; these must be
installed beside this package (``pip install torch transformers``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec
from tests.tiny import write_bert, write_mamba

from benchmarks.memory_use import Case, measure
from benchmarks.random_llama import FIRST_WORD, SMOL_135M, Shape, random_llama
from infs.config import ModelConfig

MB = 1e6
CACHED = Shape("random-cached", 8, 1024, 16, 16, 1024, 8192, 4096)  # whose keys and values are most of it
DRAFT = replace(SMOL_135M, name="random-draft", layers=4, width=192, heads=3, kv_heads=1, feed_forward=512)
HEAD = "| model | settings | estimated | loaded | at most | error | by the header |"
ROW = "| {} | {} | {:.0f} MB | {:.0f} MB | {:.0f} MB | {:+.1%} | {:+.1%} |"
Row = tuple[str, str, Callable[[Path], Path], dict[str, Any]]


def rows(folder: Path) -> Iterator[Row]:
    """A model and settings in words, what makes its file, and its configuration."""
    smol = "Llama, 135 M, Q8_0"
    chat = {"task": "chat-completion", "context_size": 2048}
    yield smol, "context 2048", random_of(SMOL_135M), {"context_size": 2048}
    yield smol, "chats only, context 2048", random_of(SMOL_135M), chat
    yield smol, "embeddings only, context 2048", random_of(SMOL_135M), {"task": "embedding", "context_size": 2048}
    yield (
        smol,
        "a draft model",
        random_of(SMOL_135M),
        {**chat, "options": {"speculation": {"draft": {"file": str(random_llama(DRAFT))}}}},
    )
    yield "the same, Q4_0", "chats only, context 2048", quantised, chat
    yield "the same, Q4_0", "read, not mapped", quantised, {**chat, "options": {"mmap": False}}
    wide = "Llama, 16 heads, 66 M, Q8_0"
    yield wide, "context 4096", random_of(CACHED), {"task": "chat-completion", "context_size": 4096}
    yield (
        wide,
        "cache q8_0",
        random_of(CACHED),
        {
            "task": "chat-completion",
            "context_size": 4096,
            "options": {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        },
    )
    yield wide, "64 requests at once", random_of(CACHED), {**chat, "context_size": 256, "max_sequences": 64}
    yield (
        "Mamba, 53 M, F32",
        "",
        lambda folder: write_mamba(folder / "mamba.gguf", context=1024, width=1024, layers=8),
        {},
    )
    yield (
        "BERT, 26 M, F32",
        "",
        lambda folder: write_bert(folder / "bert.gguf", pooling="mean", context=512, width=512, layers=12),
        {},
    )


def random_of(shape: Shape) -> Callable[[Path], Path]:
    """What makes a random Llama of `shape`, once."""
    return lambda folder: random_llama(shape)


def quantised(folder: Path) -> Path:
    """The random Llama with weights that the CPU lays out anew."""
    import ctypes

    import llama_cpp

    target = folder / "q4_0.gguf"
    if not target.exists():
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
        source = str(random_llama()).encode()
        if llama_cpp.llama_model_quantize(source, str(target).encode(), ctypes.byref(params)):
            raise RuntimeError("llama.cpp could not quantise the model.")
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    return target


def case(row: Row, folder: Path, threads: int | None) -> Case:
    """What is measured for `row`: nothing that is optional is kept, so all that is taken was estimated."""
    _, _, make, settings = row
    options = {"host_cache": 0, "disk_cache": 0, **settings.get("options", {})}
    device = {} if threads is None else {"cpu_threads": threads}
    path = make(folder)
    config = msgspec.convert({**settings, "options": options, "device": device}, ModelConfig)
    return Case(path=path, config=config, first=FIRST_WORD if "random" in path.name or "q4" in path.name else 20)


@click.command(help=__doc__)
@click.option("--threads", type=int, help="Threads of the CPU; all by default.")
@click.option("--only", default="", help="Only models and settings with this text.")
@click.option("--transformers", "with_torch", is_flag=True, help="Measure PyTorch and Transformers instead.")
def main(threads: int | None, only: str, with_torch: bool) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        if with_torch:
            from benchmarks.torch_memory import table

            for line in table(Path(name), only):
                click.echo(line)
            return
        click.echo(f"{HEAD}\n{'|---' * HEAD.count(' |')}|")
        for row in rows(Path(name)):
            if only.lower() in f"{row[0]} {row[1]}".lower():
                found = measure(case(row, Path(name), threads))
                use = found.estimate
                sizes = [size / MB for size in (use.host, found.loaded, found.most)]
                click.echo(ROW.format(row[0], row[1], *sizes, found.error, found.header_error))
                click.echo("<!-- " + ", ".join(f"{k} {v / MB:.0f}" for k, v in use.parts.items()) + " -->", err=True)


if __name__ == "__main__":
    main()
