"""Decisions: the probabilities of given options, read from the scores behind prompts. Nothing is generated.

Each question is a chat prompt of its own; what they have in common comes first, so that it is computed once. One pass
over the prompts gives the scores of all first tokens. Where these do not tell the options apart, a second pass
computes the options behind their prompts.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from infs.batching.base import Counts, Output
from infs.batching.prefix import common_prefix
from infs.batching.sequence import Sequence as Running
from infs.chat.questions import Asked, answer_of, check_questions, conversation, ways_to_ask
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.generation import Deliver, Generator, Prompt
from infs.engines.llama_cpp.output import Piece
from infs.engines.llama_cpp.prompts import Prompts
from infs.engines.llama_cpp.running import run_all
from infs.engines.llama_cpp.spellings import Path, Spellings, Tree, shares
from infs.errors import ContextLengthExceeded, InfsError
from infs.types import (
    Answer,
    ChatCompletionRequest,
    DecisionRequest,
    DecisionResult,
    Event,
    FinishReason,
    Progress,
    Question,
    Usage,
)

DIRECT = {"enable_thinking": False, "thinking": False}
"""What the templates of models that can think are told, so that the first token is one of the answer."""


class ScoreReader:
    """An `Output` that reads scores, for a sequence that generates nothing. What it is not about is up to `told`.

    Args:
        told: tells the other side of progress and of the end.
        prompt: tokens before the path that is read.
        wanted: the tokens whose scores are wanted, by the path behind the prompt that they follow.
        found: takes their log-probabilities, by the path that they end.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        told: Output,
        prompt: int,
        wanted: Mapping[int, tuple[Path, Sequence[int]]],
        found: dict[Path, float],
    ) -> None:
        self._decoder = decoder
        self._told = told
        self._prompt = prompt
        self._wanted = wanted
        self._found = found

    def prompt_scored(self, position: int, row: int) -> None:
        path, tokens = self._wanted.get(position + 1 - self._prompt, ((), ()))
        if not tokens:
            return
        scores = self._decoder.scores(row)
        top = float(scores.max())
        norm = top + float(np.log(np.exp(scores - top).sum(dtype=np.float64)))
        self._found.update({(*path, token): float(scores[token]) - norm for token in tokens})

    def prompt_computed(self, done: int, total: int) -> None:
        self._told.prompt_computed(done, total)

    def sample(self, row: int) -> int:
        return self._told.sample(row)

    def accept(self, token: int) -> FinishReason | None:
        return self._told.accept(token)

    def forced(self) -> list[int]:
        return []

    def expected(self) -> list[int]:
        return []

    def finished(self, reason: FinishReason, counts: Counts) -> None:
        self._told.finished(reason, counts)

    def failed(self, error: InfsError) -> None:
        self._told.failed(error)


@dataclass(slots=True)
class Poll:
    """A question as it is asked once: its prompt, the ways to write its options, and the log-probabilities read.

    `index` is the number of the question.
    """

    index: int
    prompt: Prompt
    spellings: Spellings
    scores: dict[Path, float] = field(default_factory=dict)
    tree: Tree | None = None

    def first(self) -> Reading:
        """What the prompt alone says."""
        return Reading(self, (), {0: ((), self.spellings.first_tokens)})

    def rest(self) -> list[Reading]:
        """What else has to be computed, now that the scores of first tokens are known."""
        if self.spellings.by_first_token(self.scores) is not None:
            return []
        self.tree = tree = Tree(self.spellings.likely(self.scores))
        readings = []
        for path in tree.readings:
            wanted = {length: (path[:length], tree.next(path[:length])) for length in range(1, len(path) + 1)}
            readings.append(Reading(self, path, wanted))
        return readings

    def logs(self) -> list[float]:
        """The log-probabilities of the options."""
        if self.tree is not None:
            return self.tree.options(self.scores, self.spellings.count)
        found = self.spellings.by_first_token(self.scores)
        assert found is not None, "the first pass was enough"
        return found


@dataclass(frozen=True, slots=True)
class Reading:
    """A sequence to compute: the prompt of `poll` with `path` behind it; `wanted` as in `ScoreReader`."""

    poll: Poll
    path: Path
    wanted: dict[int, tuple[Path, list[int]]]

    @property
    def tokens(self) -> list[int]:
        """All of them."""
        return [*self.poll.prompt.tokens, *self.path]

    def sequence(self, generator: Generator, deliver: Deliver, index: int) -> Running:
        """The sequence, whose pieces have this `index`."""

        def number(piece: Piece) -> None:
            piece.index = index
            deliver(piece)

        prompt, before = self.poll.prompt, len(self.poll.prompt.tokens)
        (sequence,) = generator.sequences(dataclasses.replace(prompt, tokens=self.tokens), number)
        sequence.output = ScoreReader(generator.decoder, sequence.output, before, self.wanted, self.poll.scores)
        sequence.score_from = before - (not self.path)
        return sequence


class Decisions:
    """Answers one request.

    Raises (from `events`):
        ContextLengthExceeded: a question does not fit into the context.
        InvalidRequest: a question cannot be asked, or the template does not take the conversation.
    """

    def __init__(self, generator: Generator, prompts: Prompts, request: DecisionRequest) -> None:
        self._generator = generator
        self._prompts = prompts
        self._request = request
        self._counts: list[tuple[list[int], Counts]] = []

    async def events(self) -> AsyncGenerator[Event]:
        """Progress, and the result."""
        polls = await asyncio.to_thread(self._polls)
        async with aclosing(self._read([poll.first() for poll in polls])) as events:
            async for event in events:
                yield event
        rest = await asyncio.to_thread(lambda: [reading for poll in polls for reading in poll.rest()])
        async with aclosing(self._read(rest)) as events:
            async for _ in events:
                pass  # a few tokens, which are no progress to speak of
        yield await asyncio.to_thread(self._result, polls)

    async def _read(self, readings: list[Reading]) -> AsyncGenerator[Progress]:
        """Compute all of them, in one batch as far as that is possible."""

        def make(deliver: Deliver) -> list[Running]:
            return [r.sequence(self._generator, deliver, index) for index, r in enumerate(readings)]

        done = [0] * len(readings)
        total = sum(len(reading.tokens) for reading in readings)
        async with aclosing(run_all(self._generator, make)) as pieces:
            async for piece in pieces:
                if piece.computed is not None:
                    done[piece.index] = piece.computed[0]
                    yield Progress(stage="prompt", done=sum(done), total=total, unit="tokens")
                if piece.counts is not None:
                    self._counts.append((readings[piece.index].tokens, piece.counts))

    def _result(self, polls: Sequence[Poll]) -> DecisionResult:
        answers = [self._answer(question, polls, index) for index, question in enumerate(self._request.questions)]
        return DecisionResult(answers=answers, usage=_usage(self._counts))

    def _answer(self, question: Question, polls: Sequence[Poll], index: int) -> Answer:
        """The mean over all that was asked."""
        found = [shares(poll.logs()) for poll in polls if poll.index == index]
        probabilities = [sum(parts) / len(found) for parts in zip(*(shared for shared, _ in found), strict=True)]
        return answer_of(question, probabilities, sum(mass for _, mass in found) / len(found))

    # --- prompts

    def _polls(self) -> list[Poll]:
        check_questions(self._request)
        return [
            self._poll(index, asked)
            for index, question in enumerate(self._request.questions)
            for asked in ways_to_ask(question)
        ]

    def _poll(self, index: int, asked: Asked) -> Poll:
        spellings = Spellings(asked.answers, self._plain, exact=self._request.exact)
        try:
            prompt = self._prompts.prepare(self._chat(asked)).prompt
        except ContextLengthExceeded as error:
            raise self._too_long(index, error.message.partition(". ")[0]) from error
        tokens = [*prompt.tokens, *self._opening(prompt)]
        longest = len(tokens) + max(map(len, spellings.all)) - 1
        if longest >= (context := self._generator.context):
            raise self._too_long(index, f"It has {longest} tokens with its longest option, and the context {context}")
        return Poll(index, dataclasses.replace(prompt, tokens=tokens), spellings)

    def _too_long(self, index: int, numbers: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"The question number {index} does not fit. {numbers}. Shorten what it is about, or raise the model's "
            "context_size.",
            param=f"questions[{index}]",
        )

    def _chat(self, asked: Asked) -> ChatCompletionRequest:
        request = self._request
        return ChatCompletionRequest(
            model=request.model,
            priority=request.priority,
            client=request.client,
            messages=conversation(request, asked),
            template_options={**DIRECT, **request.template_options},
            max_tokens=0,
            cache_salt=request.cache_salt,
            lora=request.lora,
        )

    def _opening(self, prompt: Prompt) -> list[int]:
        """What stands between the prompt and the answer itself: the end of reasoning, a frame."""
        thinking, answer = prompt.thinking, self._prompts.dialect.answer
        texts = [thinking.end if thinking is not None and prompt.thought else "", answer]
        return [token for text in texts if text for token in self._special(text)]

    def _special(self, text: str) -> list[int]:
        return self._generator.model.tokenize(text, add_special=False, parse_special=True)

    def _plain(self, text: str) -> list[int]:
        return self._generator.model.tokenize(text, add_special=False, parse_special=False)


def _usage(counts: Sequence[tuple[list[int], Counts]]) -> Usage:
    """What all sequences took together: each token that they have in common counts once."""
    before: list[int] = []
    distinct = 0
    for tokens in sorted(tokens for tokens, _ in counts):
        distinct += len(tokens) - common_prefix(before, tokens)
        before = tokens
    computed = sum(taken.prompt - taken.cached for _, taken in counts)
    return Usage(prompt_tokens=distinct, cached_tokens=max(0, distinct - computed))
