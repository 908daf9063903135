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
    """What the client knows of one choice. A call is known by its place, with the length of its arguments."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, int] = field(default_factory=dict)
    logprobs: int = 0
    finished: bool = False

    def add(self, delta: Delta) -> None:
        """The client is told `delta`."""
        self.text += delta.text
        self.reasoning += delta.reasoning
        for call in delta.tool_calls:
            self.calls[call.index] = self.calls.get(call.index, 0) + len(call.arguments)
        self.logprobs += len(delta.logprobs)
        self.finished = self.finished or delta.finish_reason is not None


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
        self._again: dict[int, Told] = {}
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
        self._again, self._places = {}, {}

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
            return self._new_part(event) if self.worked > 1 else self._pass(event)
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

    # --- deltas

    def _pass(self, delta: Delta) -> Delta:
        self._told.setdefault(delta.index, Told()).add(delta)
        return delta

    def _new_part(self, delta: Delta) -> Delta | None:
        told = self._told.setdefault(delta.index, Told())
        again = self._again.setdefault(delta.index, Told())
        text = _rest(told.text, again.text, delta.text)
        reasoning = _rest(told.reasoning, again.reasoning, delta.reasoning)
        calls = [call for call in (_new_call(told, again, call) for call in delta.tool_calls) if call is not None]
        logprobs = delta.logprobs[max(0, told.logprobs - again.logprobs) :]
        reason = None if told.finished else delta.finish_reason
        again.add(delta)
        if not (text or reasoning or calls or logprobs or reason):
            return None
        return self._pass(
            msgspec.structs.replace(
                delta, text=text, reasoning=reasoning, tool_calls=calls, logprobs=logprobs, finish_reason=reason
            )
        )


def _rest(told: str, again: str, new: str) -> str:
    """What of `new`, which follows `again`, goes beyond `told`."""
    known = told[len(again) : len(again) + len(new)]
    if not new.startswith(known):
        raise GenerationFailed("The worker that ran the request died, and another one could not go on with it.")
    return new[len(known) :]


def _new_call(told: Told, again: Told, call: ToolCallDelta) -> ToolCallDelta | None:
    if call.index not in told.calls:
        return call
    known = max(0, told.calls[call.index] - again.calls.get(call.index, 0))
    if len(call.arguments) <= known:
        return None
    return ToolCallDelta(index=call.index, arguments=call.arguments[known:])
