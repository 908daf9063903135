"""Embeddings of texts that are computed in pieces: how they are cut, and how the vectors of tokens become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from infs.batching.base import Chunk


def cut_pieces(texts: Sequence[list[int]], size: int) -> Iterator[list[Chunk]]:
    """The tokens of `texts`, in order, in batches of up to `size`; text number i is sequence i."""
    batch: list[Chunk] = []
    room = size
    for seq, text in enumerate(texts):
        start = 0
        while start < len(text):
            piece = text[start : start + room]
            batch.append(Chunk(seq=seq, start=start, tokens=piece, logits=len(piece)))
            start, room = start + len(piece), room - len(piece)
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


class Pools:
    """The vectors of texts, as their tokens' come in.

    Args:
        texts: how many there are.
        dimensions: of each vector.
        pooling: ``mean``, ``cls`` (the first token's) or ``last``.
    """

    def __init__(self, texts: int, dimensions: int, pooling: str) -> None:
        self._pooling = pooling
        self._vectors = np.zeros((texts, dimensions), np.float64)
        self._counts = np.zeros(texts, np.int64)

    def take(self, chunks: Sequence[Chunk], rows: NDArray[np.float32]) -> None:
        """Take the vectors of all tokens of `chunks`, one after the other; shape (tokens, dimensions)."""
        at = 0
        for chunk in chunks:
            mine = rows[at : at + len(chunk.tokens)]
            at += len(chunk.tokens)
            self._counts[chunk.seq] += len(mine)
            if self._pooling == "mean":
                self._vectors[chunk.seq] += mine.sum(axis=0, dtype=np.float64)
            elif self._pooling == "last":
                self._vectors[chunk.seq] = mine[-1]
            elif chunk.start == 0:
                self._vectors[chunk.seq] = mine[0]

    def vectors(self) -> NDArray[np.float32]:
        """What came of it; shape (texts, dimensions)."""
        if self._pooling == "mean":
            return (self._vectors / np.maximum(self._counts, 1)[:, None]).astype(np.float32)
        return self._vectors.astype(np.float32)
