"""Blocks and their addresses: hashes of a space, of the tokens before a block, and of its own."""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Tier = Literal["host", "disk"]
Data = bytes | bytearray

TOKEN = array("q").itemsize  # bytes of a token wherever tokens are held as bytes
_PLACE = struct.Struct(">QB")
_DIGEST = 24  # bytes: enough that nobody finds two beginnings with the same address, and short enough for a file name


class BlockId(NamedTuple):
    """What a block is called, wherever it is: the hash of its space, and that of its content address."""

    space: str
    name: str


@dataclass(frozen=True, slots=True)
class Block:
    """What is known of a block without its data.

    Attributes:
        id: its name, made of all the other fields but `bytes`.
        address: the hash of the space and of all tokens before `start`.
        start: the position of its first token.
        run: its own tokens, `TOKEN` bytes each, in the byte order of the machine.
        whole: it is of use only with all of its tokens; `start` is 0.
        bytes: the length of its data.
    """

    id: BlockId
    address: bytes
    start: int
    run: bytes
    whole: bool
    bytes: int

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return len(self.run) // TOKEN

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens ``[start, end)`` of a wanted sequence are in `block`, which holds tokens ``[first, first + length)``.

    Of a block that is not `whole`, ``[first, start)`` may be there already, and what is behind `end` does not belong to
    the wanted sequence: both are cut off once the block is restored. A whole one holds everything from position 0.
    `bytes` is the length of the data, and `tier` says where it was when it was found.
    """

    block: BlockId
    start: int
    end: int
    first: int
    length: int
    bytes: int
    tier: Tier
    whole: bool


def space_id(space: str) -> str:
    """The hash of a space as 32 hexadecimal digits: the name of its folder."""
    return hashlib.blake2b(space.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def block_id(space: str, address: bytes, start: int, run: bytes, whole: bool) -> BlockId:
    """The id of a block of the space with id `space`."""
    digest = hashlib.blake2b(address, digest_size=_DIGEST, person=b"infs block")
    digest.update(_PLACE.pack(start, whole))
    digest.update(run)
    return BlockId(space, digest.hexdigest())


def encode(tokens: Sequence[int]) -> bytes:
    """Tokens as bytes, `TOKEN` for each.

    Raises:
        OverflowError: a token does not fit into 64 bits.
    """
    return array("q", tokens).tobytes()


class Tokens:
    """A sequence of tokens as bytes, with the addresses of its beginnings.

    Hashing goes on from the nearest place before that was asked for, so asking from left to right hashes each once.

    Args:
        space: an id made by `space_id`.
        data: the tokens as `encode` gives them.
    """

    def __init__(self, space: str, data: bytes) -> None:
        self.space = space
        self.data = data
        self._places = [0]
        self._hashes = [hashlib.blake2b(bytes.fromhex(space), digest_size=_DIGEST)]

    def __len__(self) -> int:
        return len(self.data) // TOKEN

    def run(self, start: int, end: int) -> bytes:
        """The tokens ``[start, end)``, fewer where there are no more."""
        return self.data[start * TOKEN : end * TOKEN]

    def address(self, position: int) -> bytes:
        """The hash of the space and of the first `position` tokens."""
        at = bisect_right(self._places, position)
        done, digest = self._places[at - 1], self._hashes[at - 1]
        if done < position:
            digest = digest.copy()
            digest.update(self.run(done, position))
            self._places.insert(at, position)
            self._hashes.insert(at, digest)
        return digest.digest()

    def block(self, start: int, size: int, *, whole: bool = False) -> Block:
        """The block that begins at `start` and goes to the last token, with data of `size` bytes."""
        address, run = self.address(start), self.run(start, len(self))
        return Block(block_id(self.space, address, start, run, whole), address, start, run, whole, size)
