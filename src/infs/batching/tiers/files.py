"""The file of a block: a fixed prefix, a msgpack header, the data. Whatever is not exactly as written is `Damaged`."""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from infs.batching.tiers.blocks import TOKEN, Block, BlockId, Data, block_id

VERSION = 2
SUFFIX = ".kv"
TEMPORARY = ".tmp"
_MAGIC = b"infs-kv\n"
_SEAL = 32  # bytes of a checksum
_PREFIX = struct.Struct(">8sII")  # magic, version, length of the header; then the checksum of both and of the header


class Damaged(Exception):
    """A file that is not what its name says."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    space: str
    address: bytes
    start: int
    run: bytes
    whole: bool
    size: int
    seal: bytes


def _seal(*parts: Data) -> bytes:
    digest = hashlib.blake2b(digest_size=_SEAL)
    for part in parts:
        digest.update(part)
    return digest.digest()


def head(block: Block, data: Data) -> bytes:
    """All of a file that comes before the data."""
    header = msgspec.msgpack.encode(
        _Header(
            space=block.id.space,
            address=block.address,
            start=block.start,
            run=block.run,
            whole=block.whole,
            size=len(data),
            seal=_seal(data),
        )
    )
    prefix = _PREFIX.pack(_MAGIC, VERSION, len(header))
    return prefix + _seal(prefix, header) + header


def write(path: Path, start: bytes, data: Data) -> None:
    """Write a file at once: a reader sees all of it or nothing, also when this process is killed.

    There is no fsync: what a power failure leaves half-written has a wrong checksum and is a miss, while waiting for
    the disk would make everything else on it wait too.

    Raises:
        OSError: nothing was written.
    """
    new = path.with_name(f"{path.name}.{os.getpid():x}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with open(new, "xb", buffering=0, opener=_private) as file:
            for part in (start, data):
                _write_all(file, part)
        _replace(new, path)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_all(file: BinaryIO, data: Data) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _replace(new: Path, path: Path) -> None:
    try:
        os.replace(new, path)
    except PermissionError:  # Windows: somebody is reading the file of that name, which then has the same content
        if not path.exists():
            raise


def read_block(path: Path, id: BlockId) -> Block:
    """What the header of a file says, once it is verified.

    Raises:
        Damaged: it is not the file of block `id`, or was cut or changed; the data are not looked at.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return _head(file, id)[0]


def read_data(path: Path, id: BlockId) -> tuple[Block, bytes]:
    """A block and its data, verified.

    Raises:
        Damaged: it is not the file of block `id`, or not as it was written.
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        block, seal = _head(file, id)
        data = _read(file, block.bytes)
    if _seal(data) != seal:
        raise Damaged("the data do not have their checksum")
    return block, data


def _head(file: BinaryIO, id: BlockId) -> tuple[Block, bytes]:
    """The block of an open file, and the checksum of the data that follow."""
    size = os.fstat(file.fileno()).st_size
    prefix = _read(file, _PREFIX.size)
    magic, version, length = _PREFIX.unpack(prefix)
    if magic != _MAGIC or version != VERSION or length > size:
        raise Damaged("not a file of this version")
    seal, header = _read(file, _SEAL), _read(file, length)
    if seal != _seal(prefix, header):
        raise Damaged("the header does not have its checksum")
    block, data_seal = _parse(header, id)
    if size != _PREFIX.size + _SEAL + length + block.bytes:
        raise Damaged("too short or too long")
    return block, data_seal


def _parse(data: bytes, id: BlockId) -> tuple[Block, bytes]:
    try:
        header = msgspec.msgpack.decode(data, type=_Header)
    except msgspec.DecodeError as error:
        raise Damaged(str(error)) from error
    if header.start < 0 or header.size < 0 or not header.run or len(header.run) % TOKEN:
        raise Damaged("no block of tokens")
    if id != block_id(header.space, header.address, header.start, header.run, header.whole):
        raise Damaged("another block than its name says")
    return Block(id, header.address, header.start, header.run, header.whole, header.size), header.seal


def _read(file: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes; one call may give fewer, of a long file."""
    data = file.read(size)
    if len(data) == size:
        return data
    parts = [data]
    while data and sum(map(len, parts)) < size:
        data = file.read(size - sum(map(len, parts)))
        parts.append(data)
    if not data:
        raise Damaged("too short")
    return b"".join(parts)
