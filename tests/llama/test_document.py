"""docs/llama.md: its examples work, and it names all that there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import infs.llama
from infs.engines.llama_cpp.options import LlamaOptions
from infs.llama import Handle, Llama, LowSequence
from tests.documents import SAID, examples, page, run_example
from tests.tiny import write_bert, write_control_vector, write_image_projector, write_llama, write_lora
from tests.tiny.media import png

ROOT = Path(__file__).parents[2]
DOCUMENT = page("llama")
BLOCKS = examples("llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples find in their working directory."""
    folder = tmp_path_factory.mktemp("document")
    write_llama(folder / "base.gguf")
    write_lora(folder / "legal.gguf")
    write_control_vector(folder / "calm.gguf")
    write_image_projector(folder / "mmproj.gguf")
    write_bert(folder / "reranker.gguf", pooling="rank")
    (folder / "photo.png").write_bytes(png(1))
    return folder


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_prints_what_it_says(code: str, folder: Path) -> None:
    run_example(code, folder)


def test_there_are_examples_of_everything() -> None:
    assert len(BLOCKS) >= 8
    assert len(SAID.findall("".join(BLOCKS))) >= 10


def names(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]


def test_it_names_all_that_there_is() -> None:
    inner = {"start", "put", "abandon", "parts"}
    wanted = {*names(Llama), *names(LowSequence), *names(Handle)} - inner
    wanted |= {*infs.llama.__all__, *Llama.__init__.__kwdefaults__, *LlamaOptions.__struct_fields__}  # type: ignore[misc]
    assert sorted(name for name in wanted if not re.search(rf"\b{name}\b", DOCUMENT)) == []


def test_it_is_linked() -> None:
    assert "](docs/llama.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
