"""Low-level sequences: tokens in, scores out, and a cache that is the caller's to arrange."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from infs.engines.llama_cpp.sampling import Sampling
from infs.errors import InvalidRequest
from infs.llama.bank import Content, SequenceBank
from infs.llama.settings import tokens_of


class LowSequence:
    """A sequence of tokens in the cache of a model. Made by `Llama.new_sequence`; may be used by any thread.

    All low-level sequences of a model share one context, apart from that of the batching loop: what is done here
    disturbs no request. One operation runs at a time, the others wait. As a context manager it is deleted at the end
    of the block; one that nobody refers to any more is deleted too.

    Every method raises `InvalidRequest` for a sequence that was deleted, and `ServerClosed` for one whose model was
    closed.

    Example:
        ```python
        with llm.new_sequence() as sequence:
            sequence.eval(llm.tokenize("Once upon a time"))
            for _ in range(20):
                sequence.accept(sequence.sample(temperature=0.0))
                sequence.eval()
            print(llm.detokenize(sequence.tokens))
        ```
    """

    def __init__(self, bank: SequenceBank, content: Content, sampling: Callable[..., Sampling]) -> None:
        self._bank = bank
        self._content = content
        self._sampling = sampling
        weakref.finalize(self, bank.drop, content).atexit = False

    @property
    def tokens(self) -> list[int]:
        """All tokens, those that were accepted and not yet computed included; a copy."""
        return list(self._content.tokens)

    def __len__(self) -> int:
        return len(self._content.tokens)

    @property
    def computed(self) -> int:
        """How many of the tokens are in the cache."""
        return self._content.computed

    @property
    def id(self) -> int:
        """llama.cpp's number of this sequence in `Llama.context_pointer`.

        Raises:
            InvalidRequest: the sequence was deleted.
        """
        return self._bank.id(self._content)

    # --- computing

    def eval(self, tokens: Iterable[int] = ()) -> None:
        """Add `tokens`, and compute all that is not computed yet. `Llama.eval` does this for several sequences at once.

        Raises:
            CapacityError: there are not enough cells for them; nothing has changed.
            InvalidRequest: a token is not one of the model's, or there is nothing to compute.
            GenerationFailed: llama.cpp could not compute them; the tokens were not added.
        """
        self._bank.eval([(self._content, tokens_of(tokens, "tokens"))])

    def accept(self, token: int) -> None:
        """Add a token, which the next `eval` computes: so that many sequences can be computed at once.

        Raises:
            InvalidRequest: the model has no such token.
        """
        self._bank.accept(self._content, tokens_of([token], "token")[0])

    def logits(self) -> NDArray[np.float32]:
        """The model's scores for the next token, as it computed them; shape (vocabulary,).

        A copy, which the caller may change, and give to `sample`.

        Raises:
            InvalidRequest: the last token was not computed.
        """
        return self._bank.scores(self._content).copy()

    def sample(self, *, scores: ArrayLike | None = None, **settings: Any) -> int:
        """A token chosen by the scores of the sequence, which stays as it is; `accept` adds the token.

        The settings are the sampling settings of `infs.types.GenerationRequest` (`temperature`, `top_k`, `seed`, the
        penalties, ...); what is not given comes from the model's `defaults`, then from llama.cpp. As long as they
        stay the same the random numbers of a `seed` go on from call to call; with others, and after `trim` and `load`,
        they begin anew.

        Args:
            scores: others to choose by, shape (vocabulary,).

        Raises:
            InvalidRequest: a setting is wrong, the last token was not computed, or nothing can be chosen by the scores.
        """
        sampling = self._sampling(**settings)
        return self._bank.sample(self._content, sampling, None if scores is None else self._scores(scores))

    def _scores(self, scores: ArrayLike) -> NDArray[np.float32]:
        size = self._bank.decoder.model.size
        try:
            found = np.asarray(scores, np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"scores must be numbers: {error}", param="scores") from error
        if found.shape != (size,):
            raise InvalidRequest(f"scores has the shape {found.shape}, and must have ({size},).", param="scores")
        return found

    # --- the cache

    def fork(self) -> LowSequence:
        """Another sequence with the same tokens, in the same cells: nothing is computed or copied in the cache.

        Raises:
            CapacityError: all sequences are in use.
        """
        return LowSequence(self._bank, self._bank.fork(self._content), self._sampling)

    def trim(self, length: int) -> None:
        """Forget all tokens but the first `length`. There are no scores then before the next `eval`.

        Raises:
            InvalidRequest: the sequence is not as long.
            Unsupported: the model is recurrent, so that its state cannot be cut; only to 0 it can.
        """
        self._bank.trim(self._content, tokens_of([length], "length")[0])

    def delete(self) -> None:
        """Give its cells and its place back. A second time does nothing."""
        self._bank.delete(self._content)

    def __enter__(self) -> LowSequence:
        return self

    def __exit__(self, *exception: object) -> None:
        self.delete()

    # --- saved

    def save(self) -> bytes:
        """The tokens, their part of the cache and the scores, for `load` and `Llama.load_sequence`.

        It is of use for the same model file with the same settings and the same llama.cpp, also in another process.
        Damage is found when it is loaded; whoever wants to can forge it, so load only what you have saved.
        """
        return self._bank.save(self._content)

    def load(self, data: bytes) -> None:
        """Become what was saved; what the sequence had before is forgotten.

        Raises:
            InvalidRequest: `data` is no saved sequence, is damaged, or is one of another model or version; nothing has
                changed then.
            CapacityError: there are not enough cells; nothing has changed.
            GenerationFailed: llama.cpp refused it; the sequence is empty then.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidRequest(f"data must be bytes, not {type(data).__name__}.", param="data")
        self._bank.load(self._content, bytes(data))

    @property
    def parts(self) -> tuple[SequenceBank, Content]:
        """For `parts_of`."""
        return self._bank, self._content


def parts_of(item: Any, bank: SequenceBank) -> tuple[Content, list[int]]:
    """What `SequenceBank.eval` takes, of a sequence or a pair of a sequence and tokens.

    Raises:
        InvalidRequest: it is neither, or the sequence is not one of `bank`.
    """
    match item:
        case LowSequence() as sequence:
            tokens: list[int] = []
        case (LowSequence() as sequence, new):
            tokens = tokens_of(new, "tokens")
        case _:
            raise InvalidRequest(f"eval takes sequences, or pairs of a sequence and its tokens, not {item!r}.")
    theirs, content = sequence.parts
    if theirs is not bank:
        raise InvalidRequest("A sequence belongs to another model.")
    return content, tokens
