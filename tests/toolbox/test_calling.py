"""What goes wrong in handlers, and what the model hears of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from infs import ServerTool, tool
from infs.errors import RequestTimeout, Unauthorized
from infs.types import (
    ChatCompletionRequest,
    ToolUse,
)
from tests.engines.kit import eventually
from tests.toolbox.scripted import USER, Scripted, add, calling, run, saying, server_of, stream, told


class Cause(Exception):
    """Of a handler's own."""


async def failing(arguments: dict[str, Any]) -> Any:
    match arguments["how"]:
        case "raise":
            raise Cause("no such thing")
        case "exit":
            sys.exit(3)
        case "stop":
            raise StopAsyncIteration
        case "cancel":
            raise asyncio.CancelledError
        case "timeout":
            raise TimeoutError("theirs")
        case "object":
            return object()
        case "surrogate":
            return "a \ud800"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "Error: Cause: no such thing"),
        ("exit", "Error: SystemExit: 3"),
        ("stop", "Error: StopAsyncIteration: "),
        ("cancel", "Error: the call was cancelled."),
        ("timeout", "Error: TimeoutError: theirs"),
        ("object", "Error: TypeError: Encoding objects of type object is unsupported"),
        ("surrogate", "Error: UnicodeEncodeError: "),
    ],
)
async def test_what_a_handler_raises_is_told_to_the_model(how: str, said: str, sync: bool) -> None:
    def in_thread(arguments: dict[str, Any]) -> Any:
        try:
            failing(arguments).send(None)
        except StopIteration as done:
            return done.value

    bad = ServerTool(name="bad", handler=in_thread if sync else failing, timeout=20)
    engine = Scripted(calling(("bad", {"how": how}), ("add", {"a": 1, "b": 1})), saying("Sorry."))
    events = await stream(engine, bad, add)
    failed, fine = told(engine)
    assert failed.startswith(said)
    assert fine == "2"
    ended = {e.call.name: (e.result, e.failed) for e in events if isinstance(e, ToolUse) and e.result is not None}
    assert ended == {"bad": (failed, True), "add": ("2", False)}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("add", {"a": "many", "b": 1}, "Error: the arguments do not fit: a: Expected `int`, got `str`"),
        ("add", {"a": 1}, "Error: the arguments do not fit: Object missing required field `b`"),
        ("add", {"a": 1, "b": 2, "c": 3}, "Error: the arguments do not fit: Object contains unknown field `c`"),
        ("add", [1, 2], "Error: the arguments do not fit: Expected `object`, got `array`"),
        ("add", '{"a": 1', "Error: the arguments are not JSON: "),
        ("add", '{"a": "\\ud800", "b": 1}', "Error: the arguments are not JSON: "),
        ("add", "[" * 100_000, "Error: the arguments"),
        ("sub", {}, "Error: there is no tool 'sub'; there are: add."),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(name: str, arguments: Any, said: str) -> None:
    engine = Scripted(calling((name, arguments)), saying("Sorry."))
    assert (await run(engine, add)).text == "Sorry."
    [result] = told(engine)
    assert result.startswith(said)


async def test_no_arguments_at_all_are_none() -> None:
    engine = Scripted(calling(("ping", "")), saying("."))
    await run(engine, tool(lambda: "pong", name="ping"))
    assert told(engine) == ["pong"]


async def test_an_error_of_this_library_ends_the_request_and_the_other_calls() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @tool
    async def refuse() -> None:
        await started.wait()
        raise Unauthorized("not you")

    engine = Scripted(calling(("hang", {}), ("refuse", {})))
    with pytest.raises(Unauthorized, match="not you"):
        await run(engine, hang, refuse)
    assert cancelled.is_set()


async def test_a_handler_that_hangs_is_given_up() -> None:
    cancelled, release = asyncio.Event(), threading.Event()

    @tool(timeout=0.01)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @tool(timeout=0.01)
    def block() -> None:
        release.wait(60)

    engine = Scripted(calling(("hang", {}), ("block", {})), saying("Too slow."))
    try:
        assert (await run(engine, hang, block)).text == "Too slow."
    finally:
        release.set()
    assert told(engine) == ["Error: no result within 0.01 seconds."] * 2
    assert cancelled.is_set()


def test_a_handler_that_hangs_for_ever_does_not_keep_the_program(tmp_path: Path) -> None:
    code = """
import asyncio, threading
from infs.toolbox.calling import in_thread
async def main():
    try:
        async with asyncio.timeout(0.01):
            await in_thread(threading.Event().wait)
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "given up", "")


@pytest.mark.parametrize("parallel", [True, False])
async def test_cancelling_the_request_cancels_its_handlers(parallel: bool) -> None:
    began, ended = [], []

    @tool(parallel=parallel)
    async def hang() -> None:
        began.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    calls: list[tuple[str, Any]] = [("hang", {})] * (2 if parallel else 1)
    engine = Scripted(calling(*calls), calling(*calls))
    request = ChatCompletionRequest(model="m", messages=[USER], tools=[hang])
    async with server_of(engine) as server:
        task = asyncio.ensure_future(server.run(request))
        await eventually(lambda: len(began) == len(calls))
        assert server.pool.running == 0, "no place is held while tools run"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ended) == len(calls)
        with pytest.raises(RequestTimeout):
            await server.run(replace(request, timeout=0.05))
        assert len(began) == len(ended)
