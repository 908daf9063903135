"""A server without an event loop of one's own: threads, interruption, cancellation, and its end."""

from __future__ import annotations

import _thread
import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from infs.bridge import AHEAD
from infs.config import ModelConfig
from infs.engines.base import RunContext
from infs.errors import GenerationFailed, InfsError, ModelNotFound, ServerClosed, SourceNotFound, Unsupported
from infs.server import InferenceServer
from infs.sync import SyncServer
from infs.testing import FakeEngine
from infs.types import ChatCompletionRequest, ChatCompletionResult, Delta, Event, Message, Request

PATIENCE = 20.0  # seconds


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def serving(engine: FakeEngine) -> SyncServer:
    return InferenceServer.sync({"m": {"engine": "fake"}}, {"fake": lambda: engine})


def says(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def ask(text: str, model: str = "m") -> ChatCompletionRequest:
    return ChatCompletionRequest(model=model, messages=says(text))


@pytest.fixture
def gated() -> FakeEngine:
    """One that stops before its first word."""
    return FakeEngine(gate=asyncio.Semaphore(0))


@pytest.fixture
def server() -> Iterator[SyncServer]:
    with serving(FakeEngine()) as server:
        yield server


def test_results_streams_and_status(server: SyncServer) -> None:
    server.start()
    assert server.run(ask("one two")).text == "one two"
    assert server.chat_completion(model="m", messages=says("a b")).text == "a b"
    assert server.embedding(model="m", input=["x", "y"]).dimensions == 8
    *before, result = server.chat_completion.stream(model="m", messages=says("some more words"))
    assert isinstance(result, ChatCompletionResult)
    assert [event.text for event in before if isinstance(event, Delta)] == ["some", " more", " words", ""]
    assert server.status().models["m"].state == "ready"
    assert server.unload("m") == 1
    assert server.status().models["m"].state == "idle"


def test_errors_come_out_and_leave_the_server_as_it_was(server: SyncServer) -> None:
    with pytest.raises(ModelNotFound):
        server.run(ask("x", model="other"))
    with pytest.raises(ModelNotFound):
        list(server.stream(ask("x", model="other")))
    with pytest.raises(TypeError, match="mesages"):
        server.chat_completion(model="m", mesages=[])  # type: ignore[call-arg]
    assert server.run(ask("x")).text == "x"


def test_many_threads_use_it_at_once(server: SyncServer) -> None:
    def work(number: int) -> tuple[str, int]:
        words = [str(number)] * (number + 1)
        deltas = sum(isinstance(event, Delta) for event in server.stream(ask(" ".join(words))))
        return server.run(ask(f"thread {number}")).text, deltas

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(work, range(48)))
    assert found == [(f"thread {number}", number + 2) for number in range(48)]


def test_leaving_a_stream_cancels_the_request() -> None:
    engine = FakeEngine(words=["word"] * 4 * AHEAD)
    with serving(engine) as server:
        for event in server.stream(ask("x")):
            if isinstance(event, Delta):
                assert engine.running == 1
                break
        until(lambda: engine.running == 0)
        with closing(server.stream(ask("x"))) as events:
            until(lambda: isinstance(next(events), Delta))
            assert engine.running == 1
        until(lambda: engine.running == 0)


@pytest.mark.parametrize("wait", [lambda s: s.run(ask("a")), lambda s: list(s.stream(ask("a")))], ids=["run", "stream"])
def test_an_interrupt_cancels_the_request_and_nothing_else(
    gated: FakeEngine, wait: Callable[[SyncServer], Any]
) -> None:
    def interrupt() -> None:
        until(lambda: gated.running)
        _thread.interrupt_main()

    with serving(gated) as server:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait(server)
        thread.join()
        until(lambda: gated.running == 0)
        assert server.chat_completion(model="m", messages=says("a"), max_tokens=0).text == ""


def test_a_slow_reader_is_not_run_away_from() -> None:
    engine = FakeEngine(words=["word"] * 40 * AHEAD)
    produced = 0

    class Counting(FakeEngine):
        async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
            nonlocal produced
            async for event in engine.run(request, context):
                produced += 1
                yield event

    with serving(Counting()) as server, closing(server.stream(ask("x"))) as events:
        until(lambda: isinstance(next(events), Delta))
        for _ in range(10 * AHEAD):  # the loop goes round for each
            server.status()
        assert produced <= AHEAD + 4
        *_, result = events
        assert isinstance(result, ChatCompletionResult)
        assert result.usage.completion_tokens == produced - 2 == 40 * AHEAD


async def test_it_works_where_a_loop_runs(server: SyncServer) -> None:
    assert server.chat_completion(model="m", messages=says("a b")).text == "a b"


def test_on_its_own_loop_it_refuses_to_wait_for_itself() -> None:
    class Circular(FakeEngine):
        async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
            yield itself.run(ask("x"))

    with serving(Circular()) as itself, pytest.raises(Unsupported, match="asynchronous server"):
        itself.run(ask("x"))


def test_what_is_closed_says_so(gated: FakeEngine) -> None:
    unused = serving(gated)
    unused.close()
    used = serving(FakeEngine())
    used.run(ask("x"))
    for _ in range(2):
        used.close()
    for server in (unused, used):
        for method in (
            server.start,
            server.status,
            lambda s=server: s.run(ask("x")),
            lambda s=server: next(s.stream(ask("x"))),
        ):
            with pytest.raises(ServerClosed):
                method()


@pytest.mark.parametrize("drain", [0.0, PATIENCE])
def test_closing_ends_what_waits_or_lets_it_finish(gated: FakeEngine, drain: float) -> None:
    class Opening(InferenceServer):
        async def close(self, drain: float = 0.0) -> None:
            if drain and gated._gate is not None:
                asyncio.get_running_loop().call_later(0.01, gated._gate.release)
            await super().close(drain)

    server = Opening.sync({"m": {"engine": "fake"}}, {"fake": lambda: gated})
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(server.run, ask("a"))
        until(lambda: gated.running)
        server.close(drain)
        if drain:
            assert waiting.result(PATIENCE).text == "a"
        else:
            with pytest.raises(InfsError):
                waiting.result(PATIENCE)
    assert gated.closed


def test_what_fails_in_closing_is_told_once() -> None:
    class Failing(InferenceServer):
        async def close(self, drain: float = 0.0) -> None:
            await super().close(drain)
            raise GenerationFailed("not closed well")

    server = Failing.sync()
    server.start()
    with pytest.raises(GenerationFailed, match="not closed well"):
        server.close()
    server.close()


def test_a_failed_start_leaves_nothing_behind() -> None:
    before = threading.active_count()
    missing = ModelConfig(file="/not/there.gguf", prepare="blocking")
    with pytest.raises(SourceNotFound), InferenceServer.sync({"a": missing}):
        pass
    assert threading.active_count() == before


def test_a_forgotten_server_is_closed_when_nothing_refers_to_it() -> None:
    engine = FakeEngine()
    server = serving(engine)
    events = server.stream(ask("a b c"))
    next(events)
    del server
    gc.collect()
    assert sum(isinstance(event, Delta) for event in events) == 4, "a stream keeps its server"
    del events
    until(lambda: engine.closed)


FORGETFUL = """
import threading
from infs import Delta, InferenceServer, Message, demo_model

server = InferenceServer.sync({"demo": demo_model()})
events = server.text_completion.stream(model="demo", prompt="Once", max_tokens=900, ignore_eos=True)
next(event for event in events if isinstance(event, Delta))
print(server.status().models["demo"].instances[0].pid)
END
"""


@pytest.mark.parametrize(("end", "status"), [("raise SystemExit(3)", 3), ("import os; os._exit(4)", 4)])
def test_a_program_that_forgets_its_server_ends_and_so_do_the_workers(end: str, status: int, tmp_path: Path) -> None:
    code = FORGETFUL.replace("END", end.replace("import os;", "import os, sys; sys.stdout.flush();"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (status, "")
    worker = int(done.stdout)
    until(lambda: has_ended(worker))


def has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
