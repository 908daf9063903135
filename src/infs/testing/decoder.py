"""Stand-ins for a model where only scheduling and caching matter.

The token that follows is a hash of all that a sequence sees in the cells, so any mistake in handling them changes
the output.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from infs.batching.base import CacheOp, Chunk, Copy, Counts, Remove
from infs.errors import InfsError
from infs.types import FinishReason


def next_token(tokens: Sequence[int], vocabulary: int = 1000) -> int:
    """The token that the fake model puts after `tokens`."""
    return zlib.crc32(array("i", tokens).tobytes()) % vocabulary


@dataclass(eq=False)
class Cell:
    """One place of the fake cache."""

    position: int
    token: int
    seqs: set[int] = field(default_factory=set)


class FakeDecoder:
    """A `Decoder` whose model is a hash; it refuses whatever a real cache could not do.

    Args:
        cells: size of the cache.
        sequences: number of sequence ids.
        fail_at: the number of the decode call (from 1) that fails once.
        cuttable: whether its state can be cut, as `infs.batching.prefix` wants it.

    Attributes:
        group: what `select` was told last.
        saved, restored: tokens that were saved and restored.
    """

    def __init__(
        self,
        cells: int = 256,
        sequences: int = 16,
        *,
        vocabulary: int = 1000,
        fail_at: int | None = None,
        cuttable: bool = True,
    ) -> None:
        self.cells = cells
        self.sequences = sequences
        self.vocabulary = vocabulary
        self.fail_at = fail_at
        self.cuttable = cuttable
        self.group: Hashable = None
        self.calls = 0
        self.computed = 0
        self.saved = self.restored = 0
        self._cells: list[Cell] = []
        self._rows: list[list[int]] = []

    def apply(self, ops: Sequence[CacheOp]) -> None:
        for op in ops:
            if isinstance(op, Copy):
                self._copy(op)
            elif isinstance(op, Remove):
                self._remove(op.seq, op.start, op.end)
            else:
                self._shift(op.seq, op.start, op.end, op.delta)
            self._cells = [cell for cell in self._cells if cell.seqs]

    def _shift(self, seq: int, start: int, end: int, delta: int) -> None:
        assert self.cuttable, "a state has no positions to be moved"
        self._check_whole(seq, start, end)
        moved = [c for c in self._cells if seq in c.seqs and start <= c.position < end]
        assert len(moved) == end - start, "all that is moved is there"
        assert all(c.seqs == {seq} for c in moved), "what is moved belongs to nobody else"
        taken = {c.position for c in self._cells if seq in c.seqs and c not in moved}
        assert not taken & {c.position + delta for c in moved}, "the place is free"
        for cell in moved:
            cell.position += delta

    def _check_whole(self, seq: int, *places: int) -> None:
        """Blocks of tokens are computed, shared, moved and forgotten as a whole."""
        tokens = {c.position: c.token for c in self._cells if seq in c.seqs}
        for place in places:
            inside = tokens.get(place, 0) < 0 and tokens[place] == tokens.get(place - 1, 0) - 1
            assert not inside, "no block is cut"

    def select(self, group: Hashable) -> None:
        self.group = group

    def _copy(self, op: Copy) -> None:
        wanted = [c for c in self._cells if op.source in c.seqs and op.start <= c.position < op.end]
        if not self.cuttable:
            assert len(self.seen(op.source)) == op.end, "a state is copied as a whole"
            assert op.start == 0, "a state is copied from its beginning"
        assert len(wanted) == op.end - op.start, "the source of a copy holds all of it"
        self._check_whole(op.source, op.start, op.end)
        taken = {c.position for c in self._cells if op.target in c.seqs}
        assert not taken & {c.position for c in wanted}, "the target of a copy is free there"
        for cell in wanted:
            cell.seqs.add(op.target)

    def _remove(self, seq: int, start: int, end: int) -> None:
        if not self.cuttable:
            assert (start, end) == (0, -1), "a state is removed as a whole"
        self._check_whole(seq, start, end)
        for cell in self._cells:
            if seq in cell.seqs and start <= cell.position and (end < 0 or cell.position < end):
                cell.seqs.remove(seq)

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the fake decoder was told to fail")
        self._rows = []
        first_rows = []
        for chunk in chunks:
            assert 0 <= chunk.seq < self.sequences
            assert chunk.tokens, "no empty chunks"
            assert chunk.start == len(self.seen(chunk.seq)), "positions follow on"
            for offset, token in enumerate(chunk.tokens):
                self._cells.append(Cell(chunk.start + offset, token, {chunk.seq}))
            self._check_whole(chunk.seq, chunk.start)
            assert not chunk.logits or min(chunk.tokens[-chunk.logits :]) >= 0, "a block has no scores"
            self.computed += len(chunk.tokens)
            seen = self.seen(chunk.seq)
            first_rows.append(len(self._rows) + (0 if chunk.logits else 1))
            self._rows += [seen[: len(seen) - back] for back in reversed(range(chunk.logits))]
        assert len(self._cells) <= self.cells, "more cells than there are"
        return first_rows

    def save(self, seq: int, start: int, end: int) -> bytes:
        seen = self.seen(seq)
        assert end <= len(seen), "what is saved is there"
        self._check_whole(seq, start, end)
        assert self.cuttable or (start, end) == (0, len(seen)), "a state is saved as a whole"
        self.saved += end - start
        return array("i", [start, *seen[start:end]]).tobytes()

    def restore(self, seq: int, data: bytes | bytearray, start: int, end: int) -> bool:
        first, *tokens = array("i", data)
        assert first <= start < end <= first + len(tokens), "the data has what is wanted"
        assert self.cuttable or (first, end) == (0, len(tokens)), "a state is restored as a whole"
        if len(self._cells) + len(tokens) > self.cells:
            return False
        if not self.cuttable:
            self._remove(seq, 0, -1)
            self._cells = [cell for cell in self._cells if cell.seqs]
        assert len(self.seen(seq)) == start, "positions follow on"
        self._cells += [Cell(place, tokens[place - first], {seq}) for place in range(start, end)]
        self._check_whole(seq, start)
        self.restored += end - start
        return True

    def clear(self) -> None:
        self._cells.clear()

    @property
    def used(self) -> int:
        """Cells in use."""
        return len(self._cells)

    def seen(self, seq: int) -> list[int]:
        """The tokens that `seq` attends to, in the order of their positions."""
        mine = sorted((c for c in self._cells if seq in c.seqs), key=lambda c: c.position)
        assert [c.position for c in mine] == list(range(len(mine))), "no gap and no position twice"
        return [c.token for c in mine]

    def next(self, row: int) -> int:
        """The token that the model puts next in `row`."""
        return next_token(self._rows[row], self.vocabulary)


class FakeOutput:
    """An `Output` that takes what the fake model says and remembers it.

    Args:
        stop: a token that ends the sequence.
        fail_at: the number of tokens after which `accept` raises.
        rule: what must follow all that was said so far, if anything.
        certain: what must follow is guessed rather than forced, so that it is scored.
    """

    def __init__(
        self,
        decoder: FakeDecoder,
        *,
        stop: int | None = None,
        fail_at: int | None = None,
        rule: Callable[[list[int]], list[int]] = lambda said: [],
        certain: bool = False,
    ) -> None:
        self.decoder = decoder
        self.stop = stop
        self.fail_at = fail_at
        self.rule = rule
        self.certain = certain
        self.tokens: list[int] = []
        self._owed: list[int] = []
        self._ruled = False
        self.scored: list[int] = []
        self.progress: list[int] = []
        self.reason: FinishReason | None = None
        self.counts: Counts | None = None
        self.error: InfsError | None = None

    @property
    def ended(self) -> bool:
        """Whether the last call has come."""
        return self.reason is not None or self.error is not None

    def prompt_scored(self, position: int, row: int) -> None:
        self.scored.append(position)

    def prompt_computed(self, done: int, total: int) -> None:
        self.progress.append(done)

    def sample(self, row: int) -> int:
        owed = self._owing()
        self._ruled = bool(owed)
        return owed.pop(0) if owed else self.decoder.next(row)

    def forced(self) -> list[int]:
        if self.certain:
            return []
        owed, self._owed = self._owing(), []
        self._ruled = self._ruled or bool(owed)
        return owed

    def expected(self) -> list[int]:
        return list(self._owing()) if self.certain else []

    def _owing(self) -> list[int]:
        """What the rule still demands; it is asked again once a token was chosen freely."""
        if not self._owed and not self._ruled:
            self._owed = self.rule(self.tokens)
        return self._owed

    def accept(self, token: int) -> FinishReason | None:
        self.tokens.append(token)
        if len(self.tokens) == self.fail_at:
            raise ValueError("the fake output was told to fail")
        return "stop" if token == self.stop else None

    def finished(self, reason: FinishReason, counts: Counts) -> None:
        assert not self.ended, "a sequence ends once"
        self.reason, self.counts = reason, counts

    def failed(self, error: InfsError) -> None:
        assert not self.ended, "a sequence ends once"
        self.error = error
