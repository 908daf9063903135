"""The data of blocks in host memory, the least recently used first to go. Pure, and locked by who owns it."""

from __future__ import annotations

from collections import OrderedDict

from infs.batching.tiers.blocks import Block, BlockId, Data


class HostCache:
    """Data of blocks, never more than `limit` bytes of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[BlockId, tuple[Block, Data]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, id: BlockId) -> bool:
        return id in self._held

    def add(self, block: Block, data: Data) -> list[Block]:
        """Hold `data`, as the most recently used; returns what had to go, which may be `block` itself."""
        self.remove(block.id)
        if len(data) > self.limit:
            return [block]
        gone = self._drop(self.limit - len(data))
        self._held[block.id] = block, data
        self.bytes += len(data)
        return gone

    def shrink(self, limit: int) -> list[Block]:
        """Hold no more than `limit` bytes from now on; returns what had to go."""
        self.limit = limit
        return self._drop(limit)

    def _drop(self, most: int) -> list[Block]:
        """Let go of the least recently used until there are `most` bytes."""
        gone: list[Block] = []
        while self.bytes > most:
            _, (oldest, old) = self._held.popitem(last=False)
            self.bytes -= len(old)
            gone.append(oldest)
        return gone

    def get(self, id: BlockId) -> Data | None:
        """The data of a block. It does not count as used: a lookup does, which knows the order of its chain."""
        held = self._held.get(id)
        return held[1] if held else None

    def use(self, id: BlockId) -> None:
        """A block, if it is held, is the most recently used now."""
        if id in self._held:
            self._held.move_to_end(id)

    def remove(self, id: BlockId) -> None:
        """Let go of a block, if it is held."""
        held = self._held.pop(id, None)
        if held:
            self.bytes -= len(held[1])
