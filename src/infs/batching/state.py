"""The cache of a model whose state cannot be cut (recurrent, hybrid): whole states, each after a known beginning.

A state is of use only to a sequence that begins with all of its tokens. So states are left behind where sharing is
likely: before the last token of a prompt (the choices of one request, the same prompt again), where two prompts parted
before (a common system prompt), and at the end of an answer (the next turn).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infs.batching.base import Copy, Op, Remove, Save
from infs.batching.prefix import SAVE_AT_LEAST, common_prefix


@dataclass(slots=True, eq=False)
class State:
    """What a seq has seen. `live`: a request runs on it."""

    tokens: list[int]
    space: str
    used: int
    live: bool
    saved: bool = False


class StateCache:
    """Which states there are. The interface is that of `PrefixCache`; cells are counted once for each seq.

    Args:
        seqs: number of sequence ids there are.
        saves: whether states are worth writing down before they go.
    """

    cuttable = False

    def __init__(self, seqs: int, *, saves: bool = False) -> None:
        self.ops: list[Op] = []
        self.evicted = 0
        self.saves = saves
        self._states: dict[int, State] = {}
        self._stops: dict[int, list[int]] = {}
        self._free = list(range(seqs - 1, -1, -1))
        self._clock = 0

    # --- asking

    @property
    def cells(self) -> int:
        """Tokens that all seqs have seen, together."""
        return sum(len(state.tokens) for state in self._states.values())

    def match(self, tokens: Sequence[int], space: str = "") -> int:
        """The length of the longest state that `tokens` begin with."""
        found = self._best(tokens, len(tokens), space)
        return len(self._states[found].tokens) if found is not None else 0

    def unlocked(self, tokens: Sequence[int], space: str = "") -> int:
        """Nothing that can be given up is needed afterwards: a state is copied."""
        return 0

    def depth(self, seq: int) -> int:
        """How much of what `seq` has seen is counted here."""
        return len(self._states[seq].tokens)

    def evictable(self) -> int:
        """Cells of states that nobody runs on."""
        return sum(len(self._states[seq].tokens) for seq in self._kept())

    def has_seq(self) -> bool:
        """Whether `acquire` would find a sequence id."""
        return bool(self._free) or any(True for _ in self._kept())

    def stops(self, seq: int) -> list[int]:
        """Where computing must pause so that a state can be left behind."""
        return self._stops.get(seq, [])

    # --- live sequences

    def acquire(self, tokens: Sequence[int], limit: int, space: str = "") -> tuple[int, int]:
        """A live seq in the longest state that `tokens` begin with, of at most `limit` tokens.

        Raises:
            LookupError: every seq is live.
        """
        self._clock += 1
        source = self._best(tokens, limit, space)
        if not self._free and source is not None and all(seq == source for seq in self._kept()):
            seq = source  # the only one that could go is the one that is wanted: it is used up
            self._states[seq].live = True
        else:
            seq = self._new_seq(source)
            known = list(self._states[source].tokens) if source is not None else []
            if source is not None:
                self._states[source].used = self._clock
                self.ops.append(Copy(source, seq, 0, len(known)))
            self._states[seq] = State(known, space, self._clock, True, bool(known))
        done = self.depth(seq)
        parting = self._parting(seq, tokens, done, limit, space)
        self._stops[seq] = [stop for stop in (parting, len(tokens) - 1) if stop > done]
        return seq, done

    def adopt(self, tokens: Sequence[int], least: int, limit: int, space: str = "") -> tuple[int, int] | None:
        """Never: a state has no parts that could be moved."""
        return None

    def extend(self, seq: int, tokens: Sequence[int], *, saved: bool = False) -> None:
        """Live `seq` has seen all of `tokens`; where others may want to go on from here, a copy is left behind."""
        state = self._states[seq]
        if len(tokens) == len(state.tokens):
            return
        state.tokens, state.saved = list(tokens), saved
        if len(tokens) in self._stops.get(seq, ()) and not saved:
            self._leave_copy(seq)

    def release(self, seq: int) -> None:
        """`seq` is no longer live; its state is kept until its place is wanted."""
        state = self._states[seq]
        state.live = False
        self._stops.pop(seq, None)
        if not state.tokens or self._twin(seq) is not None:
            self._drop(seq)

    # --- room

    def evict(self, cells: int) -> int:
        """Free at least `cells` cells where that is possible, least recently used states first."""
        freed = 0
        while freed < cells and (seq := self._oldest()) is not None:
            freed += len(self._states[seq].tokens)
            self._give_up(seq)
        return freed

    def clear(self) -> None:
        """Forget everything; the decoder's cells must be cleared as well."""
        self.__init__(len(self._free) + len(self._states), saves=self.saves)  # type: ignore[misc]

    def unsaved(self) -> bool:
        """Whether `save` would have anything to do."""
        return self.saves and any(self._worth_saving(seq) for seq in self._kept())

    def save(self, most: int) -> None:
        """Write down one state that is not yet."""
        for seq in sorted(self._kept(), key=lambda seq: -self._states[seq].used):
            if self._worth_saving(seq):
                self._save(seq)
                break

    def held(self, seq: int) -> list[int]:
        """What `seq` has seen."""
        return list(self._states[seq].tokens)

    # --- inner workings

    def _best(self, tokens: Sequence[int], limit: int, space: str) -> int | None:
        """The seq that nobody runs on with the longest state that `tokens` begin with."""
        found, length = None, 0
        for seq in self._kept():
            state = self._states[seq]
            size = len(state.tokens)
            if state.space == space and length < size <= limit and state.tokens == list(tokens[:size]):
                found, length = seq, size
        return found

    def _parting(self, seq: int, tokens: Sequence[int], done: int, limit: int, space: str) -> int:
        """Where `tokens` part from what another seq has seen, behind what is known: others may part there too."""
        others = (s for q, s in self._states.items() if q != seq and s.space == space)
        shared = max((common_prefix(state.tokens, list(tokens[:limit])) for state in others), default=0)
        return shared if shared - done >= SAVE_AT_LEAST else 0

    def _leave_copy(self, seq: int) -> None:
        if self._twin(seq) is not None or not self.has_seq():
            return
        state = self._states[seq]
        copy = self._new_seq(None)
        self.ops.append(Copy(seq, copy, 0, len(state.tokens)))
        self._states[copy] = State(list(state.tokens), state.space, self._clock, False)

    def _twin(self, seq: int) -> int | None:
        """Another seq that nobody runs on in the same state."""
        mine = self._states[seq]
        return next(
            (o for o in self._kept() if o != seq and self._same(self._states[o], mine)),
            None,
        )

    def _same(self, one: State, other: State) -> bool:
        return one.space == other.space and one.tokens == other.tokens

    def _new_seq(self, spare: int | None) -> int:
        """A free seq, for which the oldest kept one but `spare` is given up if need be."""
        if not self._free:
            oldest = min((s for s in self._kept() if s != spare), key=lambda s: self._states[s].used, default=None)
            if oldest is None:
                raise LookupError("every sequence id is in use")
            self._give_up(oldest)
        return self._free.pop()

    def _kept(self) -> Iterator[int]:
        return (seq for seq, state in self._states.items() if not state.live)

    def _oldest(self) -> int | None:
        return min(self._kept(), key=lambda seq: self._states[seq].used, default=None)

    def _worth_saving(self, seq: int) -> bool:
        state = self._states[seq]
        return not state.saved and len(state.tokens) >= SAVE_AT_LEAST

    def _save(self, seq: int) -> None:
        state = self._states[seq]
        self.ops.append(Save(seq, 0, len(state.tokens), list(state.tokens), state.space, whole=True))
        state.saved = True

    def _give_up(self, seq: int) -> None:
        if self.saves and self._worth_saving(seq):
            self._save(seq)
        self.evicted += len(self._states[seq].tokens)
        self._drop(seq)

    def _drop(self, seq: int) -> None:
        del self._states[seq]
        self._stops.pop(seq, None)
        self.ops.append(Remove(seq, 0))
        self._free.append(seq)

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant does not hold. Changes nothing."""
        assert not set(self._free) & set(self._states), "no seq is both free and in use"
        assert len(self._free) == len(set(self._free)), "no seq is free twice"
        assert set(self._stops) <= {seq for seq, state in self._states.items() if state.live}
        kept = [(state.space, tuple(state.tokens)) for state in self._states.values() if not state.live]
        assert len(kept) == len(set(kept)), "no state is kept twice"
        assert all(tokens for _, tokens in kept), "no state of nothing is kept"
