"""The header of a GGUF file, and its tensors, read through ggml: for what llama.cpp does not tell, or aborts over."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infs.engines.llama_cpp.native import ggml_base
from infs.errors import LoadFailed

MAGIC = b"GGUF"
FLOAT32, STRING, ARRAY = 6, 8, 9  # gguf_type
FLOATS: dict[int, str] = {0: "<f4", 1: "<f2"}  # ggml_type
MOST_DIMENSIONS = 4  # of ggml
INDEXED: dict[str, Any] = {  # functions of a header and an index, and what they return
    "gguf_get_kv_type": ctypes.c_int,
    "gguf_get_val_str": ctypes.c_char_p,
    "gguf_get_val_f32": ctypes.c_float,
    "gguf_get_arr_n": ctypes.c_size_t,
    "gguf_get_tensor_name": ctypes.c_char_p,
    "gguf_get_tensor_type": ctypes.c_int,
    "gguf_get_tensor_ne": ctypes.POINTER(ctypes.c_int64),
    "gguf_get_tensor_offset": ctypes.c_size_t,
    "gguf_get_tensor_size": ctypes.c_size_t,
}


def check_file(path: Path, what: str = "The llama-cpp engine loads GGUF files only.") -> None:
    """Raise unless `path` starts like a GGUF file.

    Args:
        what: a sentence for the end of the message.

    Raises:
        LoadFailed: saying what it is instead.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}.") from error
    if start != MAGIC:
        is_ = "is empty" if not start else f"starts with {start!r}, not {MAGIC!r}"
        raise LoadFailed(f"{path} is no GGUF file: it {is_}. {what}")


class GgufFile:
    """An open header; a context manager. Values of other types than asked for are as if they were not there.

    Raises:
        LoadFailed: the file is not there, or no valid GGUF file.
    """

    def __init__(self, path: Path) -> None:
        check_file(path, "A GGUF file is needed.")
        self.path = path
        self._lib = _library()
        self._header = self._lib.gguf_init_from_file(str(path).encode("utf-8"), _HeaderOnly(True, None))
        if not self._header:
            raise LoadFailed(f"{path} is no valid GGUF file: its header cannot be read, or it is not complete.")

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.gguf_free(self._header)
        self._header = None

    def text(self, key: str) -> str | None:
        """The text called `key`."""
        found = self._value(key, STRING, self._lib.gguf_get_val_str)
        return None if found is None else bytes(found).decode("utf-8", "replace")

    def number(self, key: str) -> float | None:
        """The 32-bit float called `key`."""
        found = self._value(key, FLOAT32, self._lib.gguf_get_val_f32)
        return None if found is None else float(found)

    def length(self, key: str) -> int:
        """How many values the array called `key` has; 0 if there is none."""
        return int(self._value(key, ARRAY, self._lib.gguf_get_arr_n) or 0)

    def has(self, key: str) -> bool:
        """Whether there is a value called `key`, of any type."""
        return int(self._lib.gguf_find_key(self._header, key.encode("utf-8"))) >= 0

    def _value(self, key: str, kind: int, read: Callable[[Any, int], Any]) -> Any:
        index = self._lib.gguf_find_key(self._header, key.encode("utf-8"))
        # ggml aborts the process over a value that is read as another type.
        if index < 0 or self._lib.gguf_get_kv_type(self._header, index) != kind:
            return None
        return read(self._header, index)

    def tensors(self) -> list[str]:
        """The names of all tensors."""
        names = (
            self._lib.gguf_get_tensor_name(self._header, index)
            for index in range(self._lib.gguf_get_n_tensors(self._header))
        )
        return [name.decode("utf-8", "replace") for name in names]

    def has_tensor(self, *names: str) -> bool:
        """Whether there is a tensor of one of these names."""
        return any(self._find(name) >= 0 for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The dimensions of a tensor that is there, the slowest first, without ones in front."""
        sizes = self._lib.gguf_get_tensor_ne(self._header, self._find(name))[:MOST_DIMENSIONS]
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes = sizes[:-1]
        return tuple(reversed(sizes))

    def floats(self, name: str) -> NDArray[np.float32]:
        """The values of a tensor that is there, flat.

        Raises:
            LoadFailed: it is neither f32 nor f16.
        """
        index = self._find(name)
        dtype = FLOATS.get(self._lib.gguf_get_tensor_type(self._header, index))
        if dtype is None:
            raise LoadFailed(f"{self.path}: the tensor {name!r} is neither f32 nor f16.")
        start = self._lib.gguf_get_data_offset(self._header) + self._lib.gguf_get_tensor_offset(self._header, index)
        size = self._lib.gguf_get_tensor_size(self._header, index)
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise LoadFailed(f"{self.path} is not complete: the tensor {name!r} ends behind its end.")
        values: NDArray[np.float32] = np.frombuffer(data, np.dtype(dtype)).astype(np.float32)
        return values

    def _find(self, name: str) -> int:
        return int(self._lib.gguf_find_tensor(self._header, name.encode("utf-8")))


def has_tensor(path: Path, *names: str) -> bool:
    """Whether the GGUF file `path` has a tensor of one of these names; not if it is no such file."""
    try:
        with GgufFile(path) as file:
            return file.has_tensor(*names)
    except LoadFailed:
        return False


class _HeaderOnly(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


@functools.cache
def _library() -> Any:
    lib = ggml_base()
    lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, _HeaderOnly]
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_free.argtypes = [ctypes.c_void_p]
    for name in ("gguf_find_key", "gguf_find_tensor"):
        _declare(lib, name, ctypes.c_char_p, ctypes.c_int64)
    for name, result in INDEXED.items():
        _declare(lib, name, ctypes.c_int64, result)
    lib.gguf_get_n_tensors.argtypes = lib.gguf_get_data_offset.argtypes = [ctypes.c_void_p]
    lib.gguf_get_n_tensors.restype, lib.gguf_get_data_offset.restype = ctypes.c_int64, ctypes.c_size_t
    return lib


def _declare(lib: Any, name: str, argument: Any, result: Any) -> None:
    function = getattr(lib, name)
    function.argtypes = [ctypes.c_void_p, argument]
    function.restype = result
