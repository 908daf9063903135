"""Files that are on this machine already, and what is remembered of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from infs.config import ModelConfig
from infs.errors import ChecksumMismatch, ConfigError, SourceError, SourceNotFound
from infs.store import Fetched, checksum
from infs.store.rules import TRANSFORMERS
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import overwrite

CONTENT = b"GGUF" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mödel 1.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read for their checksum."""
    read: list[Path] = []
    real = checksum._hash

    def noting(path: Path, *more: object) -> dict[str, str]:
        read.append(path)
        return real(path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(checksum, "_hash", noting)
    return read


async def test_an_absolute_path(make_store: MakeStore, events: list[Progress], file: Path) -> None:
    model = ModelConfig(file=str(file))
    assert make_store().find(model) == file
    assert await make_store().fetch("m", model, events.append) == file
    assert events == []


async def test_a_relative_path_starts_at_the_cache(make_store: MakeStore, events: list[Progress], cache: Path) -> None:
    overwrite(cache / "sub" / "m.gguf", CONTENT)
    assert await make_store().fetch("m", ModelConfig(file="sub/m.gguf"), events.append) == cache / "sub" / "m.gguf"


async def test_the_home_folder(
    make_store: MakeStore, events: list[Progress], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("USERPROFILE", str(file.parent))
    assert await make_store().fetch("m", ModelConfig(file=f"~/{file.name}"), events.append) == file


async def test_a_folder(make_store: MakeStore, events: list[Progress], tmp_path: Path) -> None:
    """For an engine without a rule it is what it is; the others look for what they need."""
    overwrite(tmp_path / "a" / "weights.bin", CONTENT)
    own = ModelConfig(file=str(tmp_path), engine="own")
    assert await make_store().fetch("m", own, events.append) == tmp_path
    with pytest.raises(ConfigError, match="folder"):
        await make_store().fetch("m", msgspec.structs.replace(own, md5="0" * 32), events.append)
    model = ModelConfig(file=str(tmp_path))
    with pytest.raises(SourceNotFound, match=r"holds no \.gguf file"):
        await make_store().fetch("m", model, events.append)
    assert make_store().find(model) is None
    overwrite(tmp_path / "a" / "m-Q4_0.gguf", CONTENT)
    assert await make_store().fetch("m", model, events.append) == tmp_path / "a" / "m-Q4_0.gguf"
    overwrite(tmp_path / "b" / "m-Q8_0.gguf", CONTENT)
    with pytest.raises(SourceError, match="write one of these as file") as caught:
        await make_store().fetch("m", model, events.append)
    assert f"\n  {tmp_path / 'b' / 'm-Q8_0.gguf'}" in caught.value.message
    narrowed = msgspec.structs.replace(model, ignore_patterns=["a/*"])
    assert await make_store().fetch("m", narrowed, events.append) == tmp_path / "b" / "m-Q8_0.gguf"


async def test_a_folder_is_judged_by_the_rule_of_its_engine(
    make_store: MakeStore, events: list[Progress], tmp_path: Path
) -> None:
    overwrite(tmp_path / "config.json", b"{}")
    overwrite(tmp_path / "model-00001-of-00002.safetensors", CONTENT)
    store = make_store(rules={"transformers": TRANSFORMERS})
    model = ModelConfig(file=str(tmp_path))
    with pytest.raises(SourceNotFound, match=r"not complete; .* model-00002-of-00002\.safetensors"):
        await store.fetch("m", model, events.append)
    overwrite(tmp_path / "model-00002-of-00002.safetensors", CONTENT)
    assert await store.store.fetch("m", model, events.append) == Fetched(path=tmp_path, engine="transformers")
    with pytest.raises(SourceNotFound, match=r"holds a Transformers model \(safetensors\).*llama-cpp"):
        await make_store().fetch("m", model, events.append)


async def test_the_engine_of_a_file(make_store: MakeStore, events: list[Progress], tmp_path: Path) -> None:
    """Its name tells it, else its content; one that is configured is believed."""
    store = make_store().store
    overwrite(tmp_path / "weights", CONTENT)
    overwrite(tmp_path / "other.bin", b"\x80\x02}")
    named = ModelConfig(file=str(tmp_path / "weights"))
    assert store.engine_of(named) == "llama-cpp"
    assert await store.fetch("m", named, events.append) == Fetched(path=tmp_path / "weights", engine="llama-cpp")
    other = ModelConfig(file=str(tmp_path / "other.bin"))
    assert store.engine_of(other) is None
    with pytest.raises(SourceNotFound, match=r"other\.bin is no model of an engine that is known here \(llama-cpp"):
        await store.fetch("m", other, events.append)
    own = msgspec.structs.replace(other, engine="own")
    assert (await store.fetch("m", own, events.append)) == Fetched(path=tmp_path / "other.bin", engine="own")
    told = [
        (ModelConfig(), None),
        (ModelConfig(engine="own"), "own"),
        (ModelConfig(file="none.gguf"), "llama-cpp"),
        (ModelConfig(url="hf:org/repo/m-00001-of-00002.gguf"), "llama-cpp"),
        (ModelConfig(url="https://example.org/m.gguf?x=1"), "llama-cpp"),
        (ModelConfig(url="https://example.org/m"), None),
        (ModelConfig(url="hf:org/repo"), None),
        (ModelConfig(url="lmstudio:org/repo/m.gguf"), "llama-cpp"),
        (ModelConfig(url="ollama:none"), None),
    ]
    assert [store.engine_of(config) for config, _ in told] == [engine for _, engine in told]


async def test_patterns_for_a_single_file_have_no_meaning(
    make_store: MakeStore, events: list[Progress], file: Path
) -> None:
    for model in (ModelConfig(file=str(file)), ModelConfig(url="https://example.org/m.gguf")):
        with pytest.raises(ConfigError, match="no meaning"):
            await make_store().fetch("m", msgspec.structs.replace(model, allow_patterns=["*"]), events.append)


@pytest.mark.parametrize("name", ["none.gguf", "none-00001-of-00002.gguf"])
async def test_a_file_that_is_not_there(make_store: MakeStore, events: list[Progress], cache: Path, name: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        await make_store().fetch("m", ModelConfig(file=name), events.append)
    assert str(cache / name) in caught.value.message
    assert "Put the file there" in caught.value.message
    assert make_store().find(ModelConfig(file=name)) is None


async def test_a_part_that_is_not_there(make_store: MakeStore, events: list[Progress], tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(CONTENT)
    with pytest.raises(SourceNotFound, match=r"m-00002-of-00002\.gguf is not there, a part of a model in 2 files"):
        await make_store().fetch("m", ModelConfig(file=str(tmp_path / "m-00001-of-00002.gguf")), events.append)


@pytest.mark.parametrize("name", ["../m.gguf", "a/../../m.gguf"])
async def test_a_way_out_of_the_cache(make_store: MakeStore, events: list[Progress], name: str) -> None:
    with pytest.raises(ConfigError, match="out of the cache") as caught:
        await make_store().fetch("m", ModelConfig(file=name), events.append)
    assert caught.value.param == "models.m.file"


async def test_a_checksum_is_computed_once(
    make_store: MakeStore, events: list[Progress], file: Path, readings: list[Path]
) -> None:
    model = ModelConfig(file=str(file), sha256=SHA256)
    for _ in range(3):
        assert await make_store().fetch("m", model, events.append) == file
    assert readings == [file]
    assert [event.detail for event in events] == ["mödel 1.gguf: checking"]


async def test_a_changed_file_is_read_again(
    make_store: MakeStore, events: list[Progress], file: Path, readings: list[Path]
) -> None:
    model = ModelConfig(file=str(file), sha256=SHA256)
    await make_store().fetch("m", model, events.append)
    overwrite(file, bytes(len(CONTENT)))
    with pytest.raises(ChecksumMismatch) as caught:
        await make_store().fetch("m", model, events.append)
    assert SHA256 in caught.value.message
    assert hashlib.sha256(bytes(len(CONTENT))).hexdigest() in caught.value.message
    assert len(readings) == 2


async def test_a_second_checksum_is_computed_for_itself(
    make_store: MakeStore, events: list[Progress], file: Path, readings: list[Path]
) -> None:
    await make_store().fetch("m", ModelConfig(file=str(file), sha256=SHA256), events.append)
    both = ModelConfig(file=str(file), sha256=SHA256, md5=hashlib.md5(CONTENT).hexdigest())
    await make_store().fetch("m", both, events.append)
    await make_store().fetch("m", both, events.append)
    assert len(readings) == 2


async def test_a_damaged_note_is_no_proof(
    make_store: MakeStore, events: list[Progress], file: Path, readings: list[Path], cache: Path
) -> None:
    model = ModelConfig(file=str(file), sha256=SHA256)
    await make_store().fetch("m", model, events.append)
    for note in (cache / "notes").iterdir():
        note.write_bytes(b'{"key": [')
    await make_store().fetch("m", model, events.append)
    assert len(readings) == 2


async def test_a_cache_that_cannot_be_written_costs_only_time(
    make_store: MakeStore, events: list[Progress], file: Path, cache: Path
) -> None:
    overwrite(cache, b"not a folder")
    assert await make_store().fetch("m", ModelConfig(file=str(file), sha256=SHA256), events.append) == file


def test_importing_the_store_is_light() -> None:
    heavy = {"httpx", "huggingface_hub", "filelock", "platformdirs", "rich", "numpy"}
    code = f"import sys, infs.store; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
