"""``python -m benchmarks.estimates``: the memory that is estimated for a model against what it really takes.

With ``--transformers`` models in safetensors files, which PyTorch and Transformers load and run; these must be
installed beside this package (``pip install torch transformers``).
"""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class Row:
    """A model and its settings in words, what makes its file in a folder, and the settings."""

    model: str
    settings: str
    make: Callable[[Path], Path]
    config: dict[str, Any] = field(default_factory=dict)
    draft: Shape | None = None

    def case(self, folder: Path, threads: int | None) -> Case:
        """What is measured: nothing that is optional is kept, so all that is taken was estimated."""
        options = {"host_cache": 0, "disk_cache": 0, **self.config.get("options", {})}
        if self.draft is not None:
            options["speculation"] = {"draft": {"file": str(random_llama(self.draft))}}
        device = {} if threads is None else {"cpu_threads": threads}
        path = self.make(folder)
        config = msgspec.convert({**self.config, "options": options, "device": device}, ModelConfig)
        return Case(path=path, config=config, first=FIRST_WORD if self.model.startswith("Llama") else 20)


def rows() -> list[Row]:
    """All that are measured."""
    smol, again, wide = "Llama, 135 M, Q8_0", "Llama, 135 M, Q4_0", "Llama, 16 heads, 66 M, Q8_0"
    plain, cached = random_of(SMOL_135M), random_of(CACHED)
    chats = {"task": "chat-completion", "context_size": 2048}
    long = {**chats, "context_size": 4096}
    small = {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    vectors = {"task": "embedding", "context_size": 2048}
    return [
        Row(smol, "context 2048", plain, {"context_size": 2048}),
        Row(smol, "context 2048, no embeddings", plain, chats),
        Row(smol, "the same with a draft model", plain, chats, DRAFT),
        Row(smol, "context 2048, embeddings only", plain, vectors),
        Row(again, "context 2048, no embeddings", quantised, chats),
        Row(again, "the same, read and not mapped", quantised, {**chats, "options": {"mmap": False}}),
        Row(wide, "context 4096, no embeddings", cached, long),
        Row(wide, "the same, q8_0 for keys and values", cached, {**long, "options": small}),
        Row(wide, "64 sequences of 256", cached, {**chats, "context_size": 256, "max_sequences": 64}),
        Row("Mamba, 53 M, F32", "context 1024", mamba),
        Row("BERT, 26 M, F32", "context 512", bert),
    ]


def random_of(shape: Shape) -> Callable[[Path], Path]:
    """What makes a random Llama of `shape`, once."""
    return lambda folder: random_llama(shape)


def mamba(folder: Path) -> Path:
    """A recurrent model."""
    return write_mamba(folder / "mamba.gguf", context=1024, width=1024, layers=8)


def bert(folder: Path) -> Path:
    """An encoder."""
    return write_bert(folder / "bert.gguf", pooling="mean", context=512, width=512, layers=12)


def quantised(folder: Path) -> Path:
    """The random Llama with weights that the CPU lays out anew."""
    import llama_cpp

    target = folder / "q4_0.gguf"
    if not target.exists():
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
        source = str(random_llama()).encode()
        failed = llama_cpp.llama_model_quantize(source, str(target).encode(), ctypes.byref(params))
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
        if failed:
            raise RuntimeError("llama.cpp could not quantise the model.")
    return target


def table(folder: Path, threads: int | None, only: str) -> Iterator[str]:
    """The lines of the table of the models and settings that have `only` in their words."""
    yield HEAD
    yield "|---" * (HEAD.count("|") - 1) + "|"
    for row in rows():
        if only.lower() in f"{row.model} {row.settings}".lower():
            found = measure(row.case(folder, threads))
            sizes = [size / MB for size in (found.estimate.host, found.loaded, found.most)]
            yield ROW.format(row.model, row.settings, *sizes, found.error, found.header_error)


@click.command(help=__doc__)
@click.option("--threads", type=int, help="Threads of the CPU; all by default.")
@click.option("--only", default="", help="Only models and settings with this text.")
@click.option("--transformers", "with_torch", is_flag=True, help="Measure PyTorch and Transformers instead.")
def main(threads: int | None, only: str, with_torch: bool) -> None:
    """Print the table."""
    from benchmarks import torch_memory

    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if with_torch and missing:
        raise click.ClickException(f"{' and '.join(missing)} must be installed: pip install torch transformers")
    with tempfile.TemporaryDirectory() as name:
        lines = torch_memory.table(Path(name), only) if with_torch else table(Path(name), threads, only)
        for line in lines:
            click.echo(line)


if __name__ == "__main__":
    main()
