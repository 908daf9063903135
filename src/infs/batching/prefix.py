"""A radix cache over token sequences whose key-value cells live in one unified cache.

There is one tree for each `space`: what must not be shared (other adapters, other tenants) has another one.

A node stands for a run of cells. A sequence id ("seq") is attached to the node where its cached tokens end; it
owns the cells of that node and of all nodes above, so that a shared beginning is held once, whoever shares it.
Seqs are *live* (a request is running on them) or *kept* (only there to hold cells for later). Nothing is computed
or copied here: what has to happen in the decoder's cache is written to `ops`, to be applied in order.

Invariants, verified by `check_integrity`:

- every leaf has a seq attached, so no cell is in the tree that nobody holds;
- a kept seq is attached to a leaf, and alone there: an inner node is held by the seqs below it;
- `cells` is the sum of all nodes, since a token at a place in the tree has exactly one cell.

Where it is told to (`saves`), cells are written down before they are given up. A node knows how many of its first
tokens are written down already (`saved`).

Blocks of tokens (`blocks`) are never cut: whoever asks may not end in one, and then no node ends in one either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infs.batching.base import Copy, Op, Remove, Save, Shift
from infs.batching.blocks import whole

SAVE_AT_LEAST = 16  # tokens for which writing them down can pay


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading tokens that `a` and `b` share."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:  # a[:low] == b[:low] always; slices compare at the speed of C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Node:
    """A run of tokens after those of `parent`; it ends at position `end`. `live` counts live seqs here and below."""

    __slots__ = ("children", "end", "live", "parent", "saved", "seqs", "tokens", "used")

    def __init__(self, parent: Node | None, tokens: list[int], end: int, used: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.end = end
        self.used = used
        self.children: dict[int, Node] = {}
        self.seqs: set[int] = set()
        self.live = 0
        self.saved = 0

    @property
    def start(self) -> int:
        """The position of the first token."""
        return self.end - len(self.tokens)


@dataclass(frozen=True, slots=True)
class Run:
    """Cells at ``[start, start + count)`` of a kept seq, which have to be at `target` for somebody else."""

    start: int
    target: int
    count: int


class PrefixCache:
    """Which tokens are in the cells, and who holds them.

    Args:
        seqs: number of sequence ids there are.
        saves: whether cells are worth writing down before they go.
    """

    cuttable = True

    def __init__(self, seqs: int, *, saves: bool = False) -> None:
        self.ops: list[Op] = []
        self.cells = 0
        self.evicted = 0
        self.saves = saves
        self._roots: dict[str, Node] = {}
        self._spaces: dict[int, str] = {}
        self._at: dict[int, Node] = {}
        self._live: set[int] = set()
        self._free = list(range(seqs - 1, -1, -1))
        self._clock = 0

    # --- asking: none of these changes anything

    def match(self, tokens: Sequence[int], space: str = "") -> int:
        """The number of leading tokens of `tokens` that are in the cells."""
        node, inside = self._find(tokens, len(tokens), space)
        return node.end if inside is None else node.end + inside[1]

    def unlocked(self, tokens: Sequence[int], space: str = "") -> int:
        """How many of those that `match` counts are evictable now, and would not be once they are shared."""
        node, inside = self._find(tokens, len(tokens), space)
        count = inside[1] if inside is not None and not inside[0].live else 0
        while node.parent is not None and not node.live:
            count += len(node.tokens)
            node = node.parent
        return count

    def depth(self, seq: int) -> int:
        """The number of tokens that `seq` holds in the tree."""
        return self._at[seq].end

    def evictable(self) -> int:
        """Cells that `evict` could free."""
        return sum(len(node.tokens) for node in self._nodes() if not node.live)

    def stops(self, seq: int) -> list[int]:
        """Where computing must pause so that others can share: nowhere, since a sequence can be cut anywhere."""
        return []

    def has_seq(self) -> bool:
        """Whether `acquire` would find a sequence id."""
        return bool(self._free) or any(True for _ in self._candidates())

    # --- live sequences

    def acquire(self, tokens: Sequence[int], limit: int, space: str = "") -> tuple[int, int]:
        """A live seq that holds the longest known beginning of `tokens`, at most `limit` of them.

        Returns:
            The seq, and how many tokens it holds. It is the one that was kept there, a free one, or the least
            recently used kept one.

        Raises:
            LookupError: every seq is live.
        """
        node, inside = self._find(tokens, limit, space)
        if inside is not None:
            node = self._split(*inside)
        self._lock(node, 1)  # what is about to be shared must not be evicted for its sharing
        seq = self._kept_at(node)
        if seq is None and not self._free:
            self._sacrifice()
            seq = self._kept_at(node)  # the one that was given up may have ended just here
        if seq is None:
            if not self._free:
                self._lock(node, -1)
                raise LookupError("every sequence id is in use")
            seq = self._free.pop()
            if node.end:
                self.ops.append(Copy(self._holder(node), seq, 0, node.end))
        self._attach(seq, node, space)
        return seq, node.end

    def _attach(self, seq: int, node: Node, space: str) -> None:
        """`seq` is live at `node`, which is locked for it."""
        node.seqs.add(seq)
        self._at[seq] = node
        self._spaces[seq] = space
        self._live.add(seq)
        self._roots.setdefault(space, _root_of(node))
        self._touch(node)

    def extend(self, seq: int, tokens: Sequence[int], *, saved: bool = False) -> None:
        """Live `seq` has all of `tokens` (from position 0) in its cells: the new ones become part of the tree.

        Where the tree has the same tokens in other cells already, `seq` shares those and its own are freed.
        `saved`: what is new is written down already.
        """
        node = self._at[seq]
        done = node.end
        while done < len(tokens):
            child = node.children.get(tokens[done])
            if child is None:
                node = self._grow(node, seq, list(tokens[done:]), saved)
                break
            shared = common_prefix(child.tokens, list(tokens[done : done + len(child.tokens)]))
            node = child if shared == len(child.tokens) else self._split(child, shared)
            self.ops.append(Remove(seq, done, node.end))
            self.ops.append(Copy(self._holder(node), seq, done, node.end))
            done = node.end
        self._move(seq, node)
        self._touch(node)

    def release(self, seq: int) -> None:
        """`seq` is no longer live; what it holds in the tree is kept until its cells are wanted.

        Cells that it has beyond the tree must have been removed or given to `extend` before.
        """
        node = self._at[seq]
        self._lock(node, -1)
        self._live.remove(seq)
        if not node.end or node.children or len(node.seqs) > 1:
            self._drop(seq)

    def adopt(self, tokens: Sequence[int], least: int, limit: int, space: str = "") -> tuple[int, int] | None:
        """A kept seq whose later cells, moved to the front, hold more of `tokens` than any beginning does.

        That is what a conversation looks like whose oldest messages were dropped. Only cells that nobody else holds
        are moved, in runs of `least` tokens at least.

        Returns:
            The seq, live, and how many of the first tokens it holds (`depth` of them in the tree); ``None`` when
            there is none.
        """
        best: tuple[int, int, int, list[Run]] | None = None
        known = min(self.match(tokens, space), limit)
        for seq in [seq for seq in self._candidates() if self._spaces[seq] == space]:
            held = self.held(seq)
            own = min(common_prefix(held, tokens), limit)
            runs = survivors(held, tokens, own, self._own_from(seq), least, limit)
            gained = own + sum(run.count for run in runs)
            if runs and gained >= known + least and (best is None or gained > best[0]):
                best = gained, seq, own, runs
        if best is None:
            return None
        gained, seq, own, runs = best
        self._move_runs(seq, own, runs)
        return seq, gained

    # --- room

    def evict(self, cells: int) -> int:
        """Free `cells` cells, or more to cut no block, least recently used first, from the ends of kept sequences.

        Returns:
            How many were freed: fewer only when nothing is left that could be.
        """
        freed = 0
        while freed < cells:
            seq = self._oldest()
            if seq is None:
                break
            freed += self._trim(seq, cells - freed)
        return freed

    def clear(self) -> None:
        """Forget everything; the decoder's cells must be cleared as well."""
        self.__init__(len(self._free) + len(self._at), saves=self.saves)  # type: ignore[misc]

    def unsaved(self) -> bool:
        """Whether `save` would have anything to do."""
        return self.saves and any(len(node.tokens) - node.saved >= SAVE_AT_LEAST for node in self._nodes())

    def save(self, most: int) -> None:
        """Write down what is not yet, about `most` tokens of it, the most recently used first."""
        waiting = [node for node in self._nodes() if len(node.tokens) - node.saved >= SAVE_AT_LEAST]
        for node in sorted(waiting, key=lambda node: -node.used):
            most -= len(node.tokens) - node.saved
            self._save(node)
            if most <= 0:
                break

    # --- inner workings

    def _find(self, tokens: Sequence[int], limit: int, space: str) -> tuple[Node, tuple[Node, int] | None]:
        """The deepest node that `tokens` reach, and the child that they reach into, with how far."""
        node = self._roots.get(space) or Node(None, [], 0, 0)
        while node.end < limit:
            child = node.children.get(tokens[node.end])
            if child is None:
                break
            end = min(limit, child.end)
            shared = common_prefix(child.tokens, list(tokens[node.end : end]))
            if shared < len(child.tokens):
                return node, (child, shared)
            node = child
        return node, None

    def _split(self, node: Node, at: int) -> Node:
        """Cut `node` in two after `at` tokens; the upper half is new, seqs stay attached to the lower."""
        parent = node.parent
        assert parent is not None
        upper = Node(parent, node.tokens[:at], node.start + at, node.used)
        upper.live = node.live
        upper.saved, node.saved = min(node.saved, at), max(0, node.saved - at)
        parent.children[upper.tokens[0]] = upper
        node.tokens = node.tokens[at:]
        node.parent = upper
        upper.children[node.tokens[0]] = node
        return upper

    def _grow(self, node: Node, seq: int, tokens: list[int], saved: bool) -> Node:
        """Add `tokens` behind `node`: to the node itself where only `seq` is there, else as a child."""
        self.cells += len(tokens)
        whole = node.saved == len(node.tokens)
        if node.end and not node.children and node.seqs == {seq} and (whole or not saved):
            node.tokens += tokens
            node.end += len(tokens)
            node.saved += len(tokens) if saved else 0
            return node
        child = Node(node, tokens, node.end + len(tokens), self._clock)
        child.saved = len(tokens) if saved else 0
        node.children[tokens[0]] = child
        return child

    def _move(self, seq: int, node: Node) -> None:
        """Attach live `seq` to `node`, further down; kept seqs that `node` makes superfluous go."""
        before = self._at[seq]
        if node is before:
            return
        before.seqs.remove(seq)
        self._lock(before, -1)
        node.seqs.add(seq)
        self._lock(node, 1)
        self._at[seq] = node
        above: Node | None = node
        while above is not None and above is not before.parent:
            self._drop_kept(above)
            above = above.parent

    def _drop_kept(self, node: Node) -> None:
        """The kept seqs at `node` hold nothing that a live one below or beside them does not hold too."""
        for seq in [seq for seq in node.seqs if seq not in self._live]:
            self._drop(seq)

    def _lock(self, node: Node | None, step: int) -> None:
        while node is not None:
            node.live += step
            node = node.parent

    def _touch(self, node: Node | None) -> None:
        self._clock += 1
        while node is not None:
            node.used = self._clock
            node = node.parent

    def _holder(self, node: Node) -> int:
        """Any seq that holds the cells of `node`."""
        while not node.seqs:
            node = next(iter(node.children.values()))
        return next(iter(node.seqs))

    def _kept_at(self, node: Node) -> int | None:
        return next((seq for seq in node.seqs if seq not in self._live), None)

    def _candidates(self) -> Iterator[int]:
        return (seq for seq, node in self._at.items() if not node.live)

    def _oldest(self) -> int | None:
        return min(self._candidates(), key=lambda seq: self._at[seq].used, default=None)

    def _sacrifice(self) -> None:
        """Give up the least recently used kept seq, with all cells that only it holds and nobody locked."""
        seq = self._oldest()
        while seq is not None and seq in self._at and not self._at[seq].live:
            self._trim(seq, self._at[seq].end)

    def _trim(self, seq: int, cells: int) -> int:
        """Free `cells` cells at the end of kept `seq`, or more to cut no block, at most those of its own leaf."""
        node = self._at[seq]
        size = len(node.tokens)
        count = size - whole(node.tokens, max(0, size - cells))
        if len(node.tokens) - node.saved >= SAVE_AT_LEAST:
            self._save(node)
        self.cells -= count
        self.evicted += count
        if count < len(node.tokens):
            del node.tokens[-count:]
            node.end -= count
            node.saved = min(node.saved, len(node.tokens))
            self.ops.append(Remove(seq, node.end))
            return count
        parent = node.parent
        assert parent is not None
        del parent.children[node.tokens[0]]
        if not parent.end or parent.children or parent.seqs:
            self._drop(seq)
        else:
            parent.seqs.add(seq)
            self._at[seq] = parent
            self.ops.append(Remove(seq, parent.end))
        return count

    def _drop(self, seq: int) -> None:
        """Take `seq` out of the tree and give its id back."""
        node = self._at.pop(seq)
        node.seqs.discard(seq)
        self.ops.append(Remove(seq, 0))
        self._free.append(seq)
        space = self._spaces.pop(seq)
        root = self._roots[space]
        if not root.children and not root.seqs:
            del self._roots[space]

    def _save(self, node: Node) -> None:
        if self.saves:
            seq = self._holder(node)
            tokens = _path(node)
            self.ops.append(Save(seq, _unsaved_from(node), node.end, tokens, self._spaces[seq]))
            node.saved = len(node.tokens)

    # --- moving what is left of a shortened conversation

    def _own_from(self, seq: int) -> int:
        """The position from which the cells of kept `seq` are only its own."""
        node = self._at[seq]
        while node.parent is not None and len(node.children) + len(node.seqs) == 1:
            node = node.parent
        return node.end

    def _move_runs(self, seq: int, own: int, runs: list[Run]) -> None:
        """Make kept `seq` live at its first `own` tokens, with `runs` behind them, and forget all else it has."""
        node, inside = self._find(self.held(seq), own, self._spaces[seq])
        if inside is not None:
            node = self._split(*inside)
        self._lock(node, 1)
        self._cut_branch(seq, node)
        for other in [other for other in node.seqs if other not in self._live]:
            self._drop(other)
        self._attach(seq, node, self._spaces[seq])
        at = own
        for run in runs:
            self.ops.append(Remove(seq, at, run.start))
            self.ops.append(Shift(seq, run.start, run.start + run.count, run.target - run.start))
            at = run.start + run.count
        self.ops.append(Remove(seq, at))

    def _cut_branch(self, seq: int, above: Node) -> None:
        """Take kept `seq` from its leaf, and out of the tree what only it held below `above`."""
        node: Node = self._at[seq]
        node.seqs.remove(seq)
        while node is not above and not node.children and not node.seqs:
            parent = node.parent
            assert parent is not None
            self.cells -= len(node.tokens)
            del parent.children[node.tokens[0]]
            node = parent

    def _nodes(self) -> Iterator[Node]:
        todo = [child for root in self._roots.values() for child in root.children.values()]
        while todo:
            node = todo.pop()
            todo += node.children.values()
            yield node

    # --- for tests and for idle moments

    def held(self, seq: int) -> list[int]:
        """The tokens that `seq` holds in the tree."""
        return _path(self._at[seq])

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant does not hold. Changes nothing."""
        nodes = list(self._nodes())
        assert self.cells == sum(len(node.tokens) for node in nodes), "cells are the tokens in the tree"
        for node in nodes:
            parent = node.parent
            assert parent is not None
            assert node.tokens, "no empty nodes"
            assert parent.children[node.tokens[0]] is node, "a child stands under its first token"
            assert node.start == parent.end, "positions follow on"
            assert node.children or node.seqs, "every leaf is held"
            kept = node.seqs - self._live
            assert not kept or (not node.children and len(node.seqs) == 1), "a kept seq is alone on a leaf"
        roots = list(self._roots.values())
        for node in [*roots, *nodes]:
            below = sum(child.live for child in node.children.values())
            assert node.live == below + len(node.seqs & self._live), "live counts add up"
        assert all(root.children or root.seqs for root in roots), "no tree is empty"
        assert all(0 <= node.saved <= len(node.tokens) for node in nodes), "what is written down is in the node"
        attached = [seq for node in [*roots, *nodes] for seq in node.seqs]
        assert sorted(attached) == sorted(self._at), "every seq is attached once"
        assert all(seq in node.seqs for seq, node in self._at.items()), "seqs know their node"
        assert not set(self._free) & set(self._at), "no seq is both free and in use"
        assert self._live <= set(self._at), "live seqs are attached"
        assert set(self._spaces) == set(self._at), "attached seqs have a space"
        assert all(_root_of(node) is self._roots[self._spaces[seq]] for seq, node in self._at.items()), (
            "spaces are right"
        )


def _root_of(node: Node) -> Node:
    while node.parent is not None:
        node = node.parent
    return node


def _unsaved_from(node: Node) -> int:
    """Where to begin when `node` is written down: with it go those above that are too short to be so on their own.

    Without them there would be a gap before it, and nobody could go on from there.
    """
    while (
        node.parent is not None and not node.saved and 0 < len(node.parent.tokens) - node.parent.saved < SAVE_AT_LEAST
    ):
        node = node.parent
    return node.start + node.saved


def _path(node: Node | None) -> list[int]:
    """The tokens from the root to the end of `node`."""
    parts: list[list[int]] = []
    while node is not None:
        parts.append(node.tokens)
        node = node.parent
    return [token for part in reversed(parts) for token in part]


def survivors(held: Sequence[int], tokens: Sequence[int], own: int, first: int, least: int, limit: int) -> list[Run]:
    """The runs of at least `least` tokens in `held`, from place `first`, that follow on in `tokens` from `own`.

    They are found in their order in `held`; each goes on where the one before ended. At most `limit` tokens are wanted.
    """
    runs: list[Run] = []
    place, target = max(first, own), own
    while target + least <= limit:
        place = _find_run(held, tokens, place, target, least, limit)
        if place < 0:
            break
        count = common_prefix(list(held[place:]), list(tokens[target:limit]))
        runs.append(Run(place, target, count))
        place, target = place + count, target + count
    return runs


def _find_run(held: Sequence[int], tokens: Sequence[int], place: int, target: int, least: int, limit: int) -> int:
    """The first place in `held`, from `place`, of the `least` tokens at `target`; -1 if there is none."""
    wanted = list(tokens[target : target + least])
    while True:
        try:
            place = held.index(wanted[0], place)
        except ValueError:
            return -1
        if list(held[place : place + least]) == wanted:
            return place
        place += 1
