"""Both tiers as one: what is stored where, and how to have it back."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from infs.batching.tiers.blocks import Block, BlockId, Data, Piece, Tier, Tokens, encode, space_id
from infs.batching.tiers.counts import Tally, TierCounts
from infs.batching.tiers.disk import Change, DiskCache
from infs.batching.tiers.host import HostCache
from infs.batching.tiers.index import Index, Match, cheapest
from infs.batching.tiers.writer import Writer

_PIECE = 1 << 16  # what a piece costs beyond its bytes, in bytes of host memory
_DISK = 8  # what a byte on disk costs, in bytes of host memory; only to choose between blocks with the same tokens


class Tiers:
    """The context of conversations in host memory and on disk.

    `put`, `find`, `covered` and `get` of what is in host memory do no I/O: they are for the loop's thread. `refresh`,
    `prefetch` and `get` of what is on disk read files: they are for helper threads. What other processes, or earlier
    ones, have left on disk is found only after a `refresh` or `prefetch` of its space.

    Args:
        host_bytes: of data in host memory, at most.
        disk: where else to store everything, or None.
        pending_bytes: of data that wait to be written to disk, at most; they are mostly those in host memory.
    """

    def __init__(self, *, host_bytes: int, disk: DiskCache | None = None, pending_bytes: int = 256 << 20) -> None:
        self._lock = threading.Lock()
        self._host = HostCache(host_bytes)
        self._spaces: dict[str, Index] = {}
        self._filed: set[BlockId] = set()  # what is on disk, as far as is known
        self._tally = Tally()
        self._disk = disk
        self._writer = Writer(self._write, disk.use, pending_bytes) if disk else None
        self._singly = _Singly()

    # --- storing

    def put(
        self, space: str, tokens: Sequence[int], start: int, data: Data | memoryview, *, whole: bool = False
    ) -> None:
        """Store the state of the cells of ``tokens[start:]``, into host memory now and onto the disk later.

        Args:
            space: what else must be equal for the state to be of use.
            tokens: all tokens from position 0; they fit into 64 bits.
            start: the position of the first token whose state is in `data`.
            data: kept as it is unless it is a view, so it must not be changed any more.
            whole: the state cannot be cut, and is of use only where all of its tokens are wanted.

        Raises:
            ValueError: there is no token behind `start`, or a whole block does not start at 0.
        """
        if not 0 <= start < len(tokens):
            raise ValueError(f"a block must have tokens: start is {start} of {len(tokens)}")
        if whole and start:
            raise ValueError(f"a whole block must start at 0, not at {start}")
        kept = bytes(data) if isinstance(data, memoryview) else data
        block = Tokens(space_id(space), encode(tokens)).block(start, len(kept), whole=whole)
        with self._lock:
            self._keep(block, kept)
        if self._writer and self._disk:
            self._disk.count(dropped=self._writer.add(block, kept))

    # --- finding

    def find(self, space: str, tokens: Sequence[int], start: int, limit: int) -> list[Piece]:
        """Pieces that cover ``tokens[start:n]`` without a gap, with the largest `n` up to `limit`.

        Among the chains that get as far, it is the one with the fewest bytes, those on disk counting more. Where a
        whole block reaches further than the chain, it is the only piece.
        """
        wanted = self._wanted(space, tokens, limit)
        with self._lock:
            index = self._spaces.get(wanted.space) if wanted else None
            if wanted is None or index is None:
                return []
            found, reach = index.matches(wanted, start)
            whole = index.whole(wanted, start)
            if whole is not None and whole.end > reach:
                chain = [Match(whole, whole.end)]
            else:
                chain = cheapest(found, start, reach, self._cost)
            for match in reversed(chain):  # so that the end of a chain, of no use alone, goes before its beginning
                self._host.use(match.block.id)
            return self._pieces(chain, start)

    def covered(self, space: str, tokens: Sequence[int], start: int) -> int:
        """The position up to which ``tokens[start:]`` is stored without a gap; `start` if its first token is not."""
        wanted = self._wanted(space, tokens, len(tokens))
        with self._lock:
            index = self._spaces.get(wanted.space) if wanted else None
            if wanted is None or index is None:
                return start
            whole = index.whole(wanted, start)
            return max(index.matches(wanted, start)[1], whole.end if whole else start)

    # --- having it back

    def get(self, piece: Piece) -> Data | None:
        """The data of the block of a piece, not to be changed; None if it is gone.

        What was on disk is in host memory then. The tokens of the piece count as restored.
        """
        data, tier = self._load(piece.block, piece.first)
        if data is not None:
            tokens = piece.end - piece.start
            if tier == "host":
                with self._lock:
                    self._tally.restored += tokens
            elif self._disk:
                self._disk.count(restored=tokens)
        return data

    def refresh(self, space: str) -> None:
        """Notice what was stored on disk, or deleted, by others."""
        if self._disk is None:
            return
        id = space_id(space)
        with self._singly.alone(id):
            self._apply(self._disk.refresh(id))

    def prefetch(self, space: str, tokens: Sequence[int], start: int, limit: int) -> None:
        """Bring into host memory what `find` with the same arguments gives, from `start` on, as far as it has room."""
        self.refresh(space)
        room = self._host.limit
        pieces = self.find(space, tokens, start, limit)
        for piece in pieces:
            room -= piece.bytes
            if room < 0:
                break
            if piece.tier == "disk":
                self._load(piece.block, piece.first)
        with self._lock:
            for piece in reversed(pieces):
                self._host.use(piece.block)

    # --- the rest

    def flush(self, timeout: float) -> bool:
        """Wait until everything is on disk, at most `timeout` seconds; False if something is not."""
        return self._writer is None or self._writer.flush(timeout)

    def hold(self, held: bool) -> None:
        """Write to disk only what would be lost otherwise, until told that there is time again."""
        if self._writer is not None:
            self._writer.hold(held)

    def close(self) -> None:
        """End the thread that writes; what it has not begun to write is not written (`flush` before). Idempotent."""
        if self._writer:
            self._writer.close()

    def counts(self) -> dict[Tier, TierCounts]:
        """How each tier is doing; only those that there are."""
        with self._lock:
            counts: dict[Tier, TierCounts] = {"host": self._tally.counts(len(self._host), self._host.bytes)}
        if self._disk:
            counts["disk"] = self._disk.counts()
        return counts

    def shrink(self, host_bytes: int) -> None:
        """Hold no more than so many bytes in host memory from now on."""
        with self._lock:
            gone = self._host.shrink(host_bytes)
            self._tally.evicted += len(gone)
            for old in gone:
                self._forget(old.id)

    # --- inner workings

    def _wanted(self, space: str, tokens: Sequence[int], limit: int) -> Tokens | None:
        """The tokens in a form to be looked up; None if nothing is stored in the space, for asking to cost nothing."""
        id = space_id(space)
        return Tokens(id, encode(tokens[: max(0, limit)])) if id in self._spaces else None

    def _keep(self, block: Block, data: Data) -> None:
        """Put a block into host memory. Locked by the caller."""
        self._spaces.setdefault(block.id.space, Index()).add(block)
        gone = self._host.add(block, data)
        kept = block.id in self._host
        self._tally.stored += kept
        self._tally.dropped += not kept
        self._tally.evicted += len(gone) - (not kept)
        for old in gone:
            self._forget(old.id)

    def _forget(self, id: BlockId) -> None:
        """A block that is in neither tier cannot be found. Locked by the caller."""
        index = self._spaces.get(id.space)
        if index is None or id in self._host or id in self._filed:
            return
        index.remove(id)
        if not index.blocks:
            del self._spaces[id.space]

    def _cost(self, block: Block) -> float:
        return (_PIECE + block.bytes) * (1 if block.id in self._host else _DISK)

    def _pieces(self, chain: list[Match], start: int) -> list[Piece]:
        pieces: list[Piece] = []
        for block, end in chain:
            tier: Tier = "host" if block.id in self._host else "disk"
            piece = Piece(block.id, start, end, block.start, block.length, block.bytes, tier, block.whole)
            pieces.append(piece)
            start = end
        return pieces

    def _load(self, id: BlockId, start: int) -> tuple[Data | None, Tier]:
        """The data of a block that begins at `start`, and where they were."""
        data = self._held(id)
        if data is None and self._disk:
            with self._singly.alone(id):  # of several that want the same block, one reads it
                data = self._held(id)
                if data is None:
                    return self._read(id, start), "disk"
        with self._lock:
            self._tally.hits += data is not None
            self._tally.misses += data is None
        if self._writer and data is not None and id in self._filed:
            self._writer.used(id, start)
        return data, "host"

    def _held(self, id: BlockId) -> Data | None:
        with self._lock:
            return self._host.get(id)

    def _read(self, id: BlockId, start: int) -> Data | None:
        """The data of a block on disk, which are in host memory then."""
        assert self._disk
        assert self._writer
        with self._lock:
            self._tally.misses += 1
        found = self._disk.read(id)
        if found is None:
            self._apply(Change(gone=[id]))
            return None
        self._writer.used(id, start)
        with self._lock:
            self._filed.add(id)
            self._keep(*found)
        return found[1]

    def _write(self, block: Block, data: Data, last: bool) -> None:
        assert self._disk
        self._apply(self._disk.write(block, data))
        if last:
            self._apply(self._disk.tidy())

    def _apply(self, change: Change) -> None:
        """Take over what has changed on disk."""
        with self._lock:
            for block in change.added:
                self._filed.add(block.id)
                self._spaces.setdefault(block.id.space, Index()).add(block)
            for id in change.gone:
                self._filed.discard(id)
                self._forget(id)


class _Singly:
    """Lets one thread at a time do what has the same name; the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[Hashable, threading.Event] = {}

    @contextmanager
    def alone(self, name: Hashable) -> Iterator[None]:
        """Inside, no other thread is inside with the same name."""
        mine = threading.Event()
        while (other := self._enter(name, mine)) is not mine:
            other.wait()
        try:
            yield
        finally:
            with self._lock:
                del self._busy[name]
            mine.set()

    def _enter(self, name: Hashable, mine: threading.Event) -> threading.Event:
        with self._lock:
            return self._busy.setdefault(name, mine)
