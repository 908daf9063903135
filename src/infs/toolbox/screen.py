"""What of one run of the model is passed on while it happens: calls wait until it is known whose they are."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec.structs import replace

from infs.types import AssistantMessage, ChatChoice, ChatCompletionResult, Delta, Event

BREAK = "\n\n"  # between what was said before calls and what is said after them


class Screen:
    """Passes on the events of one run, without calls that the server carries out.

    Text passes at once. Calls are held back until the message is complete, or until one of them is the client's:
    then all of them are.

    Args:
        theirs: the names of tools that the client carries out.
        ours: says of a choice that is complete whether the server goes on with it.
        index: the number that the only choice of this run has for the client; as in the run by default.
        before: the message that the text of this run follows.
    """

    def __init__(
        self,
        theirs: Collection[str],
        ours: Callable[[ChatChoice], bool],
        *,
        index: int | None = None,
        before: AssistantMessage | None = None,
    ) -> None:
        self._theirs = theirs
        self._ours = ours
        self._index = index
        self._breaks = {"text": bool(before and before.content), "reasoning": bool(before and before.reasoning)}
        self._held: dict[int, list[Delta]] = {}
        self._free: set[int] = set()
        self.result: ChatCompletionResult | None = None

    def see(self, event: Event) -> list[Event]:
        """What may be passed on, now that `event` happened. The result is kept, in `result`."""
        if isinstance(event, Delta):
            return [self._placed(delta) for delta in self._passed(event)]
        if not isinstance(event, ChatCompletionResult):
            return [event]
        self.result = event
        theirs = [choice.index for choice in event.choices if not self._ours(choice)]
        return [self._placed(delta) for index in theirs for delta in self._held.pop(index, [])]

    def _passed(self, delta: Delta) -> list[Delta]:
        if delta.index in self._free:
            return [delta]
        held = self._held.setdefault(delta.index, [])
        if any(call.name in self._theirs for call in delta.tool_calls):
            self._free.add(delta.index)
            return [*self._held.pop(delta.index), delta]
        if not held and not delta.tool_calls and delta.finish_reason != "tool_calls":
            return [delta]
        spoken = bool(delta.text or delta.reasoning)
        held.append(replace(delta, text="", reasoning="", logprobs=[] if spoken else delta.logprobs))
        return [replace(delta, tool_calls=[], finish_reason=None)] if spoken else []

    def _placed(self, delta: Delta) -> Delta:
        if self._index is None:
            return delta
        changes = {"index": self._index} | self._broken(delta)
        return replace(delta, **changes)

    def _broken(self, delta: Delta) -> dict[str, str]:
        """The first text and the first reasoning, with a break before them where something was said before."""
        due = {name: text for name in self._breaks if self._breaks[name] and (text := getattr(delta, name))}
        self._breaks |= dict.fromkeys(due, False)
        return {name: BREAK + text for name, text in due.items()}
