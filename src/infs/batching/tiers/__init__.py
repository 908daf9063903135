"""Where the context of conversations goes when its cells are needed by others: host memory, then the disk.

A *block* is the serialised state of a run of cells: tokens ``[start, end)`` behind a known beginning. It is addressed
by content, that is by its space (what must be equal for a state to be of use: the model, its settings, the tenant), by
all tokens before it and by its own. Blocks begin and end anywhere and may overlap; `Tiers.find` chains them.

Unlike the rest of `infs.batching`, this package reads and writes files, on threads that are not the loop's.
"""

from infs.batching.tiers.blocks import Block, BlockId, Data, Piece, Tier
from infs.batching.tiers.costs import Costs
from infs.batching.tiers.counts import TierCounts
from infs.batching.tiers.disk import DiskCache
from infs.batching.tiers.tiers import Tiers

__all__ = ["Block", "BlockId", "Costs", "Data", "DiskCache", "Piece", "Tier", "TierCounts", "Tiers"]
