"""The loop: calls run, results fed back, streams, choices."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from infs import ServerTool, ToolContext, tool
from infs.codec import RequestCodec
from infs.engines.base import RunContext
from infs.errors import GenerationFailed, InvalidRequest
from infs.types import (
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    Event,
    Message,
    NamedTool,
    Request,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolUse,
    Usage,
)
from tests.toolbox.scripted import (
    CLIENTS,
    USER,
    Place,
    Scripted,
    add,
    calling,
    pieces,
    run,
    saying,
    server_of,
    stream,
    told,
)


async def test_calls_are_run_and_their_results_fed_back() -> None:
    engine = Scripted(
        calling(("add", {"a": 2, "b": 3}), text="Let me see."), calling(("add", {"a": 5, "b": 1})), saying("It is 6.")
    )
    result = await run(engine, add)
    assert result.text == "It is 6."
    assert result.choices[0].finish_reason == "stop"
    assert [(m.role, m.text, m.tool_call_id) for m in result.choices[0].messages] == [
        ("assistant", "Let me see.", None),
        ("tool", "5", "call_0"),
        ("assistant", "", None),
        ("tool", "6", "call_0"),
    ]
    assert engine.asked[2].messages == [USER, *result.choices[0].messages]
    assert engine.asked[1].messages == [USER, *result.choices[0].messages[:2]]
    assert all(type(offered) is Tool for request in engine.asked for offered in request.tools)
    assert result.usage == Usage(prompt_tokens=30, completion_tokens=9, cached_tokens=1 + 2 + 3)


async def test_a_stream_has_texts_and_uses_and_no_handled_calls() -> None:
    engine = Scripted(
        calling(("add", {"a": 2, "b": 3}), text="Let me see.", reasoning="Hm."),
        replace(saying("It is 5."), reasoning="So"),
    )
    *events, result = await stream(engine, add)
    assert isinstance(result, ChatCompletionResult)
    call = ToolCall(id="call_0", name="add", arguments='{"a": 2, "b": 3}')
    shown = [(e.reasoning, e.text, e.finish_reason) if isinstance(e, Delta) else e for e in events]
    assert shown == [
        ("Hm.", "", None),
        ("", "Let ", None),
        ("", "me ", None),
        ("", "see.", None),
        ToolUse(call=call),
        ToolUse(call=call, result="5"),
        ("\n\nSo", "", None),
        ("", "\n\nIt ", None),
        ("", "is ", None),
        ("", "5.", None),
        ("", "", "stop"),
    ]
    assert not any(delta.tool_calls for delta in events if isinstance(delta, Delta))
    assert result.text == "It is 5."


async def test_an_engine_that_does_not_stream_will_do() -> None:
    engine = Scripted(calling(("add", {"a": 2, "b": 3})), saying("5"), streams=False)
    first, second, result = await stream(engine, add)
    assert isinstance(first, ToolUse)
    assert isinstance(second, ToolUse)
    assert isinstance(result, ChatCompletionResult)
    assert result.text == "5"


async def test_text_and_calls_in_one_piece_are_parted() -> None:
    class Lumps(Scripted):
        async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
            async for event in super().run(request, context):
                if isinstance(event, ChatCompletionResult):
                    [choice] = event.choices
                    said = choice.message
                    calls = [
                        ToolCallDelta(index=number, id=call.id, name=call.name, arguments=call.arguments)
                        for number, call in enumerate(said.tool_calls)
                    ]
                    yield Delta(text=said.content or "", tool_calls=calls, finish_reason=choice.finish_reason)
                yield event

    engine = Lumps(calling(("add", {"a": 1, "b": 1}), text="See:"), saying("2"), streams=False)
    events = await stream(engine, add)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [(delta.text, delta.tool_calls, delta.finish_reason) for delta in deltas] == [
        ("See:", [], None),
        ("\n\n2", [], "stop"),
    ]


async def test_a_handler_gets_the_context_if_it_wants_it() -> None:
    seen: list[ToolContext] = []

    @tool
    async def look(what: str, context: ToolContext | None = None) -> str:
        assert context is not None
        seen.append(context)
        return what

    engine = Scripted(calling(("look", {"what": "x"}), text="Looking."), calling(("look", {"what": "y"})), saying("."))
    result = await run(engine, look)
    first, second = seen
    assert (first.model, first.index, first.text, first.messages) == ("m", 0, "Looking.", [USER])
    assert first.call == ToolCall(id="call_0", name="look", arguments='{"what": "x"}')
    assert second.text == ""
    assert second.messages == [USER, *result.choices[0].messages[:2]]
    assert "context" not in json.dumps(engine.asked[0].tools[0].parameters)


async def test_sync_handlers_run_in_threads_and_awaitables_are_awaited() -> None:
    async def later(a: int) -> str:
        return f"later {a}"

    @tool
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    lazy = ServerTool(name="lazy", handler=lambda arguments: later(arguments["a"]))
    bound = tool(partial(later, a=1), name="bound")
    engine = Scripted(calling(("where", {}), ("lazy", {"a": 2}), ("bound", {})), saying("."))
    await run(engine, where, lazy, bound)
    assert told(engine) == ["false", "later 2", "later 1"]


async def test_results_are_text_or_json() -> None:
    values: list[Any] = ["plain", {"a": [1, None]}, None, Place(city="Rome")]
    tools = [ServerTool(name=f"t{number}", handler=lambda _, value=value: value) for number, value in enumerate(values)]
    engine = Scripted(calling(*((made.name, {}) for made in tools)), saying("."))
    await run(engine, *tools)
    assert told(engine) == ["plain", '{"a":[1,null]}', "null", '{"city":"Rome"}']


async def test_defaults_stay_the_functions_own_and_numbers_may_be_texts() -> None:
    seen: list[Any] = []

    @tool
    def take(a: int, names: list[str] = ["x"]) -> None:  # noqa: B006 - as users do
        seen.append((a, names))

    engine = Scripted(calling(("take", {"a": "5"}), ("take", {"a": 6, "names": []})), saying("."))
    await run(engine, take, parallel_tool_calls=False)
    assert seen == [(5, ["x"]), (6, [])]


async def test_only_the_first_run_insists_on_a_call() -> None:
    for choice in ("required", NamedTool(names=["add"])):
        engine = Scripted(calling(("add", {"a": 1, "b": 1})), saying("2"))
        await run(engine, add, tool_choice=choice)
        assert [request.tool_choice for request in engine.asked] == [choice, "auto"]
    allowed = NamedTool(names=["add"], required=False)
    engine = Scripted(calling(("add", {"a": 1, "b": 1})), saying("2"))
    await run(engine, add, tool_choice=allowed)
    assert [request.tool_choice for request in engine.asked] == [allowed, allowed]


async def test_a_message_with_a_call_for_the_client_goes_to_the_client() -> None:
    used: list[int] = []
    mine = tool(lambda: used.append(1), name="add")
    for calls in ([("add", {"a": 1, "b": 1}), ("theirs", {})], [("theirs", {}), ("add", {"a": 1, "b": 1})]):
        engine = Scripted(calling(*calls, text="So:"))
        *events, result = await stream(engine, mine, CLIENTS)
        assert isinstance(result, ChatCompletionResult)
        [choice] = result.choices
        assert (choice.finish_reason, choice.messages) == ("tool_calls", [])
        assert [call.name for call in choice.message.tool_calls] == [name for name, _ in calls]
        assert events == pieces(choice), "nothing is lost, and nothing changes places"
        assert used == []


async def test_after_rounds_here_the_client_can_have_its_turn() -> None:
    engine = Scripted(calling(("add", {"a": 1, "b": 1})), calling(("theirs", {}), text="Now you."))
    result = await run(engine, add, CLIENTS)
    [choice] = result.choices
    assert choice.finish_reason == "tool_calls"
    assert [call.name for call in choice.message.tool_calls] == ["theirs"]
    assert [message.role for message in choice.messages] == ["assistant", "tool"]


async def test_a_message_that_was_cut_off_is_not_run() -> None:
    engine = Scripted(calling(("add", '{"a": 1'), text="x"), cut=True)
    *events, result = await stream(engine, add)
    assert isinstance(result, ChatCompletionResult)
    assert result.choices[0].finish_reason == "length"
    assert events == pieces(result.choices[0])


async def test_rounds_have_a_limit() -> None:
    again = calling(("add", {"a": 1, "b": 1}))
    engine = Scripted(*[again] * 3)
    with pytest.raises(GenerationFailed, match="after 2 rounds") as caught:
        await run(engine, add, max_tool_rounds=2)
    assert caught.value.param == "max_tool_rounds"
    assert len(engine.asked) == 3
    assert (await run(Scripted(again, again, saying("2")), add, max_tool_rounds=2)).text == "2"
    by_default = Scripted(*[again] * 9)
    with pytest.raises(GenerationFailed, match="after 8 rounds"):
        await run(by_default, add)
    with pytest.raises(InvalidRequest, match="max_tool_rounds"):
        await run(Scripted(), add, max_tool_rounds=0)


async def test_choices_go_on_side_by_side_each_by_itself() -> None:
    together = asyncio.Barrier(2)

    @tool
    async def meet(who: str, context: ToolContext) -> str:
        await together.wait()
        return f"{who} {context.index}"

    engine = Scripted(
        calling(("meet", {"who": "a"})), saying("I know."), calling(("meet", {"who": "c"})), saying("X"), saying("Y")
    )
    *events, result = await asyncio.wait_for(stream(engine, meet, n=3), 20)
    assert isinstance(result, ChatCompletionResult)
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    assert result.choices[1].message.content == "I know."
    assert [[m.text for m in choice.messages] for choice in result.choices] == [["", "a 0"], [], ["", "c 2"]]
    assert {result.choices[0].message.content, result.choices[2].message.content} == {"X", "Y"}
    for choice in result.choices:
        deltas = [event for event in events if isinstance(event, Delta) and event.index == choice.index]
        assert "".join(delta.text for delta in deltas) == choice.message.content
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert [request.n for request in engine.asked] == [3, 1, 1]
    assert result.usage.prompt_tokens == 30


async def test_a_message_that_the_request_began_stays_one_message() -> None:
    begun = Message(role="assistant", content="Well, ")
    engine = Scripted(calling(("add", {"a": 1, "b": 1}), text="wait."), saying("2"))
    async with server_of(engine) as server:
        await server.chat_completion(model="m", messages=[USER, begun], tools=[add], continue_final_message=True)
    _, whole, result = engine.asked[1].messages
    assert (whole.content, len(whole.tool_calls), result.content) == ("Well, wait.", 1, "2")
    assert engine.asked[1].continue_final_message is False


async def test_requests_without_such_tools_are_left_alone() -> None:
    engine = Scripted(calling(("theirs", {})))
    *events, result = await stream(engine, CLIENTS)
    assert isinstance(result, ChatCompletionResult)
    assert events == pieces(result.choices[0])


@pytest.mark.parametrize("tools", [None, 3, "add", [3], [{"title": "x"}]])
async def test_tools_that_are_none_are_refused(tools: Any) -> None:
    async with server_of(Scripted()) as server:
        with pytest.raises(InvalidRequest, match="tools"):
            await server.run(ChatCompletionRequest(model="m", messages=[USER], tools=tools))
        with pytest.raises(InvalidRequest, match=r"tools\[0\]\.name"):
            await server.run(ChatCompletionRequest(model="m", messages=[USER], tools=[tool(lambda: 1)]))


def test_the_event_survives_the_pipe() -> None:
    codec = RequestCodec()
    use = ToolUse(index=1, call=ToolCall(id="1", name="a", arguments="{}"), result="x", failed=True)
    assert codec.decode_event(codec.encode(use)) == use


async def test_calls_of_one_message_run_at_the_same_time() -> None:
    tasks, threads = asyncio.Barrier(2), threading.Barrier(2)

    @tool
    async def wait() -> str:
        await tasks.wait()
        return "w"

    @tool
    def block() -> str:
        threads.wait(20)
        return "b"

    engine = Scripted(calling(("wait", {}), ("block", {}), ("wait", {}), ("block", {})), saying("."))
    await asyncio.wait_for(run(engine, wait, block), 20)
    assert told(engine) == ["w", "b", "w", "b"]


async def test_results_are_told_as_they_come_and_fed_back_in_order() -> None:
    go = asyncio.Event()

    @tool
    async def slow() -> str:
        await go.wait()
        return "s"

    @tool
    async def quick() -> str:
        return "q"

    engine = Scripted(calling(("slow", {}), ("quick", {})), saying("."))
    request = ChatCompletionRequest(model="m", messages=[USER], tools=[slow, quick])
    results = []
    async with server_of(engine) as server, aclosing(server.stream(request)) as events:
        async for event in events:
            if isinstance(event, ToolUse) and event.result is not None:
                results.append(event.result)
                go.set()
    assert results == ["q", "s"]
    assert told(engine) == ["s", "q"]


@pytest.mark.parametrize("by_request", [True, False])
async def test_calls_run_one_after_the_other_where_that_is_asked_for(by_request: bool) -> None:
    running: list[str] = []
    most: list[int] = []

    async def work(name: str) -> str:
        running.append(name)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(name)
        return name

    shy = tool(work, name="shy", parallel=by_request)
    open_ = tool(work, name="open")
    calls = [("open", {"name": "a"}), ("shy", {"name": "b"}), ("open", {"name": "c"})]
    engine = Scripted(calling(*calls), saying("."))
    events = await stream(engine, shy, open_, parallel_tool_calls=not by_request)
    uses = [(e.call.arguments[-3], e.result) for e in events if isinstance(e, ToolUse)]
    assert uses == [("a", None), ("a", "a"), ("b", None), ("b", "b"), ("c", None), ("c", "c")]
    assert most == [1, 1, 1]
