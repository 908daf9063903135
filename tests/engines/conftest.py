"""Tiny models that several modules ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_llama, write_mamba


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    return write_llama(folder / "llama.gguf", context=512)


@pytest.fixture(scope="module")
def mamba(folder: Path) -> Path:
    return write_mamba(folder / "mamba.gguf", context=512, decay=0.01)
