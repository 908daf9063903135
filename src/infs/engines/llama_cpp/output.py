"""One choice of a generation: samples on the loop's thread, and collects what is to be told to the other side."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infs.batching.base import Counts
from infs.batching.text import TextStream
from infs.engines.llama_cpp.constraint import TokenConstraint
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.reasoning import ReasoningBudget
from infs.engines.llama_cpp.sampling import Sampler
from infs.errors import InfsError, InvalidRequest
from infs.types import FinishReason, TokenLogprob, TopLogprob

Processor = Callable[[list[int], NDArray[np.float32]], None]
"""Changes scores in place: called with all tokens so far, and the scores of what comes next, shape (vocabulary,)."""


REPLAYED = 64  # tokens that are computed at once where their scores matter


@dataclass(slots=True)
class Piece:
    """News of choice `index`, and the `tokens` since the last one. `reason` or `error` make it the last one."""

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    counts: Counts | None = None
    error: InfsError | None = None
    computed: tuple[int, int] | None = None
    score: float = 0.0


class GenerationOutput:
    """An `Output` over a llama.cpp context.

    Args:
        index: number of the choice.
        post: takes the news, on the loop's thread.
        ends: tokens that end the text.
        shown: control tokens whose texts belong to the output.
        constraint: what may come next.
        budget: the limit of reasoning.
        processors: change the scores of a row, in place, given all tokens so far; they are called in their order.
        logprobs: how many alternatives to report for each token; ``None`` reports nothing, not even the chosen.
        scored: whether the mean log-probability is wanted at the end, for comparing choices.
        prompt: the prompt's tokens, for log-probabilities of an echoed prompt.
        media: what the sequence's tokens stand in for; they live as long as it does.
        replay: tokens with which the text begins: they were chosen before, by a worker that has died.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        sampler: Sampler,
        post: Callable[[Piece], None],
        *,
        index: int,
        ends: frozenset[int],
        stops: Sequence[str] = (),
        shown: frozenset[int] = frozenset(),
        constraint: TokenConstraint | None = None,
        budget: ReasoningBudget | None = None,
        processors: Sequence[Processor] = (),
        logprobs: int | None = None,
        scored: bool = False,
        prompt: Sequence[int] = (),
        echo: bool = False,
        media: Sequence[object] = (),
        replay: Sequence[int] = (),
    ) -> None:
        self._decoder = decoder
        self._model = decoder.model
        self._sampler = sampler
        self._post = post
        self._index = index
        self._media = media
        self._ends = ends
        self._shown = shown
        self._stream = TextStream(stops)
        self._constraint = constraint
        self._budget = budget
        self._processors = processors
        self._tokens = list(prompt) if processors else []
        self._logprobs = logprobs
        self._plain = logprobs is None and not scored
        self._greedy = sampler.greedy
        self._prompt = list(prompt) if echo else []
        self._next: TokenLogprob | None = None
        self._sum, self._count = 0.0, 0
        self._prompt_scores: dict[int, TokenLogprob] = {}
        self._owed: list[int] = []
        self._replay = deque(replay)
        self._untold: list[int] = []
        if constraint is not None:
            constraint.want_mask()

    # --- called by the loop

    def prompt_scored(self, position: int, row: int) -> None:
        if position + 1 < len(self._prompt):
            token = self._prompt[position + 1]
            self._prompt_scores[position + 1] = self._logprob(self._decoder.scores(row), token)

    def prompt_computed(self, done: int, total: int) -> None:
        if done == total and self._prompt:
            self._post_prompt_scores()
        self._post(Piece(self._index, computed=(done, total)))

    def sample(self, row: int) -> int:
        constraint = self._constraint if self._constraint is not None and self._constraint.active else None
        self._ask_budget()
        chosen = self._greedy or self._processors or self._owed or self._replay
        if self._plain and constraint is None and not chosen:
            return self._sampler.sample(self._decoder.context, row)
        scores = self._decoder.scores(row)
        untouched = scores if self._plain else scores.copy()  # what follows may write into the row
        for process in self._processors:
            process(self._tokens, scores)
        if self._replay:
            token = self._choose_again(scores, constraint)
        else:
            token = self._next_owed() if self._owed else self._choose(scores, row, constraint)
        if not self._plain:
            self._remember(untouched, token)
        return token

    def _choose(self, scores: NDArray[np.float32], row: int, constraint: TokenConstraint | None) -> int:
        if constraint is not None:
            constraint.mask(scores)
            if self._processors and scores.max() == -np.inf:
                raise InvalidRequest(
                    "logits_processors forbid all that the constraint allows in one place.", param="logits_processors"
                )
        if self._greedy:
            return int(scores.argmax())
        token = self._sampler.sample(self._decoder.context, row)
        if constraint is not None and (scores[token] == -np.inf or token in self._sampler.banned):
            raise InvalidRequest("logit_bias forbids all that the constraint allows in one place.", param="logit_bias")
        return token

    def _choose_again(self, scores: NDArray[np.float32], constraint: TokenConstraint | None) -> int:
        """The next token that was chosen before; chance moves on as it did then."""
        token = self._replay.popleft()
        if self._owed:
            self._owed.pop(0)
            self._sampler.note([token])
            return token
        if constraint is not None:
            constraint.mask(scores)
        self._sampler.repeat(scores, token)
        return token

    def accept(self, token: int) -> FinishReason | None:
        if token in self._ends:
            return "stop"
        self._untold.append(token)
        shown = token in self._shown
        piece = self._model.piece(token, special=shown)
        complete = self._constraint is not None and self._constraint.accept(token, piece)
        if self._budget is not None:
            self._budget.accept(piece)
        if self._processors:
            self._tokens.append(token)
        text = self._stream.feed(piece)
        logprobs = [self._next] if self._next is not None and self._logprobs is not None else []
        if text or logprobs:
            self._post(Piece(self._index, text=text, tokens=self._untold, logprobs=logprobs))
            self._untold = []
        if complete or self._stream.stopped:
            return "stop"
        if self._constraint is not None:
            self._constraint.want_mask()
        return None

    def forced(self) -> list[int]:
        if not self._plain or self._processors:
            return []
        if self._replay and not self._sampler.chance:
            tokens = list(self._replay)
            self._replay.clear()
        else:
            tokens = [self._replay.popleft() if self._replay else token for token in self._demanded()]
        self._sampler.note(tokens)
        return tokens

    def expected(self) -> list[int]:
        """Demanded tokens are guesses where their scores are wanted: the budget's are chosen, whatever the scores.

        So are those that were chosen before, where scores tell how far chance had come.
        """
        if self._replay:
            return list(itertools.islice(self._replay, REPLAYED))
        if self._plain and not self._processors:
            return []
        self._ask_budget()
        if self._owed:
            return list(self._owed)
        return self._constraint.forced() if self._constraint is not None else []

    def _ask_budget(self) -> None:
        if self._budget is not None and not self._owed:
            self._owed = self._budget.forced()

    def _next_owed(self) -> int:
        token = self._owed.pop(0)
        self._sampler.note([token])
        return token

    def _demanded(self) -> list[int]:
        """What has to come next; ends are left to be chosen."""
        self._ask_budget()
        tokens, self._owed = self._owed, []
        if not tokens and self._constraint is not None:
            tokens = self._constraint.forced()
        return list(itertools.takewhile(lambda token: token not in self._ends, tokens))

    def finished(self, reason: FinishReason, counts: Counts) -> None:
        self._sampler.close()
        mean = self._sum / self._count if self._count else 0.0
        self._post(Piece(self._index, text=self._stream.flush(), reason=reason, counts=counts, score=mean))

    def failed(self, error: InfsError) -> None:
        self._sampler.close()
        self._post(Piece(self._index, error=error))

    # --- log-probabilities, of the model itself: before bias, penalties, mask and temperature

    def _remember(self, scores: NDArray[np.float32], token: int) -> None:
        self._next = self._logprob(scores, token)
        self._sum += self._next.logprob or 0.0
        self._count += 1

    def _logprob(self, scores: NDArray[np.float32], token: int) -> TokenLogprob:
        top = float(scores.max())
        norm = top + float(np.log(np.exp(scores - top).sum()))
        return TokenLogprob(
            token=self._text(token),
            bytes=self._model.piece(token, special=True),
            logprob=float(scores[token]) - norm,
            top=self._top(scores, norm),
        )

    def _top(self, scores: NDArray[np.float32], norm: float) -> list[TopLogprob]:
        count = min(self._logprobs or 0, len(scores))
        if not count:
            return []
        best = np.argpartition(scores, -count)[-count:]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [
            TopLogprob(
                token=self._text(int(token)),
                bytes=self._model.piece(int(token), special=True),
                logprob=float(scores[token]) - norm,
            )
            for token in best
        ]

    def _text(self, token: int) -> str:
        return self._model.piece(token, special=True).decode("utf-8", "replace")

    def _post_prompt_scores(self) -> None:
        first = self._prompt[0]
        start = TokenLogprob(token=self._text(first), bytes=self._model.piece(first, special=True), logprob=None)
        scores = [start, *(self._prompt_scores[place] for place in range(1, len(self._prompt)))]
        self._prompt, self._prompt_scores = [], {}
        self._post(Piece(self._index, logprobs=scores))
