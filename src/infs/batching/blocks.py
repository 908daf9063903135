"""Blocks of tokens that belong together: stand-ins for an image or for audio, which are computed and cached whole.

Stand-ins are below zero, and within a block each is one less than the one before. So the tokens alone say where they
may be cut, wherever they are: in a prompt, in a queue or in the tree of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence


def whole(tokens: Sequence[int], count: int) -> int:
    """The largest number of tokens up to `count` that cuts no block in two."""
    while 0 < count < len(tokens) and tokens[count] < 0 and tokens[count] == tokens[count - 1] - 1:
        count -= 1
    return count


def block_end(tokens: Sequence[int], start: int) -> int:
    """Where the block that begins at `start` ends; ``start + 1`` for a plain token."""
    end = start + 1
    while end < len(tokens) and tokens[end] < 0 and tokens[end] == tokens[end - 1] - 1:
        end += 1
    return end
