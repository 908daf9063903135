"""Files that are on this machine already, and what is remembered of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from infs.config import ModelConfig
from infs.errors import ChecksumMismatch, ConfigError, SourceNotFound
from infs.store import checksum
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
    assert await make_store().fetch("m", ModelConfig(file=str(tmp_path)), events.append) == tmp_path
    with pytest.raises(ConfigError, match="folder"):
        await make_store().fetch("m", ModelConfig(file=str(tmp_path), md5="0" * 32), events.append)


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
