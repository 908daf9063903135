"""Headers of GGUF and safetensors files: what they say, and that none of them can do harm."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infs.errors import LoadFailed
from infs.store import gguf_header
from infs.store.gguf_header import SkippedArray, is_gguf, read_gguf
from infs.store.gguf_types import FILE_TYPES, TENSOR_TYPES
from infs.store.safetensors_header import read_safetensors
from tests.store.servers import overwrite

WORDS = [f"word-{number}" for number in range(gguf_header.LONGEST_ARRAY + 1)]


def write_model(path: Path, *, split: int = 0, **values: object) -> Path:
    """A GGUF file with values of all kinds, a vocabulary, and tensors of three types."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_uint32("llama.block_count", 3)
    writer.add_uint64("u64", 1 << 40)
    writer.add_int8("i8", -3)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.25)
    writer.add_bool("yes", True)
    writer.add_string("text", "grüß")
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("texts", ["a", "", "c"])
    writer.add_array("scores", [0.5] * len(WORDS))
    writer.add_token_list(WORDS)
    for key, value in values.items():
        writer.add_string(key, str(value))
    random = np.random.default_rng(1)
    for number, kind in enumerate(("F32", "Q8_0", "Q4_K")):
        data = random.normal(size=(6, 512)).astype(np.float32)
        raw = gguf.GGMLQuantizationType[kind]
        packed = data if kind == "F32" else gguf.quants.quantize(data, raw) if kind == "Q8_0" else _zeros(raw, 6)
        writer.add_tensor(f"blk.{number}.weight", packed, raw_dtype=None if kind == "F32" else raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _zeros(kind: gguf.GGMLQuantizationType, rows: int) -> np.ndarray:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    return np.zeros((rows, 512 // elements * size), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gguf") / "m.gguf")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "m"


# --- GGUF ---


def test_what_a_header_says(model: Path) -> None:
    header = read_gguf(model)
    assert (header.version, header.architecture, header.setting("block_count")) == (3, "llama", 3)
    said = [header.metadata[key] for key in ("u64", "i8", "f32", "f64", "yes", "text", "numbers", "texts")]
    assert said == [1 << 40, -3, 0.5, 0.25, True, "grüß", [1, -2, 3], ["a", "", "c"]]
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray("string", len(WORDS))
    assert header.metadata["scores"] == SkippedArray("float32", len(WORDS))
    assert [header.length(key) for key in ("tokenizer.ggml.tokens", "texts", "text")] == [len(WORDS), 3, 0]
    assert (header.size, header.missing, is_gguf(model)) == (model.stat().st_size, 0, True)


def test_tensors_are_those_of_the_gguf_library(model: Path) -> None:
    known = [
        (each.name, tuple(int(side) for side in each.shape), each.tensor_type.name, each.n_bytes, each.data_offset)
        for each in gguf.GGUFReader(model).tensors
    ]
    found = read_gguf(model).tensors
    assert [(each.name, each.shape, each.type, each.bytes, each.offset) for each in found] == known
    assert [each.elements for each in found] == [6 * 512] * 3


def test_types_are_those_of_the_gguf_library() -> None:
    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: tuple(kind) for number, kind in TENSOR_TYPES.items() if number in known} == known
    names = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind is not gguf.LlamaFileType.GUESSED
    }
    assert {number: name for number, name in FILE_TYPES.items() if number in names} == names


def test_the_parts_of_a_split_model_are_joined(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", split=2)
    parts = sorted(tmp_path.iterdir())
    header = read_gguf(parts[1])
    assert header.files == parts
    assert [(each.name, each.part) for each in header.tensors] == [
        ("blk.0.weight", 0),
        ("blk.1.weight", 0),
        ("blk.2.weight", 1),
    ]
    assert header.architecture == "llama"
    parts[1].unlink()
    with pytest.raises(LoadFailed, match=parts[1].name):
        read_gguf(parts[0])


def test_a_file_that_is_not_complete(model: Path, scratch: Path) -> None:
    content = model.read_bytes()
    overwrite(scratch, content[:-100])
    assert read_gguf(scratch).missing == 100
    overwrite(scratch, content[:5000])
    with pytest.raises(LoadFailed, match="damaged or not complete"):
        read_gguf(scratch)


def test_a_type_that_is_not_known_takes_what_is_up_to_the_next(scratch: Path) -> None:
    def tensor(name: bytes, kind: int, offset: int) -> bytes:
        return struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 64, kind, offset)

    head = b"GGUF" + struct.pack("<IQQ", 2, 2, 0) + tensor(b"a", 999, 0) + tensor(b"b", 999, 96)
    overwrite(scratch, head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(96 + 40))
    assert [(each.type, each.bytes) for each in read_gguf(scratch).tensors] == [("type-999", 96), ("type-999", 40)]


def _value(kind: int, data: bytes) -> bytes:
    return struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + data


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (struct.pack("<IQQ", 3, 1 << 60, 0), "claims to have"),
        (struct.pack("<IQQ", 3, 0, 65000) + bytes(100), "claims to have"),
        (struct.pack("<I", 3) + _value(8, struct.pack("<Q", 1 << 62)), "take more than"),
        (struct.pack("<I", 3) + _value(8, struct.pack("<Q", 1 << 20)), "not complete"),
        (struct.pack("<I", 3) + _value(9, struct.pack("<IQ", 8, 1 << 50)), "words"),
        (struct.pack("<I", 3) + _value(9, struct.pack("<IQ", 6, 1 << 50)), "not complete"),
        (struct.pack("<I", 3) + _value(9, struct.pack("<IQ", 9, 1)), "kind 9"),
        (struct.pack("<I", 3) + _value(77, b""), "kind 77"),
        (struct.pack("<IQQQI", 3, 1, 0, 0, 4000000000) + bytes(20), "dimensions"),
        (struct.pack("<IQQQI2QIQ", 3, 1, 0, 0, 2, 1 << 63, 1 << 63, 0, 0), "no tensor has"),
        (b"", "not complete"),
    ],
)
def test_headers_that_are_damaged(scratch: Path, body: bytes, said: str) -> None:
    overwrite(scratch, b"GGUF" + body)
    with pytest.raises(LoadFailed, match=said):
        read_gguf(scratch)


def test_files_that_are_no_header(tmp_path: Path, scratch: Path) -> None:
    for read in (read_gguf, read_safetensors):
        with pytest.raises(LoadFailed, match="cannot be read"):
            read(tmp_path / "none")
    with pytest.raises(LoadFailed, match="cannot be read"):
        read_gguf(tmp_path)
    overwrite(scratch, b"")
    with pytest.raises(LoadFailed, match="no GGUF file"):
        read_gguf(scratch)
    assert not is_gguf(tmp_path)


CHANGE = st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=12))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(changes=st.lists(CHANGE, min_size=1, max_size=4), length=st.integers(0, 70_000))
@example(changes=[(8, b"\xff" * 8)], length=70_000)
def test_a_damaged_model_is_read_or_refused(
    model: Path, scratch: Path, changes: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(model.read_bytes()[:length])
    for at, new in changes:
        data[at : at + len(new)] = new
    overwrite(scratch, bytes(data))
    _bounded(lambda: read_gguf(scratch))


@QUICK
@given(st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(scratch: Path, data: bytes) -> None:
    for content in (data, b"GGUF\x03\0\0\0" + data):
        overwrite(scratch, content)
        _bounded(lambda: read_gguf(scratch))
    overwrite(scratch, struct.pack("<Q", max(len(data), 2)) + data)
    _bounded(lambda: read_safetensors(scratch))


def _bounded(read: Callable[[], object]) -> None:
    """Run `read`, which must succeed or refuse, in little memory."""
    tracemalloc.start()
    try:
        read()
    except LoadFailed:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 16_000_000


# --- safetensors ---


def safetensors(header: object, data: int = 0) -> bytes:
    """The content of a file with this header, and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_safetensors_file(scratch: Path) -> None:
    header = {
        "__metadata__": {"format": "pt", "odd": 3},
        "a": entry("BF16", [2, 3], 0, 12),
        "b": entry("F4", [], 12, 13),
    }
    overwrite(scratch, safetensors({**header, "c": entry("NEW", [7], 13, 20)}, 15))
    found = read_safetensors(scratch)
    assert found.metadata == {"format": "pt"}
    assert [(each.name, each.dtype, each.shape, each.bytes, each.elements) for each in found.tensors] == [
        ("a", "BF16", (2, 3), 12, 6),
        ("b", "F4", (), 1, 1),
        ("c", "NEW", (7,), 7, 7),
    ]
    assert (found.size, found.missing) == (scratch.stat().st_size, 5)


def test_the_shards_that_an_index_names(tmp_path: Path) -> None:
    for number in (1, 2):
        tensors = {f"t{number}": entry("F32", [4], 0, 16)}
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(safetensors(tensors, 16))
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}))
    found = read_safetensors(tmp_path)
    assert [(each.name, each.file) for each in found.tensors] == [("t1", 0), ("t2", 1)]
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(LoadFailed, match=r"model-00002-of-00002\.safetensors is missing"):
        read_safetensors(tmp_path)
    for wrong in (
        b"[",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": "../x.safetensors"}}',
        b'{"weight_map": {"a": "x.py"}}',
    ):
        index.write_bytes(wrong)
        with pytest.raises(LoadFailed, match="is damaged"):
            read_safetensors(tmp_path)
    with pytest.raises(LoadFailed, match="no safetensors files"):
        read_safetensors(scratch_folder(tmp_path))


def scratch_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 1 << 25) + b"{}",
        safetensors(b"[]"),
        safetensors(b"\xff\xff"),
        safetensors(b"[" * 5000),
        safetensors({"a": 3}),
        safetensors({"a": entry("F32", [4], 0, 15)}, 20),
        safetensors({"a": entry("F32", [-4], 0, 16)}, 20),
        safetensors({"a": entry("X", [4], 16, 0)}, 20),
        safetensors({"a": entry("X", [1] * 100, 0, 1)}, 20),
        safetensors({"__metadata__": 3}),
    ],
)
def test_safetensors_files_that_are_damaged(scratch: Path, content: bytes) -> None:
    overwrite(scratch, content)
    with pytest.raises(LoadFailed, match=r"safetensors file|is damaged"):
        read_safetensors(scratch)
