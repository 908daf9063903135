"""A file read in order through a small window, with every step checked against its size.

Files are not mapped: one that somebody else cuts meanwhile would end the process.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from infs.errors import LoadFailed

WINDOW = 1 << 20
_LENGTH = struct.Struct("<Q")


class Window:
    """Reads `file` from its beginning.

    Args:
        path: its name, for messages.

    Raises:
        LoadFailed: by all methods, where the file ends too early.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._buffer = b""
        self._start = 0
        self._next = 0
        self.size = os.fstat(file.fileno()).st_size

    @property
    def position(self) -> int:
        """The offset of what is read next."""
        return self._start + self._next

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        self._fill(length)
        begin = self._next
        self._next += length
        return self._buffer[begin : self._next]

    def number(self, kind: struct.Struct) -> Any:
        """The next value of `kind`."""
        self._fill(kind.size)
        (value,) = kind.unpack_from(self._buffer, self._next)
        self._next += kind.size
        return value

    def skip(self, length: int) -> None:
        """Leave `length` bytes out."""
        self._check(length)
        if self._next + length <= len(self._buffer):
            self._next += length
            return
        self._start = self._file.seek(self.position + length)
        self._buffer, self._next = b"", 0

    def skip_texts(self, count: int) -> None:
        """Leave `count` texts out, each a length of 8 bytes and that many more."""
        unpack, size = _LENGTH.unpack_from, _LENGTH.size
        while count:
            buffer, at = self._buffer, self._next
            last = len(buffer) - size
            # This loop runs once per word of a vocabulary.
            while count and at <= last:
                at += size + unpack(buffer, at)[0]
                count -= 1
            self._next = min(at, len(buffer))
            if at > len(buffer):
                self.skip(at - len(buffer))
            if count:
                self._fill(size)

    def _fill(self, length: int) -> None:
        """Have the next `length` bytes in the buffer."""
        if self._next + length <= len(self._buffer):
            return
        self._check(length)
        self._start, rest = self.position, self._buffer[self._next :]
        self._next = 0
        self._buffer = rest + self._file.read(max(length, WINDOW) - len(rest))
        if len(self._buffer) < length:
            raise self._ends()

    def _check(self, length: int) -> None:
        if length > self.size - self.position:
            raise self._ends()

    def _ends(self) -> LoadFailed:
        return LoadFailed(f"{self._path} is damaged or not complete: its header goes on behind its end.")
