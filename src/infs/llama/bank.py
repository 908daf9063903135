"""The context of low-level sequences: cells and sequence ids that have nothing to do with the batching loop's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infs.batching.base import Chunk, Copy, Remove
from infs.engines.llama_cpp.adapters import LoraKey
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.sampling import Sampler, Sampling
from infs.errors import CapacityError, GenerationFailed, InvalidRequest, Unsupported
from infs.llama.cells import Cells
from infs.llama.gate import closed
from infs.llama.picking import pick
from infs.llama.processors import check_scores
from infs.llama.saved import Header, pack, unpack

Scores = NDArray[np.float32]


@dataclass(eq=False, slots=True)
class Content:
    """What a sequence holds: `tokens`, of which the first `computed` have `cells`, and the `scores` that follow these.

    `id` is ``None`` once it was deleted. `key`: the adapters that it is computed with.
    """

    id: int | None
    key: LoraKey
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    cells: list[int] = field(default_factory=list)
    scores: Scores | None = None
    sampler: Sampler | None = None
    sampling: Sampling | None = None

    def forget_sampler(self) -> None:
        """Its tokens are others now than those that the sampler was told of."""
        self.sampler = self.sampling = None


class SequenceBank:
    """Sequences in a context of their own. Thread-safe: one thing at a time.

    Args:
        decoder: freed by `close`.
        identity: what must be equal for saved sequences to be of use.

    Attributes:
        lock: held while the context is used.
    """

    def __init__(self, decoder: LlamaDecoder, identity: Callable[[], str]) -> None:
        self.lock = threading.RLock()
        self.decoder = decoder
        self.closed = False
        self._model = decoder.model
        self._identity = identity
        self._free = list(range(decoder.sequences))[::-1]
        self._dropped: deque[Content] = deque()
        self.cells = Cells(decoder.cells if decoder.model.has_cache else None)

    def close(self) -> None:
        """Free the context; its sequences are of no use any more."""
        with self.lock:
            self.closed = True
            self.decoder.close()

    # --- sequences come and go

    def new(self, key: LoraKey) -> Content:
        """An empty sequence."""
        with self.lock:
            self._check()
            return Content(self._take_id(), key)

    def fork(self, source: Content) -> Content:
        """A sequence with the same content, in the same cells."""
        with self.lock:
            self._check(source)
            id = self._take_id()
            if source.computed:
                self.decoder.apply([Copy(_id(source), id, 0, source.computed)])
            self.cells.share(source.cells)
            same = replace(source, id=id, tokens=list(source.tokens), cells=list(source.cells))
            same.forget_sampler()
            return same

    def delete(self, content: Content) -> None:
        """Give everything back; a second time does nothing."""
        with self.lock:
            if content.id is None or self.closed:
                content.id = None
                return
            self._cut(content, 0)
            self._free.append(content.id)
            content.id = None

    def drop(self, content: Content) -> None:
        """Delete a sequence that nobody has any more, as soon as that can be. May be called at any moment."""
        self._dropped.append(content)

    def trim(self, content: Content, length: int) -> None:
        """Forget all tokens but the first `length`."""
        with self.lock:
            self._check(content)
            if not 0 <= length <= len(content.tokens):
                raise InvalidRequest(
                    f"length is {length}, and the sequence has {len(content.tokens)} tokens.", param="length"
                )
            if 0 < length < content.computed and not self._model.cuttable:
                raise Unsupported(
                    f"The state of a {self._model.architecture} model cannot be cut: trim to 0, or save or fork the "
                    "sequence where you want to come back to.",
                    param="length",
                )
            if length < len(content.tokens):
                self._cut(content, length)

    def _take_id(self) -> int:
        if not self._free:
            raise CapacityError(
                f"All {self.decoder.sequences} low-level sequences are in use. Delete some, or load the model with "
                "more low_sequences."
            )
        return self._free.pop()

    def _cut(self, content: Content, length: int) -> None:
        """Keep `length` tokens, of a sequence that can be cut there."""
        if length < content.computed:
            # Here no end is no limit, for models that can only be emptied too.
            self.decoder.apply([Remove(_id(content), length)])
            self.cells.give(content.cells[length:])
            del content.cells[length:]
            content.computed, content.scores = length, None
        del content.tokens[length:]
        content.forget_sampler()

    def id(self, content: Content) -> int:
        """llama.cpp's number of it."""
        with self.lock:
            self._check(content)
            return int(_id(content))

    def _check(self, *contents: Content) -> None:
        """Raise unless all can be used; and do what was put off."""
        if self.closed:
            raise closed()
        while self._dropped:
            self.delete(self._dropped.popleft())
        if any(content.id is None for content in contents):
            raise InvalidRequest("The sequence was deleted.")

    # --- computing

    def eval(self, wanted: Sequence[tuple[Content, list[int]]]) -> None:
        """Add tokens to sequences and compute all that is not yet; all or nothing of it.

        Raises:
            CapacityError: there are not enough cells.
            InvalidRequest: a sequence is named twice, or has nothing to compute; a token is not there.
        """
        with self.lock:
            self._check(*(content for content, _ in wanted))
            if len({id(content) for content, _ in wanted}) < len(wanted):
                raise InvalidRequest("A sequence can be computed once at a time.")
            for content, new in wanted:
                self._model.check_tokens(new, "tokens")
                if not content.tokens and not new:
                    raise InvalidRequest("An empty sequence has nothing to compute.", param="tokens")
            todo = [(content, [*content.tokens[content.computed :], *new]) for content, new in wanted]
            self.cells.check(sum(len(tokens) for _, tokens in todo))
            scores = self._compute_all([(content, tokens) for content, tokens in todo if tokens])
            for content, new in wanted:
                self._append(content, new)
                content.cells += self.cells.take(len(content.tokens) - content.computed)
                content.computed = len(content.tokens)
                content.scores = scores.get(content.id, content.scores)

    def accept(self, content: Content, token: int) -> None:
        """Add a token, to be computed later."""
        with self.lock:
            self._check(content)
            self._model.check_tokens([token], "token")
            self._append(content, [token])

    def _append(self, content: Content, tokens: list[int]) -> None:
        content.tokens += tokens
        if content.sampler is not None:
            content.sampler.note(tokens)

    def _compute_all(self, todo: list[tuple[Content, list[int]]]) -> dict[int | None, Scores]:
        """The scores behind what is to be computed, by sequence ids; where that fails nothing was computed."""
        scores: dict[int | None, Scores] = {}
        try:
            for key in dict.fromkeys(content.key for content, _ in todo):
                self.decoder.select(key)
                for batch in self._batches([(c, tokens) for c, tokens in todo if c.key == key]):
                    rows = self.decoder.decode(batch)
                    scores |= {
                        chunk.seq: self.decoder.scores(row).copy()
                        for chunk, row in zip(batch, rows, strict=True)
                        if chunk.logits
                    }
        except BaseException:
            self._undo([content for content, _ in todo])
            raise
        return scores

    def _batches(self, todo: list[tuple[Content, list[int]]]) -> list[list[Chunk]]:
        """Everything in steps that the decoder can do; the last token of each sequence has scores."""
        batches: list[list[Chunk]] = []
        room = 0
        for content, tokens in todo:
            at = 0
            while at < len(tokens):
                if not room:
                    batches.append([])
                    room = self.decoder.batch
                part = tokens[at : at + room]
                last = at + len(part) == len(tokens)
                batches[-1].append(Chunk(_id(content), content.computed + at, part, int(last)))
                at, room = at + len(part), room - len(part)
        return batches

    def _undo(self, contents: list[Content]) -> None:
        """Forget what a computation that failed has left; a state that cannot be cut is computed anew."""
        for content in contents:
            keep = content.computed if self._model.cuttable else 0
            self.decoder.apply([Remove(_id(content), keep)])
            self.cells.give(content.cells[keep:])
            del content.cells[keep:]
            if keep < content.computed:
                content.computed, content.scores = keep, None

    # --- scores

    def scores(self, content: Content) -> Scores:
        """The scores of what comes next, shape (vocabulary,); not to be changed."""
        with self.lock:
            self._check(content)
            if content.scores is None or content.computed < len(content.tokens):
                raise InvalidRequest("There are no scores behind the last token, which was not computed; see eval.")
            return content.scores

    def sample(self, content: Content, sampling: Sampling, scores: Scores | None) -> int:
        """A token chosen by `scores`, or by those of the sequence."""
        with self.lock:
            self._check(content)
            if scores is None:
                scores = self.scores(content)
            check_scores(scores, "scores")
            if content.sampler is None or content.sampling != sampling:
                content.sampler = Sampler(self._model, sampling, context=self.decoder.cells)
                content.sampler.note(content.tokens)
                content.sampling = sampling
            return pick(content.sampler, scores)

    # --- saved

    def save(self, content: Content) -> bytes:
        """All of it, for `load`."""
        with self.lock:
            self._check(content)
            state = self.decoder.save(_id(content), 0, content.computed) if content.computed else b""
            if content.computed and not state:
                raise GenerationFailed("llama.cpp could not save the sequence.")
            scores = content.scores.astype("<f4").tobytes() if content.scores is not None else b""
            header = Header(
                identity=self._identity(),
                tokens=content.tokens,
                computed=content.computed,
                lora=list(content.key),
                scores=len(scores),
            )
            return pack(header, scores, state)

    def load(self, content: Content, data: bytes) -> None:
        """Replace the content by what `save` made."""
        with self.lock:
            self._check(content)
            header, scores, state = unpack(data, self._identity())
            self._model.check_tokens(header.tokens, "data")
            self.cells.check(header.computed, self.cells.held_once(content.cells))
            self._cut(content, 0)
            if header.computed and not self.decoder.restore(_id(content), state, 0, header.computed):
                raise GenerationFailed("llama.cpp could not load the sequence, which is empty now.")
            content.tokens, content.key = list(header.tokens), tuple((name, scale) for name, scale in header.lora)
            content.cells, content.computed = self.cells.take(header.computed), header.computed
            content.scores = np.frombuffer(scores, "<f4").astype(np.float32) if scores else None


def _id(content: Content) -> Any:
    """The id of a sequence that was not deleted."""
    return content.id
