"""Media in the sequences of a context: a step's chunks are computed up to their last image, and places translated."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from infs.batching.base import CacheOp, Chunk, Copy, Remove
from infs.engines.llama_cpp.media import MediaChunk, Projector
from infs.errors import GenerationFailed


class Positions:
    """Where tokens are in sequences whose images take fewer positions than cells.

    Sequences and their caches count tokens, with a stand-in for each cell. This knows, for each sequence, which of
    them share positions. Places within a chunk cannot be asked for: a chunk is computed, shared and removed whole.
    """

    def __init__(self) -> None:
        self._saved: dict[int, dict[int, tuple[int, int]]] = {}  # by sequence: start -> end, positions saved

    def put(self, seq: int, start: int, *, cells: int, positions: int) -> None:
        """Tell that sequence `seq` has a chunk with these numbers at index `start`."""
        if cells != positions:
            self._saved.setdefault(seq, {})[start] = (start + cells, cells - positions)

    def at(self, seq: int, index: int) -> int:
        """The position of the token at `index` of sequence `seq`."""
        entries = self._saved.get(seq)
        return index - sum(saved for end, saved in entries.values() if end <= index) if entries else index

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """The tokens from `start` to `end` of `source` are those of `target` now."""
        for at, entry in self._saved.get(source, {}).items():
            if start <= at < end:
                self._saved.setdefault(target, {})[at] = entry

    def remove(self, seq: int, start: int, end: int) -> None:
        """The tokens from `start` to `end` of `seq` are gone; `end` below 0 is all of them."""
        entries = self._saved.get(seq, {})
        for at in [at for at in entries if start <= at and (end < 0 or at < end)]:
            del entries[at]
        if not entries:
            self._saved.pop(seq, None)

    def saved(self, seq: int) -> bool:
        """Whether any position of sequence `seq` differs from its index."""
        return seq in self._saved

    def clear(self) -> None:
        """All sequences are empty."""
        self._saved.clear()


class MediaCells:
    """Computes what stand-ins stand for. Used by the context's thread, but for `share`.

    Args:
        compute: computes a batch of chunks that hold tokens only, at positions of the context.
    """

    def __init__(self, projector: Projector, context: Any, compute: Callable[[list[Chunk]], object]) -> None:
        self._projector = projector
        self._context = context
        self._compute = compute
        self._lock = threading.Lock()
        self._alive: WeakValueDictionary[int, MediaChunk] = WeakValueDictionary()  # by the first stand-in
        self.positions = Positions()

    def share(self, chunks: Iterable[MediaChunk]) -> tuple[MediaChunk, ...]:
        """`chunks`, or the same ones of other sequences: they can be computed as long as somebody holds them."""
        with self._lock:
            return tuple(self._alive.setdefault(chunk.tokens[0], chunk) for chunk in chunks)

    def lead(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Compute each of `chunks` up to its last medium; what is left of each are tokens, at their positions.

        Nothing may be left of a chunk that wants no scores.

        Raises:
            GenerationFailed: scores are wanted of a medium, or it is not held, or could not be computed.
        """
        return [self._lead(chunk) for chunk in chunks]

    def _lead(self, chunk: Chunk) -> Chunk:
        at, tokens = 0, chunk.tokens
        if min(tokens) >= 0 and not self.positions.saved(chunk.seq):
            return chunk
        places = [index for index, token in enumerate(tokens) if token < 0]
        for place in places:
            if place < at:
                continue  # of the medium before
            if place > at:
                self._compute([self._placed(chunk, at, tokens[at:place], 0)])
            at = place + self._medium(chunk.seq, chunk.start + place, tokens[place])
        if chunk.logits > len(tokens) - at:
            raise GenerationFailed("Scores are wanted of an image or of audio, which has none.")
        return self._placed(chunk, at, tokens[at:], chunk.logits)

    def _placed(self, chunk: Chunk, at: int, tokens: Sequence[int], logits: int) -> Chunk:
        return Chunk(chunk.seq, self.positions.at(chunk.seq, chunk.start + at), tokens, logits)

    def _medium(self, seq: int, start: int, token: int) -> int:
        """Compute the medium that begins with `token` at index `start`; returns its cells."""
        chunk = self._alive.get(token)
        if chunk is None:
            raise GenerationFailed("A sequence begins in the middle of an image or of audio, or one that is not there.")
        self._projector.decode(self._context, chunk, seq=seq, start=self.positions.at(seq, start))
        self.positions.put(seq, start, cells=chunk.cells, positions=chunk.positions)
        return chunk.cells

    def translate(self, op: CacheOp) -> CacheOp:
        """`op`, which counts tokens, as one that counts positions; it is taken as done."""
        if isinstance(op, Copy):
            start, end = (self.positions.at(op.source, place) for place in (op.start, op.end))
            self.positions.copy(op.source, op.target, op.start, op.end)
            return dataclasses.replace(op, start=start, end=end)
        if isinstance(op, Remove):
            start, end = (self.positions.at(op.seq, place) for place in (op.start, op.end))
            self.positions.remove(op.seq, op.start, op.end)
            return dataclasses.replace(op, start=start, end=end)
        return op
