"""Sequences as bytes: versioned, checked against damage, and of use for the very same model only.

A file is ``infs-seq``, the version and the length of the header (little-endian, 16 and 32 bits), a BLAKE2b hash of all
that follows (16 bytes), the header (MessagePack), the scores (float32) and llama.cpp's own state.
"""

from __future__ import annotations

import hashlib
import json
import struct

import msgspec

from infs.errors import InvalidRequest

MAGIC = b"infs-seq"
VERSION = 1
START = struct.Struct("<8sHI16s")
PARAM = "data"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved sequence says of itself.

    Attributes:
        identity: what must be equal for the state to be of use, as JSON.
        tokens: all tokens, of which the state has the first `computed`.
        lora: the adapters that it was computed with.
        scores: bytes of scores, which may be none.
    """

    identity: str
    tokens: list[int]
    computed: int
    lora: list[tuple[str, float]]
    scores: int


def pack(header: Header, scores: bytes, state: bytes | bytearray) -> bytes:
    """A saved sequence."""
    head = msgspec.msgpack.encode(header)
    start = START.pack(MAGIC, VERSION, len(head), _hash(head, scores, state))
    return b"".join((start, head, scores, state))


def unpack(data: bytes, identity: str) -> tuple[Header, bytes, bytes]:
    """The header, scores and state in `data`.

    Raises:
        InvalidRequest: it is no saved sequence, damaged, or not of the model that `identity` stands for.
    """
    view = memoryview(data)
    if len(view) < START.size or bytes(view[: len(MAGIC)]) != MAGIC:
        raise _refused("it is no saved sequence")
    _, version, length, hashed = START.unpack_from(view)
    if version != VERSION:
        raise _refused(f"it has version {version}, and this is for version {VERSION}")
    rest = view[START.size :]
    if _hash(rest) != hashed:
        raise _refused("it is damaged")
    header = msgspec.msgpack.decode(rest[:length], type=Header)
    if header.identity != identity:
        raise _refused(f"it was saved with {_difference(header.identity, identity)}")
    end = length + header.scores
    return header, bytes(rest[length:end]), bytes(rest[end:])


def _hash(*parts: bytes | bytearray | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _difference(saved: str, wanted: str) -> str:
    """What of two identities is not the same, for people."""
    old, new = json.loads(saved), json.loads(wanted)
    if old.get("model") != new["model"]:
        return "another model"
    return "other settings: " + ", ".join(sorted(name for name in new if old.get(name) != new[name]))


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"The sequence cannot be loaded: {why}.", param=PARAM)
