"""From a prompt in tokens to pieces of text: the sequences of one request, run by the batching loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import llguidance

from infs.batching.base import Counts
from infs.batching.loop import Loop
from infs.batching.scheduler import Scheduler, Sequence, shifted
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.output import GenerationOutput, Piece
from infs.engines.llama_cpp.sampling import Sampler, Sampling, TokenConstraint, grammar_tokenizer
from infs.errors import ContextLengthExceeded, InvalidRequest, Unsupported


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request comes down to.

    Attributes:
        options: generation settings, those of the model's configuration included.
        stops: texts that end a choice.
        grammar: an llguidance grammar that the output follows.
        score: report the log-probabilities of the prompt's own tokens too.
    """

    tokens: list[int]
    options: dict[str, Any]
    stops: list[str] = field(default_factory=list)
    grammar: str | None = None
    score: bool = False

    @property
    def choices(self) -> int:
        """How many texts are wanted."""
        return int(self.options.get("n", 1))

    @property
    def candidates(self) -> int:
        """How many texts are generated, to choose the best of."""
        return max(self.choices, int(self.options.get("best_of", 1)))


class Inbox:
    """The news of one request, from the loop's thread to the event loop."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Called on the event loop."""
        self._pieces.append(piece)
        self._news.set()

    async def get(self) -> Piece:
        """The next piece."""
        while not self._pieces:
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()


class Generator:
    """Runs prompts on a decoder; made and used on one event loop.

    Args:
        context: tokens of the longest sequence.
    """

    def __init__(self, model: LlamaModel, decoder: LlamaDecoder, scheduler: Scheduler, *, context: int) -> None:
        self._model = model
        self._decoder = decoder
        self.context = context
        self._ends = frozenset(model.end_tokens)
        self._posted: list[tuple[Inbox, Piece]] = []
        self._events = asyncio.get_running_loop()
        self._grammar_tokenizer: llguidance.LLTokenizer | None = None
        self.loop = Loop(decoder, scheduler, after_step=self._after_step)
        self.loop.start()

    async def run(
        self, prompt: Prompt, wants_more: Callable[[int], bool] = lambda index: True
    ) -> AsyncGenerator[Piece]:
        """The pieces of all candidates as they come, each with a last one; closing the iterator cancels them.

        Args:
            wants_more: asked after each piece of a candidate; the one that gets no for an answer is ended.

        Raises:
            ContextLengthExceeded: the prompt does not fit, and may not be shifted.
            InvalidRequest: a setting names something that the model does not have.
        """
        tokens = self._fit(prompt)
        if prompt.options.get("best_of", prompt.choices) < prompt.choices:
            raise InvalidRequest("best_of must be at least n: it is what the n are chosen of.", param="best_of")
        inbox = Inbox()
        sequences = await asyncio.to_thread(self._sequences, prompt, tokens, inbox)
        open_ones = set(range(len(sequences)))
        for sequence in sequences:
            self.loop.submit(sequence)
        try:
            while open_ones:
                piece = await inbox.get()
                if piece.reason is not None or piece.error is not None:
                    open_ones.discard(piece.index)
                if piece.error is not None:
                    raise piece.error
                yield piece
                if piece.index in open_ones and not wants_more(piece.index):
                    self.loop.stop(sequences[piece.index])
        finally:
            for index in open_ones:
                self.loop.cancel(sequences[index])

    async def pin(self, tokens: list[int]) -> Counts:
        """Compute `tokens` and keep them in the cache for good.

        Raises:
            ContextLengthExceeded: they do not fit into the context.
        """
        self._fit(Prompt(tokens, {}))
        inbox = Inbox()
        output = self._output(Prompt(tokens, {}), inbox, 0, tokens)
        self.loop.submit(Sequence(tokens=list(tokens), output=output, max_new=0, pin=True))
        while True:
            piece = await inbox.get()
            if piece.error is not None:
                raise piece.error
            if piece.counts is not None:
                return piece.counts

    def close(self) -> None:
        """End everything, and the thread."""
        self.loop.close()

    # --- making sequences

    def _fit(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens, shortened where the request allows it."""
        tokens = prompt.tokens
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if len(tokens) < self.context:
            return tokens
        if prompt.options.get("context_overflow", "refuse") == "shift":
            return shifted(tokens, self._keep(prompt), self.context)
        raise context_exceeded(len(tokens), self.context)

    def _keep(self, prompt: Prompt) -> int:
        return int(prompt.options.get("context_keep", 0))

    def _sequences(self, prompt: Prompt, tokens: list[int], inbox: Inbox) -> list[Sequence]:
        options = prompt.options
        shift = self._keep(prompt) if options.get("context_overflow", "refuse") == "shift" else None
        return [
            Sequence(
                tokens=list(tokens),
                output=self._output(prompt, inbox, index, tokens),
                max_new=self._max_new(prompt),
                shift_keep=shift,
                score_prompt=prompt.score,
            )
            for index in range(prompt.candidates)
        ]

    def _max_new(self, prompt: Prompt) -> int | None:
        """With shifting there would be no end to a text without a limit: one more context is its default."""
        limit: int | None = prompt.options.get("max_tokens")
        endless = prompt.options.get("context_overflow", "refuse") == "shift" and limit is None
        return self.context if endless else limit

    def _output(self, prompt: Prompt, inbox: Inbox, index: int, tokens: list[int]) -> GenerationOutput:
        options = prompt.options
        ignore = bool(options.get("ignore_eos", False))
        if ignore and prompt.grammar is not None:
            raise Unsupported("ignore_eos contradicts structured output, which ends by itself.", param="ignore_eos")
        ban = self._model.end_tokens if ignore else ()
        constraint = self._constraint(prompt.grammar)
        sampler = Sampler(self._model, Sampling.of(options), context=self.context, choice=index, ban=ban)
        sampler.accept_prompt(tokens)
        return GenerationOutput(
            self._decoder,
            sampler,
            lambda piece: self._posted.append((inbox, piece)),
            index=index,
            ends=frozenset() if ignore else self._ends,
            stops=prompt.stops,
            constraint=constraint,
            logprobs=options.get("logprobs"),
            scored=prompt.candidates > prompt.choices,
            prompt=tokens if prompt.score else None,
        )

    def _constraint(self, grammar: str | None) -> TokenConstraint | None:
        if grammar is None:
            return None
        if self._grammar_tokenizer is None:
            self._grammar_tokenizer = grammar_tokenizer(self._model)
        return TokenConstraint(self._grammar_tokenizer, grammar, self._model.size)

    # --- on the loop's thread

    def _after_step(self) -> None:
        """Wake the event loop once a step, with all that the step brought."""
        if self._posted:
            posted, self._posted = self._posted, []
            self._events.call_soon_threadsafe(_deliver, posted)


def _deliver(posted: list[tuple[Inbox, Piece]]) -> None:
    for inbox, piece in posted:
        inbox.put(piece)


def context_exceeded(tokens: int, context: int, *, at_least: bool = False) -> ContextLengthExceeded:
    """The refusal of a prompt, with both numbers."""
    more = "at least " if at_least else ""
    return ContextLengthExceeded(
        f"The prompt has {more}{tokens} tokens, and the context holds {context} with at least one for the answer. "
        "Shorten the prompt, raise the model's context_size, or set context_overflow to shift.",
        param="prompt",
    )
