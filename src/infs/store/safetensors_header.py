"""What the headers of safetensors files say, read without an engine's library and without trust."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from infs.errors import LoadFailed

LONGEST_HEADER = 1 << 26  # bytes of one file's header; the format allows 100 MB
LONGEST_INDEX = 1 << 26
MOST_FILES = 1000
MOST_DIMENSIONS = 64
INDEX = ".safetensors.index.json"
_LENGTH = struct.Struct("<Q")

# Bits of an element. A name that is not here is kept; its tensors are as large as the header says.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


class SafetensorsTensor(Struct, frozen=True, kw_only=True):
    """What a header says of a tensor.

    Attributes:
        dtype: as it is written there (``BF16``, ``F8_E4M3``).
        shape: elements of each dimension, the slowest first: a matrix is (rows, columns).
        bytes: what its data takes.
        file: which of `SafetensorsHeader.files` it is in.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: int = 0

    @property
    def elements(self) -> int:
        """The product of `shape`."""
        return math.prod(self.shape)


class SafetensorsHeader(Struct, frozen=True, kw_only=True):
    """The header of a file, or of all files of a model.

    Attributes:
        metadata: the texts in ``__metadata__`` of all files.
        tensors: of all files.
        files: the files, in the order of their names.
        size: bytes of all of them.
        missing: bytes of tensors that would lie behind the end of their file; 0 unless a file is not complete.
    """

    metadata: dict[str, str]
    tensors: list[SafetensorsTensor]
    files: list[Path]
    size: int
    missing: int = 0


def read_safetensors(path: Path) -> SafetensorsHeader:
    """The header of a file, or of the model in a folder: of the files that its index names, else of all.

    Raises:
        LoadFailed: nothing there, not of this format, damaged, or a file that the index names is missing.
    """
    files = _files(path) if path.is_dir() else [path]
    parts = [_read_file(file, number) for number, file in enumerate(files)]
    return SafetensorsHeader(
        metadata={key: value for part in parts for key, value in part.metadata.items()},
        tensors=[tensor for part in parts for tensor in part.tensors],
        files=files,
        size=sum(part.size for part in parts),
        missing=sum(part.missing for part in parts),
    )


def shard_names(index: bytes) -> list[str]:
    """The names of the files that an index (the content of ``model.safetensors.index.json``) speaks of.

    Raises:
        ValueError: it is no index.
    """
    try:
        found = msgspec.json.decode(index, type=_Index)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no index of safetensors files: {error}") from error
    names = sorted(set(found.weight_map.values()))
    for name in names:
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or len(name) > 255:
            raise ValueError(f"it names {name[:100]!r}, which is no safetensors file beside it")
    if not 0 < len(names) <= MOST_FILES:
        raise ValueError(f"it names {len(names)} files")
    return names


class _Index(Struct):
    weight_map: dict[str, str]


def _files(folder: Path) -> list[Path]:
    there = sorted(folder.glob("*.safetensors"))
    index = next(iter(sorted(folder.glob(f"*{INDEX}"))), None)
    if index is None:
        if not 0 < len(there) <= MOST_FILES:
            raise LoadFailed(f"{folder} holds {len(there) or 'no'} safetensors files; a model has 1 to {MOST_FILES}.")
        return there
    try:
        names = shard_names(_read(index, LONGEST_INDEX))
    except ValueError as error:
        raise LoadFailed(f"{index} is damaged: {error}.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LoadFailed(f"{folder} is not complete: {missing[0]} is missing, which {index.name} names.")
    return [folder / name for name in names]


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) > most:
        raise LoadFailed(f"{path} has more than {most} bytes, so it is not what its name says.")
    return data


def _read_file(path: Path, number: int) -> SafetensorsHeader:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
            if not 2 <= length <= min(LONGEST_HEADER, size - _LENGTH.size):
                raise LoadFailed(f"{path} is no safetensors file, is damaged or not complete: it has no header.")
            text = file.read(length)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}.") from error
    metadata, entries = _entries(path, text)
    tensors = [_tensor(path, name, entry, number) for name, entry in entries.items()]
    end = _LENGTH.size + length + max((entry.data_offsets[1] for entry in entries.values()), default=0)
    return SafetensorsHeader(metadata=metadata, tensors=tensors, files=[path], size=size, missing=max(end - size, 0))


class _Entry(Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _entries(path: Path, text: bytes) -> tuple[dict[str, str], dict[str, _Entry]]:
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        said: dict[str, Any] = msgspec.json.decode(raw.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, Any])
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LoadFailed(f"{path} is no safetensors file, or is damaged: {error}.") from error
    return {key: value for key, value in said.items() if isinstance(value, str)}, entries


def _tensor(path: Path, name: str, entry: _Entry, number: int) -> SafetensorsTensor:
    begin, end = entry.data_offsets
    shape = tuple(entry.shape)
    size = end - begin
    sane = 0 <= begin <= end and len(shape) <= MOST_DIMENSIONS and all(side >= 0 for side in shape)
    bits = DTYPE_BITS.get(entry.dtype)
    if not sane or (bits is not None and -(-math.prod(shape) * bits // 8) != size):
        raise LoadFailed(f"{path} is damaged: the tensor {name[:100]!r} has a size that does not fit to its shape.")
    return SafetensorsTensor(name=name, dtype=entry.dtype, shape=shape, bytes=size, file=number)
