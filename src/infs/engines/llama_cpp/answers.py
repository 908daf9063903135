"""From pieces of text to the events of a task: the deltas on the way and the result at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from infs.batching.base import Counts
from infs.batching.scheduler import total
from infs.chat.parser import OutputParser, delta_of
from infs.engines.llama_cpp.generation import Prompt
from infs.engines.llama_cpp.output import Piece
from infs.types import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionResult,
    CompletionChoice,
    Delta,
    Event,
    FinishReason,
    Progress,
    Result,
    TextCompletionResult,
    TokenLogprob,
    ToolCall,
    Trail,
    Usage,
)


class Choice(Protocol):
    """One text on its way, as its task sees it. `done`: whatever follows does not count."""

    @property
    def done(self) -> bool: ...

    def feed(self, text: str) -> list[Delta]:
        """The deltas that more text makes (without index and log-probabilities)."""
        ...

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        """The rest, and the reason that the task gives for the end."""
        ...


@dataclass(slots=True)
class Ending:
    """What is known of a choice at its end."""

    index: int
    choice: Choice
    reason: FinishReason
    logprobs: list[TokenLogprob] | None


class TextChoice:
    """Plain text. `start` comes before the output (an echoed prompt)."""

    done = False

    def __init__(self, start: str = "") -> None:
        self.text = ""
        self._start = start

    def feed(self, text: str) -> list[Delta]:
        """The text itself."""
        text, self._start = self._start + text, ""
        self.text += text
        return [Delta(text=text)] if text else []

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        """What was to be echoed, if nothing else came."""
        return self.feed(""), reason


class ChatAnswer:
    """An assistant's message, taken apart by the parser of the model's dialect."""

    def __init__(self, parser: OutputParser) -> None:
        self._parser = parser
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []

    def feed(self, text: str) -> list[Delta]:
        """Content, reasoning and tool calls in `text`."""
        return self._take(delta_of(self._parser.feed(text)))

    def finish(self, reason: FinishReason) -> tuple[list[Delta], FinishReason]:
        """The rest; a message that stopped after calling tools stopped for them."""
        return self._take(delta_of(self._parser.finish())), self._parser.finish_reason(reason)

    @property
    def done(self) -> bool:
        """The one call that was allowed is complete."""
        return self._parser.done

    @property
    def message(self) -> AssistantMessage:
        """All of it."""
        content = "".join(self._content)
        return AssistantMessage(
            content=content if content or not self._calls else None,
            reasoning="".join(self._reasoning) or None,
            tool_calls=self._calls,
        )

    def _take(self, delta: Delta) -> list[Delta]:
        self._content.append(delta.text)
        self._reasoning.append(delta.reasoning)
        for call in delta.tool_calls:
            if call.index == len(self._calls):
                self._calls.append(ToolCall(id=call.id or "", name=call.name or "", arguments=call.arguments))
            else:
                old = self._calls[call.index]
                self._calls[call.index] = msgspec.structs.replace(old, arguments=old.arguments + call.arguments)
        return [delta] if delta.text or delta.reasoning or delta.tool_calls else []


@dataclass(slots=True)
class Running:
    """One candidate while it runs."""

    choice: Choice
    logprobs: list[TokenLogprob] = field(default_factory=list)
    score: float = 0.0
    reason: FinishReason = "length"


@dataclass(frozen=True, slots=True)
class Task:
    """A request made ready: its prompt, what a choice of it is, and how choices make its result."""

    prompt: Prompt
    choice: Callable[[], Choice]
    result: Callable[[list[Ending], Usage], Result]


class Answer:
    """The choices of a request while they run, and the events that they make.

    Args:
        trail: tell of the tokens too.
    """

    def __init__(self, task: Task, *, trail: bool = False) -> None:
        self._task = task
        self._trail = trail
        self._running = [Running(task.choice()) for _ in range(task.prompt.candidates)]

    def wants_more(self, index: int) -> bool:
        """Whether anything that choice `index` could still say would count."""
        return not self._running[index].choice.done

    async def events(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Event]:
        """The events. With more candidates than choices only the best are told of, at the end."""
        prompt = self._task.prompt
        live = prompt.candidates == prompt.choices
        counts: dict[int, Counts] = {}
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.computed is not None and piece.index == 0:
                    yield Progress(stage="prompt", done=piece.computed[0], total=piece.computed[1], unit="tokens")
                if piece.tokens and self._trail:
                    yield Trail(index=piece.index, tokens=piece.tokens)
                for delta in _deltas(self._running[piece.index], piece):
                    if live:
                        yield msgspec.structs.replace(delta, index=piece.index)
                if piece.counts is not None:
                    counts[piece.index] = piece.counts
        yield self._task.result(_endings(self._running, prompt), _usage(counts))


def _usage(counts: dict[int, Counts]) -> Usage:
    together = total(counts[index] for index in sorted(counts))
    return Usage(prompt_tokens=together.prompt, completion_tokens=together.generated, cached_tokens=together.cached)


def _deltas(state: Running, piece: Piece) -> list[Delta]:
    state.logprobs += piece.logprobs
    state.score = piece.score
    deltas = state.choice.feed(piece.text) if piece.text or piece.logprobs else []
    if piece.reason is not None:
        rest, state.reason = state.choice.finish(piece.reason)
        deltas = [*deltas, *rest, Delta(finish_reason=state.reason)]
    if piece.logprobs:
        first = deltas[0] if deltas else Delta()
        deltas = [msgspec.structs.replace(first, logprobs=piece.logprobs), *deltas[1:]]
    return deltas


def _endings(running: list[Running], prompt: Prompt) -> list[Ending]:
    """The candidates that are returned, best first where there were more than wanted."""
    chosen = running
    if prompt.candidates > prompt.choices:
        chosen = sorted(running, key=lambda state: -state.score)[: prompt.choices]
    wanted = prompt.options.get("logprobs") is not None
    return [
        Ending(index, state.choice, state.reason, state.logprobs if wanted else None)
        for index, state in enumerate(chosen)
    ]


def text_result(endings: list[Ending], usage: Usage) -> TextCompletionResult:
    """The result of a text completion, whose choices are `TextChoice`."""
    choices = [
        CompletionChoice(index=e.index, text=e.choice.text, finish_reason=e.reason, logprobs=e.logprobs)
        for e in endings
        if isinstance(e.choice, TextChoice)
    ]
    return TextCompletionResult(choices=choices, usage=usage)


def chat_result(endings: list[Ending], usage: Usage) -> ChatCompletionResult:
    """The result of a chat completion, whose choices are `ChatAnswer`."""
    choices = [
        ChatChoice(index=e.index, message=e.choice.message, finish_reason=e.reason, logprobs=e.logprobs)
        for e in endings
        if isinstance(e.choice, ChatAnswer)
    ]
    return ChatCompletionResult(choices=choices, usage=usage)
