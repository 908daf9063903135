"""From requests to prompts in tokens: templates, tools, structured output, fill-in-the-middle."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from infs.batching.prefix import common_prefix
from infs.chat.constraints import compile_constraint
from infs.chat.dialects import Dialect, choose
from infs.chat.guard import Guard
from infs.chat.media import Media
from infs.chat.parser import call_ids, opens_reasoning
from infs.chat.structured import OutputRule, output_rule
from infs.chat.template import ChatTemplate
from infs.chat.tools import offered_tools
from infs.config import ModelConfig, Preload
from infs.engines.llama_cpp.answers import ChatAnswer, Task, TextChoice, chat_result, text_result
from infs.engines.llama_cpp.generation import Prompt, context_exceeded
from infs.engines.llama_cpp.media_reader import MediaReader
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.overflow import places, shortened, staying
from infs.errors import InvalidRequest, Unsupported
from infs.types import ChatCompletionRequest, Message, Request, TextCompletionRequest

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import MediaChunk, Projector

OTHER = Message(role="user", content="-")


class Prompts:
    """Makes prompts for one model. Thread-safe: it changes nothing.

    Args:
        context: tokens of the longest sequence.
        projector: reads images and audio, for a model that can.
    """

    def __init__(
        self, model: LlamaModel, config: ModelConfig, *, context: int, projector: Projector | None = None
    ) -> None:
        self._model = model
        self._context = context
        self._projector = projector
        source = config.chat_template if config.chat_template is not None else model.chat_template
        self.template = ChatTemplate(source, bos_token=model.bos, eos_token=model.eos)
        self.dialect: Dialect = choose(source)
        controls = model.control_texts()
        # A template's mark for an image is not one where it stands in a message.
        marks = [mark.text for mark in self.template.marks.values()] if projector is not None else []
        self._guard = Guard([*controls, *marks])
        self._controls = self._ids(set(controls).intersection(self.dialect.specials))
        ends = self._ids(self.dialect.ends).values()
        going_on = self._ids(self.dialect.not_ends).values()
        self._end_tokens = frozenset(model.end_tokens).union(ends).difference(going_on)

    def prepare(self, request: Request[Any], nonce: int = 0) -> Task:
        """What `request` comes down to.

        Args:
            nonce: what the ids of calls are derived from; by default they are random.

        Raises:
            Unsupported: the engine has no such task.
        """
        if isinstance(request, TextCompletionRequest):
            return self._text(request)
        if isinstance(request, ChatCompletionRequest):
            return self._chat(request, nonce)
        raise Unsupported(f"The llama-cpp engine cannot do {request.task}.", param="model")

    def _text(self, request: TextCompletionRequest) -> Task:
        options = request.set_options()
        if request.echo and request.suffix is not None and options.get("logprobs") is not None:
            raise Unsupported("echo with logprobs cannot be combined with suffix.", param="echo")
        grammar = compile_constraint(options.get("constraint"))
        prompt = Prompt(
            self._text_tokens(request, keep=_keep(options)),
            options,
            stops=list(options.get("stop", [])),
            rule=OutputRule(grammar) if grammar is not None else None,
            priority=request.priority,
            client=request.client,
            score=request.echo and options.get("logprobs") is not None,
        )
        start = self._echo(request, prompt)
        return Task(prompt, lambda: TextChoice(start), text_result)

    def _chat(self, request: ChatCompletionRequest, nonce: int) -> Task:
        options = request.set_options()
        shift = options.get("context_overflow", "refuse") == "shift"
        reader = self._reader(request)
        request, beginning = reader.media.request, functools.partial(self._beginning, reader)
        if shift:
            stay = staying(request, int(options.get("context_keep", 0)), beginning)
            request = shortened(request, stay, functools.partial(self._may_fit, reader))
        text = self._render(request, reader)
        thinking = opens_reasoning(text, self.dialect.thinking)
        rule = output_rule(request, self.dialect, thinking=thinking, controls=self._controls)
        tokens, media = self._read(text, reader, keep=_keep(options))
        kept, cuts = places(request, stay, tokens, beginning) if shift else (0, ())
        stops = [*options.get("stop", []), *self.template.stop]
        tools, parallel = offered_tools(request), request.parallel_tool_calls
        ids = call_ids(nonce)
        return Task(
            Prompt(
                tokens,
                options,
                stops=stops,
                rule=rule,
                keep=max(kept, int(options.get("context_keep", 0))),
                places=cuts,
                shown=frozenset(self._controls.values()),
                ends=self._end_tokens,
                thinking=self.dialect.thinking,
                thought=thinking,
                priority=request.priority,
                client=request.client,
                media=media,
            ),
            lambda: ChatAnswer(self.dialect.parser(tools, thinking=thinking, parallel=parallel, make_id=next(ids))),
            chat_result,
        )

    def _reader(self, request: ChatCompletionRequest) -> MediaReader:
        """What reads the media of `request`; raises `Unsupported` for one of a kind that the model cannot read."""
        return MediaReader(self._projector, Media(request, self._projector.kinds if self._projector else frozenset()))

    def _render(self, request: ChatCompletionRequest, reader: MediaReader, *, opened: bool = True) -> str:
        """The prompt, with stand-ins for media and for control tokens in messages."""
        return self.template.render(self._guard.mask(request), opened=opened, media=reader.media)

    def _may_fit(self, reader: MediaReader, request: ChatCompletionRequest) -> bool:
        """Whether the prompt fits into the context, with at least one token of an answer."""
        text = self._render(request, reader)
        if self._model.least_tokens(self._plain_text(text, reader)) >= self._context:
            return False
        return len(self._read(text, reader, keep=0)[0]) < self._context

    def _beginning(self, reader: MediaReader, request: ChatCompletionRequest) -> list[int]:
        """The tokens of a conversation without an answer opened behind it."""
        request = msgspec.structs.replace(request, continue_final_message=False)
        return self._read(self._render(request, reader, opened=False), reader, keep=0)[0]

    def _ids(self, controls: Iterable[str]) -> dict[str, int]:
        """The ids of control tokens by their texts."""
        found = {text: self._model.tokenize(text, add_special=False, parse_special=True) for text in controls}
        return {text: tokens[0] for text, tokens in found.items() if len(tokens) == 1}

    def preload(self, preload: Preload) -> tuple[list[int], tuple[MediaChunk, ...]]:
        """The tokens that a configured beginning stands for, and what some of them stand in for."""
        if preload.prefix is not None:
            return self._tokenize(preload.prefix), ()
        reader = self._reader(ChatCompletionRequest(model="preload", messages=preload.messages or []))
        request = reader.media.request
        with_turn, media = self._read(self._render(request, reader), reader, keep=None)
        # What the template adds to open the answer is not part of the beginning: another message may follow.
        other = msgspec.structs.replace(request, messages=[*request.messages, OTHER])
        longer, _ = self._read(self._render(other, reader), reader, keep=None)
        return with_turn[: common_prefix(with_turn, longer)], media

    def _echo(self, request: TextCompletionRequest, prompt: Prompt) -> str:
        """What `echo` puts before the output."""
        if not request.echo:
            return ""
        return request.prompt if isinstance(request.prompt, str) else self._model.text(prompt.tokens)

    # --- inner workings

    def _text_tokens(self, request: TextCompletionRequest, *, keep: int | None) -> list[int]:
        if request.suffix is not None:
            return self._middle(request)
        if isinstance(request.prompt, str):
            return self._tokenize(request.prompt, keep=keep)
        self._model.check_tokens(request.prompt, "prompt")
        return list(request.prompt)

    def _middle(self, request: TextCompletionRequest) -> list[int]:
        if not isinstance(request.prompt, str):
            raise InvalidRequest("suffix needs the prompt as text.", param="suffix")
        if self._model.fill_in_the_middle is None:
            raise Unsupported(
                "This model was not trained to fill in the middle, so suffix cannot be used.", param="suffix"
            )
        before, after, middle = self._model.fill_in_the_middle
        parts = [self._plain(text) for text in (request.prompt, request.suffix or "")]
        tokens = [before, *parts[0], after, *parts[1], middle]
        if len(tokens) >= self._context:  # nothing of it can be left out, so it is not shifted
            raise context_exceeded(len(tokens), self._context)
        return tokens

    def _plain(self, text: str) -> list[int]:
        self._check_length(text)
        return self._model.tokenize(text, add_special=False, parse_special=False)

    def _read(self, text: str, reader: MediaReader, *, keep: int | None) -> tuple[list[int], tuple[MediaChunk, ...]]:
        """The tokens of a rendered chat, and what those stand in for that are no tokens."""
        if not reader.media.all:
            return self._tokenize_guarded(text, keep=keep), ()
        if keep is None:
            self._check_length(self._plain_text(text, reader))
        return reader.read(text, self._tokenize_part)

    def _plain_text(self, text: str, reader: MediaReader) -> str:
        """A rendered chat without stand-ins."""
        return self._guard.unmask(reader.media.without(text))

    def _tokenize_part(self, text: str, begins: bool) -> list[int]:
        """The tokens of a part of a rendered chat, which it begins with or not."""
        tokens: list[int] = []
        for index, (piece, special) in enumerate(self._guard.pieces(text)):
            if begins and index == 0:
                tokens += self._start(piece)
            else:
                tokens += self._model.tokenize(piece, add_special=False, parse_special=special)
        return tokens

    def _tokenize_guarded(self, text: str, *, keep: int | None) -> list[int]:
        """The tokens of a rendered chat; what its messages hold of control tokens is text."""
        _, *rest = self._guard.pieces(text)
        if not rest:
            return self._tokenize(text, keep=keep)
        if keep is None:
            self._check_length(self._guard.unmask(text))
        return self._tokenize_part(text, True)

    def _tokenize(self, text: str, *, keep: int | None = None) -> list[int]:
        """The tokens of a prompt; the first token that the model wants is not put there twice.

        Args:
            keep: the prompt may be shifted, behind this many tokens: what is sure to be left out is not read.
        """
        if keep is None:
            self._check_length(text)
        head, tail = self._ends(text, keep or 0)
        tokens = self._start(head)
        if not tail:
            return tokens
        return tokens[:keep] + self._model.tokenize(tail, add_special=False, parse_special=True)

    def _start(self, text: str) -> list[int]:
        has_bos = bool(self._model.bos) and text.startswith(self._model.bos)
        return self._model.tokenize(text, add_special=not has_bos, parse_special=True)

    def _ends(self, text: str, keep: int) -> tuple[str, str]:
        """The beginning of a long text, with `keep` tokens, and the end, with a whole context; or all of it."""
        first = min(keep, self._context) * self._model.longest_piece
        last = self._context * self._model.longest_piece
        return (text, "") if len(text) <= first + last else (text[:first], text[-last:])

    def _check_length(self, text: str) -> None:
        at_least = self._model.least_tokens(text)
        if at_least >= self._context:
            raise context_exceeded(at_least, self._context, at_least=True)


def _keep(options: dict[str, Any]) -> int | None:
    """How many leading tokens stay when a prompt is too long; ``None`` when it is refused."""
    return int(options.get("context_keep", 0)) if options.get("context_overflow", "refuse") == "shift" else None
