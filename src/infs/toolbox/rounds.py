"""The loop of server-side tools: run the model, carry out its calls, feed the results back, until it answers.

It stands above the engines and needs nothing of them but chat completion. Each run of the model is a request of its
own, with a place in an instance of its own, so no place is held while tools run; that the runs share all of their
beginning makes the later ones cheap.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

from msgspec import Struct
from msgspec.structs import replace

from infs.errors import GenerationFailed
from infs.tasks import interleave
from infs.toolbox.calling import call_tool
from infs.toolbox.functions import ServerTool, ToolContext
from infs.toolbox.screen import Screen
from infs.types import (
    UNSET,
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResult,
    Event,
    Message,
    NamedTool,
    ToolCall,
    ToolUse,
    Usage,
)

Run = Callable[[ChatCompletionRequest], AsyncGenerator[Event]]


class Toolbox(Struct, frozen=True, kw_only=True):
    """What one request may use.

    Attributes:
        tools: those that the server carries out, by name.
        theirs: the names of those that the client carries out.
        rounds: how often the results of calls are fed back, at most.
        log: told what goes wrong in handlers.
    """

    tools: Mapping[str, ServerTool]
    theirs: frozenset[str]
    rounds: int
    log: logging.Logger

    def handles(self, choice: ChatChoice) -> bool:
        """Whether the server goes on with `choice`: it ends in calls, and none of them is the client's."""
        calls = choice.message.tool_calls
        return choice.finish_reason == "tool_calls" and bool(calls) and not any(c.name in self.theirs for c in calls)

    async def run(self, request: ChatCompletionRequest, run: Run) -> AsyncGenerator[Event]:
        """The events of `request`, which is run by `run` as often as need be; the last one is the result of it all.

        Raises:
            GenerationFailed: the model wanted another round than the last one allowed.
            InfsError: out of a handler, or of `run`.
        """
        screen = Screen(self.theirs, self.handles)
        async with aclosing(_screened(run(request), screen)) as events:
            async for event in events:
                yield event
        if screen.result is None:
            return
        branches = [Branch(self, request, run, choice) for choice in screen.result.choices]
        going_on = [branch.events() for branch in branches if self.handles(branch.choice)]
        if going_on:
            async with aclosing(interleave(going_on)) as numbered:
                async for _, event in numbered:
                    yield event
        yield _joined(screen.result, branches)

    async def use(self, call: ToolCall, context: ToolContext) -> AsyncGenerator[ToolUse]:
        """The beginning and the end of one call."""
        yield ToolUse(index=context.index, call=call)
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self.tools))
            result, failed = f"Error: there is no tool {call.name!r}; there are: {known}.", True
        else:
            result, failed = await call_tool(tool, context, self.log)
        yield ToolUse(index=context.index, call=call, result=result, failed=failed)

    def side_by_side(self, request: ChatCompletionRequest, calls: Sequence[ToolCall]) -> bool:
        """Whether `calls` may run at the same time."""
        tools = [self.tools[call.name] for call in calls if call.name in self.tools]
        return request.parallel_tool_calls and all(tool.parallel for tool in tools)


class Branch:
    """How one choice goes on."""

    def __init__(self, toolbox: Toolbox, request: ChatCompletionRequest, run: Run, choice: ChatChoice) -> None:
        self._toolbox = toolbox
        self._request = request
        self._run = run
        self._index = choice.index
        self.choice = choice
        self.added: list[Message] = []
        self.usages: list[Usage] = []

    async def events(self) -> AsyncGenerator[Event]:
        """Calls and runs in turn. Afterwards `choice` is the last answer, and `added` what was said before it."""
        for _ in range(self._toolbox.rounds):
            async with aclosing(self._use_tools()) as uses:
                async for use in uses:
                    yield use
            screen = self._screen()
            async with aclosing(_screened(self._run(self._next_request()), screen)) as events:
                async for event in events:
                    yield event
            self._take(screen.result)
            if not self._toolbox.handles(self.choice):
                return
        raise GenerationFailed(
            f"The model called tools again after {self._toolbox.rounds} rounds, the most that max_tool_rounds allows.",
            param="max_tool_rounds",
        )

    async def _use_tools(self) -> AsyncGenerator[ToolUse]:
        said = self.choice.message
        results: dict[int, str] = {}
        async with aclosing(self._uses(said.tool_calls)) as uses:
            async for number, use in uses:
                if use.result is not None:
                    results[number] = use.result
                yield use
        asked = Message(role="assistant", content=said.content, reasoning=said.reasoning, tool_calls=said.tool_calls)
        told = [
            Message(role="tool", content=results[number], tool_call_id=call.id)
            for number, call in enumerate(said.tool_calls)
        ]
        self.added = [*self.added, asked, *told]

    async def _uses(self, calls: Sequence[ToolCall]) -> AsyncGenerator[tuple[int, ToolUse]]:
        uses = [self._toolbox.use(call, self._context(call)) for call in calls]
        if self._toolbox.side_by_side(self._request, calls):
            async with aclosing(interleave(uses)) as mixed:
                async for item in mixed:
                    yield item
            return
        for number, single in enumerate(uses):
            async with aclosing(single) as steps:
                async for use in steps:
                    yield number, use

    def _context(self, call: ToolCall) -> ToolContext:
        return ToolContext(
            model=self._request.model,
            index=self._index,
            call=call,
            text=self.choice.message.content or "",
            messages=[*self._request.messages, *self.added],
        )

    def _screen(self) -> Screen:
        return Screen(self._toolbox.theirs, self._toolbox.handles, index=self._index, before=self.choice.message)

    def _next_request(self) -> ChatCompletionRequest:
        """The request with what happened since. A call that was insisted on has been made."""
        request, choice = self._request, self._request.tool_choice
        forced = choice == "required" or (isinstance(choice, NamedTool) and choice.required)
        return replace(
            request,
            messages=_continued(request, self.added),
            tool_choice="auto" if forced else choice,
            continue_final_message=False,
            n=UNSET if request.n is UNSET else 1,
        )

    def _take(self, result: ChatCompletionResult | None) -> None:
        if result is None:
            raise GenerationFailed(f"The engine of {self._request.model!r} ended without a result.")
        self.choice = replace(result.choices[0], index=self._index)
        self.usages.append(result.usage)


async def _screened(events: AsyncGenerator[Event], screen: Screen) -> AsyncGenerator[Event]:
    async with aclosing(events):
        async for event in events:
            for passed in screen.see(event):
                yield passed


def _continued(request: ChatCompletionRequest, added: Sequence[Message]) -> list[Message]:
    """The conversation with what was added. A message that was begun by the request is still one message."""
    if not request.continue_final_message:
        return [*request.messages, *added]
    *before, begun = request.messages
    whole = replace(added[0], content=begun.text + added[0].text, reasoning=added[0].reasoning or begun.reasoning)
    return [*before, whole, *added[1:]]


def _joined(first: ChatCompletionResult, branches: Sequence[Branch]) -> ChatCompletionResult:
    choices = [replace(branch.choice, messages=branch.added) for branch in branches]
    usages = [first.usage, *(usage for branch in branches for usage in branch.usages)]
    sums = {name: sum(getattr(usage, name) for usage in usages) for name in Usage.__struct_fields__}
    return replace(first, choices=choices, usage=Usage(**sums))
