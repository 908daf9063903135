"""Python functions that change scores, on their way into the batching loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infs.engines.llama_cpp.output import Processor
from infs.errors import GenerationFailed, InfsError, InvalidRequest

PARAM = "logits_processors"


class Guarded:
    """The processors of one request as one: what goes wrong in them is a failure of this request, and of no other.

    llama.cpp ends the process over scores that nothing can be chosen by, so it never gets any.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        for process in processors:
            if not callable(process):
                raise InvalidRequest(f"{PARAM} holds {process!r}, which cannot be called.", param=PARAM)
        self._processors = tuple(processors)

    def __call__(self, tokens: list[int], scores: NDArray[np.float32]) -> None:
        """Call them all, in their order."""
        for process in self._processors:
            try:
                process(tokens, scores)
            except InfsError:
                raise
            except Exception as error:
                raise GenerationFailed(
                    f"A logits processor failed: {type(error).__name__}: {error}", param=PARAM
                ) from error
        check_scores(scores, PARAM)


def check_scores(scores: NDArray[np.float32], param: str) -> None:
    """Raise `InvalidRequest` unless a token can be chosen by `scores`, shape (vocabulary,)."""
    best = scores.max()
    if not np.isfinite(best):
        what = "not a number" if np.isnan(best) else "infinite" if best > 0 else "minus infinity, for every token"
        raise InvalidRequest(f"{param}: no token can be chosen, because a score is {what}.", param=param)
