"""What is remembered of a model's speed, and what a load makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infs.batching.pacing import Pacing
from infs.config import DeviceConfig, ModelConfig
from infs.demo import MODEL_FILE
from infs.engines.llama_cpp.building import Builder, Machine
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.speeds import KnownSpeed, measure
from tests.engines.llama import load_model, native_log

CPU = DeviceConfig(gpu=False, cpu_threads=1)


def test_a_speed_is_remembered_for_what_it_was_measured_with(tmp_path: Path) -> None:
    assert KnownSpeed(tmp_path / "speeds", "a").read() is None
    KnownSpeed(tmp_path / "speeds", "a").write(0.25)
    KnownSpeed(tmp_path / "speeds", "a").write(None)
    assert KnownSpeed(tmp_path / "speeds", "a").read() == 0.25
    assert KnownSpeed(tmp_path / "speeds", "b").read() is None


def test_without_a_folder_nothing_is_remembered() -> None:
    speed = KnownSpeed(None, "a")
    speed.write(0.25)
    assert speed.read() is None


@pytest.mark.parametrize("content", ["", "x", "0", "-1", "1e999", "null", '"1"', "[1]", "\x00"])
def test_a_damaged_file_is_none(tmp_path: Path, content: str) -> None:
    KnownSpeed(tmp_path, "a").write(0.25)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert KnownSpeed(tmp_path, "a").read() is None


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    speed = KnownSpeed(tmp_path / "file", "a")
    speed.write(0.25)
    assert speed.read() is None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The machines whose speed was measured."""
    calls: list[object] = []

    def counted(decoder: LlamaDecoder, pacing: Pacing) -> None:
        calls.append(decoder)
        measure(decoder, pacing)

    monkeypatch.setattr("infs.engines.llama_cpp.building.measure", counted)
    return calls


def test_only_the_first_load_measures(tmp_path: Path, measured: list[object]) -> None:
    rates = []
    for options in (LlamaOptions(), LlamaOptions(), LlamaOptions(flash_attention=False), LlamaOptions(batch_tokens=64)):
        rates.append(_built(options, tmp_path))
    assert len(measured) == 2
    assert rates[0] == rates[1] is not None
    assert rates[3] is None


def _built(options: LlamaOptions, cache: Path) -> float | None:
    model = load_model(MODEL_FILE)
    config = ModelConfig(file=str(MODEL_FILE), device=CPU, max_sequences=2)
    machine: Machine = Builder(model, config, options, native_log(), context=256, cache=cache).build(
        lambda posted: None
    )
    machine.close()
    model.close()
    return None if machine.pacing is None else machine.pacing.rate
