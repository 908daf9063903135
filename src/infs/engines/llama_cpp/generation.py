"""From a prompt in tokens to pieces of text: the sequences of one request, run by the batching loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import llguidance

from infs.batching.loop import Loop
from infs.batching.memory import ColdMemory
from infs.batching.pacing import Pacing
from infs.batching.scheduler import Scheduler
from infs.batching.sequence import Sequence as Running
from infs.batching.shifting import Shift
from infs.batching.speculation import Speculator
from infs.chat.parser import Thinking
from infs.chat.structured import OutputRule
from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.constraint import Masks, TokenConstraint, grammar_tokenizer
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.output import GenerationOutput, Piece, Processor
from infs.engines.llama_cpp.reasoning import ReasoningBudget
from infs.engines.llama_cpp.sampling import Sampler, Sampling
from infs.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from infs.types import UNSET

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import MediaChunk, Projector

Deliver = Callable[[Piece], None]
"""Takes the news of one request."""

Posted = list[tuple[Deliver, Piece]]

ASKING = 1.0  # seconds that preparing a request waits for the loop


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request comes down to.

    Attributes:
        options: generation settings, those of the model's configuration included.
        stops: texts that end a choice.
        rule: what the output must be like.
        score: report the log-probabilities of the prompt's own tokens too.
        keep: tokens at the beginning that stay when the context overflows; ``None`` for what `options` say.
        places: where messages begin, in tokens: where a prompt may be cut when the context overflows.
        shown: control tokens whose texts belong to the output.
        ends: tokens that end the output; ``None`` for those of the vocabulary.
        thinking: the marks of reasoning, for its budget; `thought`: the prompt has opened it.
        priority, client: whose turn it is.
        processors: change scores before a token is chosen.
        media: what some of the tokens stand in for.
        request: its number in the instance.
        seed: what chance starts from where the options do not say it.
        replay: tokens with which the candidates begin, each with its own: see `RunContext.trail`.
    """

    tokens: list[int]
    options: dict[str, Any]
    stops: list[str] = field(default_factory=list)
    rule: OutputRule | None = None
    score: bool = False
    keep: int | None = None
    places: tuple[int, ...] = ()
    shown: frozenset[int] = frozenset()
    ends: frozenset[int] | None = None
    thinking: Thinking | None = None
    thought: bool = False
    priority: int = 0
    client: str = ""
    processors: Sequence[Processor] = ()
    media: tuple[MediaChunk, ...] = ()
    request: int = 0
    seed: int | None = None
    replay: Sequence[Sequence[int]] = ()

    @property
    def choices(self) -> int:
        """How many texts are wanted."""
        return int(self.options.get("n", 1))

    @property
    def candidates(self) -> int:
        """How many texts are generated, to choose the best of."""
        return max(self.choices, int(self.options.get("best_of", 1)))

    @property
    def shift(self) -> Shift | None:
        """What may be dropped when the context overflows."""
        if self.options.get("context_overflow", "refuse") != "shift":
            return None
        keep = self.keep if self.keep is not None else int(self.options.get("context_keep", 0))
        return Shift(keep, self.places)


class Generator:
    """Makes sequences of prompts and runs them in a loop. Thread-safe.

    Args:
        context: tokens of the longest sequence.
        wake: takes the news of a step, on the loop's thread, once for each step that brought any.
        memory: where the context of conversations is kept beside the cells.
        projector: reads the media of prompts.
    """

    def __init__(
        self,
        model: LlamaModel,
        decoder: LlamaDecoder,
        scheduler: Scheduler,
        *,
        context: int,
        wake: Callable[[Posted], None],
        adapters: Adapters | None = None,
        memory: ColdMemory | None = None,
        guesser: Speculator | None = None,
        pacing: Pacing | None = None,
        projector: Projector | None = None,
    ) -> None:
        self.model = model
        self.decoder = decoder
        self.context = context
        self.memory = memory
        self._adapters = adapters
        self._projector = projector
        self._ends = frozenset(model.end_tokens)
        self._wake = wake
        self._posted: Posted = []
        self._masks = Masks()
        self._grammar_tokenizers: dict[frozenset[int], llguidance.LLTokenizer] = {}
        self._lock = threading.Lock()
        self.loop = Loop(
            decoder,
            scheduler,
            memory=memory,
            guesser=guesser,
            pacing=pacing,
            before_step=self._masks.start,
            after_step=self._after_step,
        )

    def sequences(self, prompt: Prompt, deliver: Deliver) -> list[Running]:
        """The sequences of all candidates, ready to be submitted to the loop. Takes time: not for an event loop.

        Raises:
            ContextLengthExceeded: the prompt does not fit, and may not be shifted.
            InvalidRequest: a setting names something that the model does not have.
        """
        tokens, shift = self._fit(prompt)
        if prompt.options.get("best_of", prompt.choices) < prompt.choices:
            raise InvalidRequest("best_of must be at least n: it is what the n are chosen of.", param="best_of")
        if prompt.options.get("cache_reuse") and not self.decoder.movable:
            raise Unsupported(
                "The cached tokens of this model cannot be moved: leave cache_reuse out.", param="cache_reuse"
            )
        lora = self._adapters.key(prompt.options.get("lora", UNSET)) if self._adapters is not None else ()
        reuse = int(prompt.options.get("cache_reuse", 0))
        media = self._media(prompt)
        sequences = [
            Running(
                tokens=list(tokens),
                output=self._output(prompt, deliver, index, tokens, media),
                max_new=self._max_new(prompt),
                shift=shift,
                score_from=0 if prompt.score else None,
                priority=prompt.priority,
                client=prompt.client,
                # What was moved is an approximation, which nobody gets who did not ask for it.
                space=f"{prompt.options.get('cache_salt', '')}|{lora or ''}|{'moved' if reuse else ''}",
                group=lora,
                reuse=reuse,
                speculate=prompt.options.get("speculation", "auto") != "off",
                blocks=bool(media),
                request=prompt.request,
                index=index,
            )
            for index in range(prompt.candidates)
        ]
        self._prefetch(sequences[0])
        self._encode(sequences[0], media)
        return sequences

    def pinned(self, tokens: list[int], deliver: Deliver, media: tuple[MediaChunk, ...] = ()) -> Running:
        """A sequence that computes `tokens`, which are kept in the cache for good."""
        (sequence,) = self.sequences(Prompt(tokens, {"max_tokens": 0}, media=media), deliver)
        sequence.pin = True
        return sequence

    def close(self) -> None:
        """End everything, and the thread."""
        self.loop.close()
        self._masks.close()

    # --- making sequences

    def _fit(self, prompt: Prompt) -> tuple[list[int], Shift | None]:
        """The prompt's tokens, shortened where the request allows it, and how they may be shortened later."""
        tokens, shift = prompt.tokens, prompt.shift
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if len(tokens) < self.context:
            return tokens, shift
        if shift is None:
            raise context_exceeded(len(tokens), self.context)
        return shift.apply(tokens, self.context)

    def _max_new(self, prompt: Prompt) -> int | None:
        """With shifting there would be no end to a text without a limit: one more context is its default."""
        limit: int | None = prompt.options.get("max_tokens")
        endless = prompt.options.get("context_overflow", "refuse") == "shift" and limit is None
        return self.context if endless else limit

    def _output(
        self, prompt: Prompt, deliver: Deliver, index: int, tokens: list[int], media: tuple[MediaChunk, ...]
    ) -> GenerationOutput:
        options = prompt.options
        if media:  # what the model read of them is no text
            tokens = [token for token in tokens if token >= 0]
        ignore = bool(options.get("ignore_eos", False))
        if ignore and prompt.rule is not None and not prompt.rule.triggers:
            raise Unsupported("ignore_eos contradicts structured output, which ends by itself.", param="ignore_eos")
        ends = self._ends if prompt.ends is None else prompt.ends
        sampler = Sampler(
            self.model,
            Sampling.of({"seed": prompt.seed, **options}),
            context=self.context,
            choice=index,
            ban=sorted(ends) if ignore else (),
        )
        sampler.note(tokens)
        return GenerationOutput(
            self.decoder,
            sampler,
            lambda piece: self._posted.append((deliver, piece)),
            index=index,
            ends=frozenset() if ignore else ends,
            stops=prompt.stops,
            shown=prompt.shown,
            constraint=self._constraint(prompt.rule, ends),
            budget=self._budget(prompt),
            processors=prompt.processors,
            logprobs=options.get("logprobs"),
            scored=prompt.candidates > prompt.choices,
            prompt=tokens,
            echo=prompt.score,
            media=media,
            replay=prompt.replay[index] if index < len(prompt.replay) else (),
        )

    def _constraint(self, rule: OutputRule | None, ends: frozenset[int]) -> TokenConstraint | None:
        if rule is None:
            return None
        with self._lock:  # chats may end otherwise than texts, so there are two at most
            if ends not in self._grammar_tokenizers:
                self._grammar_tokenizers[ends] = grammar_tokenizer(self.model, ends)
            tokenizer = self._grammar_tokenizers[ends]
        return TokenConstraint(tokenizer, rule, self.model.size, self._masks)

    def _budget(self, prompt: Prompt) -> ReasoningBudget | None:
        limit = prompt.options.get("reasoning_budget")
        if limit is None or prompt.thinking is None:
            return None
        return ReasoningBudget(
            prompt.thinking,
            limit,
            thought=prompt.thought,
            tokenize=lambda text: self.model.tokenize(text, add_special=False, parse_special=True),
        )

    def _prefetch(self, sequence: Running) -> None:
        """Read what is on disk of its context, so that the loop does not have to."""
        if self.memory is not None:
            self.memory.prefetch(sequence.space, sequence.tokens, lambda: self._known(sequence))

    # --- media

    def _media(self, prompt: Prompt) -> tuple[MediaChunk, ...]:
        """What the prompt's stand-ins stand for, as other sequences have it too."""
        if not prompt.media:
            return ()
        if prompt.tokens[-1] < 0:
            raise InvalidRequest("The prompt must end in text, not in an image or audio.", param="messages")
        size, most = max(chunk.cells if chunk.non_causal else 0 for chunk in prompt.media), self.decoder.piece
        if size > most:
            raise InvalidRequest(
                f"An image takes {size} tokens, which must be computed together, and no more than {most} can be: "
                "send a smaller one, or raise the model's options.batch_tokens.",
                param="messages",
            )
        assert self.decoder.media is not None, "a model without a projector reads no media"
        return self.decoder.media.share(prompt.media)

    def _encode(self, sequence: Running, media: tuple[MediaChunk, ...]) -> None:
        """Have what is not in the cells ready as vectors, so that the loop does not have to compute them."""
        projector = self._projector
        if projector is None or not media:
            return
        known = 0 if all(projector.encoded(chunk) for chunk in media) else self._known(sequence)
        wanted = set(sequence.tokens[known:])
        for chunk in media:
            if chunk.tokens[0] in wanted or projector.encoded(chunk):
                projector.encode(chunk)

    def _known(self, sequence: Running) -> int:
        """How many of its tokens are in the cells; 0 if that takes too long to find out."""
        cache, tokens, space = self.loop.scheduler.cache, sequence.tokens, sequence.space
        return self.loop.ask(lambda: cache.match(tokens, space), ASKING) or 0

    # --- on the loop's thread

    def _after_step(self) -> None:
        if self._posted:
            posted, self._posted = self._posted, []
            self._wake(posted)


def context_exceeded(tokens: int, context: int, *, at_least: bool = False) -> ContextLengthExceeded:
    """The refusal of a prompt, with both numbers."""
    more = "at least " if at_least else ""
    return ContextLengthExceeded(
        f"The prompt has {more}{tokens} tokens, and the context holds {context} with at least one for the answer. "
        "Shorten the prompt, raise the model's context_size, or set context_overflow to shift.",
        param="prompt",
    )
