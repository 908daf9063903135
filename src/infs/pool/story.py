"""What has become of a request so far: enough to go on with it in another worker, and to tell nothing twice."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import msgspec

from infs.config import ModelConfig
from infs.errors import GenerationFailed
from infs.types import Delta, Event, Progress, Result, ToolCallDelta, Trail


@dataclass(slots=True)
class Told:
    """What was told of one choice: texts in pieces, arguments of calls by their lengths."""

    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)
    logprobs: int = 0
    finished: bool = False

    def add(self, delta: Delta) -> None:
        """`delta` is told."""
        if delta.text:
            self.texts.append(delta.text)
        if delta.reasoning:
            self.reasonings.append(delta.reasoning)
        for call in delta.tool_calls:
            self.calls[call.index] = self.calls.get(call.index, 0) + len(call.arguments)
        self.logprobs += len(delta.logprobs)
        self.finished = self.finished or delta.finish_reason is not None


class Repeated:
    """How far a worker that tells a choice from the beginning has come, and what the client knew before it did."""

    def __init__(self, told: Told) -> None:
        self._text, self._reasoning = "".join(told.texts), "".join(told.reasonings)
        self._calls, self._logprobs, self._finished = dict(told.calls), told.logprobs, told.finished
        self._texts = self._reasonings = self._scores = 0
        self._arguments: dict[int, int] = {}

    def rest(self, delta: Delta) -> Delta | None:
        """What of `delta` is new; ``None`` if nothing is."""
        text = _rest(self._text, self._texts, delta.text)
        reasoning = _rest(self._reasoning, self._reasonings, delta.reasoning)
        calls = [call for call in map(self._new_call, delta.tool_calls) if call is not None]
        logprobs = delta.logprobs[max(0, self._logprobs - self._scores) :]
        reason = None if self._finished else delta.finish_reason
        self._texts += len(delta.text)
        self._reasonings += len(delta.reasoning)
        self._scores += len(delta.logprobs)
        if not (text or reasoning or calls or logprobs or reason):
            return None
        return msgspec.structs.replace(
            delta, text=text, reasoning=reasoning, tool_calls=calls, logprobs=logprobs, finish_reason=reason
        )

    def _new_call(self, call: ToolCallDelta) -> ToolCallDelta | None:
        before = self._arguments.get(call.index, 0)
        self._arguments[call.index] = before + len(call.arguments)
        if call.index not in self._calls:
            return call
        known = max(0, self._calls[call.index] - before)
        if len(call.arguments) <= known:
            return None
        return ToolCallDelta(index=call.index, arguments=call.arguments[known:])


class Story:
    """One request on its way through one or several workers.

    An engine that takes a request up again tells everything from the beginning; `news` is what of that is new.

    Attributes:
        nonce: see `RunContext`; the same for all workers.
        trail: see `RunContext`.
        deaths: workers that ended while they ran it, since it last came any further.
        worked: how many workers ran it.
    """

    def __init__(self) -> None:
        self.nonce = secrets.randbits(63) | 1
        self.trail: list[list[int]] = []
        self.deaths = 0
        self.worked = 0
        self._told: dict[int, Told] = {}
        self._repeated: dict[int, Repeated] = {}
        self._places: dict[int, int] = {}
        self._config: ModelConfig | None = None

    def begin(self, config: ModelConfig) -> None:
        """A worker with a model of this configuration runs it now.

        Raises:
            GenerationFailed: the model was changed since the request was begun, so nobody can go on with it.
        """
        if self._config is not None and self.told and config != self._config:
            raise GenerationFailed(
                "The worker that ran the request died, and the model's configuration was changed meanwhile: "
                "send the request again."
            )
        self._config = config
        self.worked += 1
        self._places = {}
        self._repeated = {index: Repeated(told) for index, told in self._told.items()}

    @property
    def told(self) -> bool:
        """Whether the client has been told of any output."""
        return bool(self._told)

    @property
    def resumable(self) -> bool:
        """Whether another worker can go on: with what the client knows, or because it knows nothing yet."""
        return not self.told or bool(self.trail)

    def news(self, event: Event) -> Event | None:
        """`event` without what the client knows already; ``None`` if there is nothing left of it.

        Raises:
            GenerationFailed: the other worker tells another story.
        """
        if isinstance(event, Trail):
            self._note(event)
            return None
        if isinstance(event, Delta):
            repeated = self._repeated.get(event.index)
            new = repeated.rest(event) if repeated is not None else event
            if new is not None:
                self._told.setdefault(event.index, Told()).add(new)
            return new
        if isinstance(event, Result):
            return event
        return None if isinstance(event, Progress) and event.stage == "prompt" and self.told else event

    # --- tokens

    def _note(self, event: Trail) -> None:
        while len(self.trail) <= event.index:
            self.trail.append([])
        known = self.trail[event.index]
        place = self._places.get(event.index, 0)
        self._places[event.index] = place + len(event.tokens)
        new = event.tokens[max(0, len(known) - place) :]
        if new:
            known += new
            self.deaths = 0  # whatever ended its workers, it got past that


def _rest(told: str, place: int, new: str) -> str:
    """What of `new`, which stands at `place`, goes beyond `told`."""
    known = told[place : place + len(new)]
    if not new.startswith(known):
        raise GenerationFailed("The worker that ran the request died, and another one could not go on with it.")
    return new[len(known) :]
