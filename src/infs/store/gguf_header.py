"""What the header of a GGUF file says, read without an engine's library and without trust.

Every count and every length is bounded before anything is read or kept, so that a damaged file costs an error, and
neither time nor memory.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from infs.errors import LoadFailed
from infs.store.gguf_types import TENSOR_TYPES
from infs.store.names import part_names
from infs.store.windows import Window

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_ARRAY = 4096  # arrays with more values are skipped: vocabularies
MOST_ENTRIES = 1 << 16  # key-value pairs, and tensors, of a file
MOST_TEXTS = 1 << 22  # in all arrays of a file
MOST_KEPT = 1 << 25  # bytes of the texts and numbers that are kept of a file
MOST_DIMENSIONS = 8
LONGEST_SIDE = 1 << 48  # elements of a tensor
_TEXT, _ARRAY = 8, 9
_NUMBERS: dict[int, tuple[str, struct.Struct]] = {
    0: ("uint8", struct.Struct("<B")),
    1: ("int8", struct.Struct("<b")),
    2: ("uint16", struct.Struct("<H")),
    3: ("int16", struct.Struct("<h")),
    4: ("uint32", struct.Struct("<I")),
    5: ("int32", struct.Struct("<i")),
    6: ("float32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("uint64", struct.Struct("<Q")),
    11: ("int64", struct.Struct("<q")),
    12: ("float64", struct.Struct("<d")),
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class SkippedArray(Struct, frozen=True):
    """An array of more than `LONGEST_ARRAY` values, which are not kept: what they are, and how many."""

    kind: str
    length: int


class GgufTensor(Struct, frozen=True, kw_only=True):
    """What the header says of a tensor.

    Attributes:
        shape: elements of each dimension, the fastest first, as in the file: a matrix is (columns, rows).
        type: the name that ggml gives it (``F16``, ``Q4_K``); ``type-99`` for one that is not known here.
        bytes: what its data takes, without padding (with it, where the type is not known).
        offset: where that begins, in the file of its part.
        part: which of `GgufHeader.files` it is in.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    offset: int
    part: int = 0

    @property
    def elements(self) -> int:
        """The product of `shape`."""
        return math.prod(self.shape)


class GgufHeader(Struct, frozen=True, kw_only=True):
    """The header of a model: of all its parts, where it has several.

    Attributes:
        version: of the format.
        metadata: the first part's values by their keys: numbers, texts, lists of these, or a `SkippedArray`.
        tensors: in the order of the files.
        files: the parts.
        size: bytes of all of them.
        missing: bytes of tensors that would lie behind the end of their file; 0 unless a file is not complete.
    """

    version: int
    metadata: dict[str, Any]
    tensors: list[GgufTensor]
    files: list[Path]
    size: int
    missing: int = 0

    @property
    def architecture(self) -> str:
        """``general.architecture``; empty when the file does not say."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else ""

    def setting(self, key: str) -> Any:
        """What the file says under `key` of its architecture, as in ``block_count``; ``None`` for nothing."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def length(self, key: str) -> int:
        """How many values the array under `key` (the whole key) has; 0 when there is none."""
        found = self.metadata.get(key)
        if isinstance(found, SkippedArray):
            return found.length
        return len(found) if isinstance(found, list) else 0


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that starts as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path) -> GgufHeader:
    """The header of `path`, joined with those of the other parts if it is a part of a split model.

    Raises:
        LoadFailed: it is no GGUF file, it is damaged, or a part cannot be read; which one, and why.
    """
    files = [path.with_name(name) for name in part_names(path.name)]
    parts = [_read_part(file, number) for number, file in enumerate(files)]
    return GgufHeader(
        version=parts[0].version,
        metadata=parts[0].metadata,
        tensors=[tensor for part in parts for tensor in part.tensors],
        files=files,
        size=sum(part.size for part in parts),
        missing=sum(part.missing for part in parts),
    )


def _read_part(path: Path, part: int) -> GgufHeader:
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read(part)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}.") from error


class _Reader:
    """Reads one file from its beginning."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._in = Window(path, file)
        self._texts = 0
        self._kept = 0

    def read(self, part: int) -> GgufHeader:
        version = self._version()
        tensor_count, value_count = self._count("tensors"), self._count("values")
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = self._text()
            metadata[key] = self._value(self._in.number(_U32))
        drafts = [self._draft() for _ in range(tensor_count)]
        tensors = _placed(drafts, self._data_start(metadata), self._in.size, part)
        end = max((tensor.offset + tensor.bytes for tensor in tensors), default=0)
        return GgufHeader(
            version=version,
            metadata=metadata,
            tensors=tensors,
            files=[self._path],
            size=self._in.size,
            missing=max(end - self._in.size, 0),
        )

    # --- the beginning ---

    def _version(self) -> int:
        if self._in.size < len(MAGIC) or self._in.take(len(MAGIC)) != MAGIC:
            raise LoadFailed(f"{self._path} is no GGUF file: it does not start with {MAGIC!r}.")
        version = int(self._in.number(_U32))
        if version in VERSIONS:
            return version
        if version and version & 0xFFFF == 0:
            raise LoadFailed(f"{self._path} is a GGUF file for big-endian machines, which cannot be read here.")
        raise LoadFailed(f"{self._path} is a GGUF file of version {version}; 2 and 3 can be read.")

    def _count(self, what: str) -> int:
        count = int(self._in.number(_U64))
        # Each takes more bytes than this, so a claim that cannot be true is seen at once.
        if count > MOST_ENTRIES or count * 12 > self._in.size:
            raise self._damaged(f"it claims to have {count} {what}")
        return count

    def _data_start(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._damaged("its alignment is no power of two")
        return -(-self._in.position // alignment) * alignment

    # --- values ---

    def _text(self) -> str:
        length = self._in.number(_U64)
        self._keep(length)
        return self._in.take(length).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            return self._array(self._in.number(_U32), self._in.number(_U64))
        return self._in.number(self._number(kind)[1])

    def _array(self, kind: int, length: int) -> Any:
        if kind == _TEXT:
            return self._text_array(length)
        name, number = self._number(kind)
        if length > LONGEST_ARRAY:
            self._in.skip(length * number.size)
            return SkippedArray(name, length)
        self._keep(length * number.size)
        data = self._in.take(length * number.size)
        return [value for (value,) in number.iter_unpack(data)]

    def _text_array(self, length: int) -> Any:
        self._texts += length
        if self._texts > MOST_TEXTS:
            raise self._damaged(f"it claims to have more than {MOST_TEXTS} words")
        if length > LONGEST_ARRAY:
            self._in.skip_texts(length)
            return SkippedArray("string", length)
        return [self._text() for _ in range(length)]

    def _number(self, kind: int) -> tuple[str, struct.Struct]:
        found = _NUMBERS.get(kind)
        if found is None:
            raise self._damaged(f"a value is of the kind {kind}, which there is not")
        return found

    def _keep(self, length: int) -> None:
        self._kept += length
        if self._kept > MOST_KEPT:
            raise self._damaged(f"its values take more than {MOST_KEPT} bytes")

    # --- tensors ---

    def _draft(self) -> _Draft:
        name = self._text()
        dimensions = self._in.number(_U32)
        if dimensions > MOST_DIMENSIONS:
            raise self._damaged(f"the tensor {name[:100]!r} has {dimensions} dimensions")
        shape = tuple(self._in.number(_U64) for _ in range(dimensions))
        if math.prod(shape) > LONGEST_SIDE:
            raise self._damaged(f"the tensor {name[:100]!r} has a size that no tensor has")
        return _Draft(name, shape, self._in.number(_U32), self._in.number(_U64))

    def _damaged(self, why: str) -> LoadFailed:
        return LoadFailed(f"{self._path} is damaged: {why}.")


class _Draft(Struct, frozen=True):
    """A tensor as it is written: with the number of its type, and an offset from the beginning of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _placed(drafts: list[_Draft], start: int, end: int, part: int) -> list[GgufTensor]:
    """The tensors of a file whose data begins at `start`, and that is `end` bytes long."""
    offsets = sorted({draft.offset for draft in drafts})
    following = dict(zip(offsets, [*offsets[1:], end - start], strict=False))
    return [_finished(draft, following[draft.offset], start, part) for draft in drafts]


def _finished(draft: _Draft, following: int, start: int, part: int) -> GgufTensor:
    known = TENSOR_TYPES.get(draft.type)
    if known is None:
        name, size = f"type-{draft.type}", max(following - draft.offset, 0)
    else:
        name, size = known.name, -(-math.prod(draft.shape) // known.elements) * known.bytes
    return GgufTensor(name=draft.name, shape=draft.shape, type=name, bytes=size, offset=start + draft.offset, part=part)
