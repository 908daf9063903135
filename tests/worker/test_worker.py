"""A worker process and what can happen to it: real processes, really killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from infs.codec import PROTOCOL, Hello, decode_frame, encode_frame, frame_length
from infs.demo import MODEL_FILE, demo_model
from infs.engines.base import EngineSpec, MemoryUse, ModelInfo, ModelSetup, RunContext
from infs.engines.registry import find_engine
from infs.errors import EngineError, LoadFailed, MissingExtra, WorkerDied
from infs.server import InferenceServer
from infs.testing import demo_server
from infs.types import (
    CompletionChoice,
    Delta,
    Event,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    Usage,
)
from infs.version import VERSION
from tests.engines.kit import eventually

LOG = logging.getLogger("test")


class Mischief:
    """An engine for a worker: what it does is in the prompt."""

    async def estimate(self, setup: ModelSetup) -> MemoryUse:
        if setup.config.options.get("load") == "no idea":
            raise ZeroDivisionError("by nothing")
        return MemoryUse(host=1000)

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        wish = setup.config.options.get("load", "")
        if wish == "die":
            os._exit(7)
        if wish == "hang":
            await asyncio.sleep(1000)
        print("a library prints to standard output")
        os.write(1, b"and a native one does too\n")
        return ModelInfo(tasks=["text-completion"], max_sequences=4)

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        assert isinstance(request, TextCompletionRequest)
        if request.prompt == "die":
            yield Delta(text="last words")
            os._exit(9)
        if request.prompt == "raise":
            raise ZeroDivisionError("by nothing")
        if request.prompt == "ignore everything":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if request.prompt in ("wait", "ignore everything"):
            yield Delta(text="waiting")
            await asyncio.sleep(1000)
        if request.prompt == "block":
            yield Delta(text="blocking")
            time.sleep(1000)  # noqa: ASYNC251 - what a badly made engine does
        yield TextCompletionResult(
            choices=[CompletionChoice(index=0, text=str(os.getpid()), finish_reason="stop")], usage=Usage()
        )

    def status(self) -> dict[str, Any]:
        return {"mischief": "managed"}

    async def close(self) -> None:
        """Nothing to free."""


class MischiefOptions(msgspec.Struct, forbid_unknown_fields=True):
    """What it does while loading."""

    load: str = ""


MISCHIEF = EngineSpec(
    name="mischief",
    factory="tests.worker.test_worker:Mischief",
    options="tests.worker.test_worker:MischiefOptions",
    needs_files=False,
)


def mischief_server(**model: Any) -> InferenceServer:
    return InferenceServer({"m": {"engine": "mischief", **model}}, {"mischief": MISCHIEF})


def ask(prompt: str, **options: Any) -> TextCompletionRequest:
    return TextCompletionRequest(model="m", prompt=prompt, **options)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def worker_pid(server: InferenceServer, model: str = "m") -> int:
    status = await server.status()
    pid: int = status.models[model].instances[0].engine["pid"]
    return pid


async def test_prints_of_libraries_do_not_disturb_the_frames(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with mischief_server() as server:
        pid = int((await server.run(ask("who"))).text)
        assert pid == await worker_pid(server)
        assert exists(pid)
    await eventually(lambda: not exists(pid))
    assert "a library prints to standard output" in caplog.text
    assert "and a native one does too" in caplog.text


async def test_a_worker_that_dies_is_a_clear_failure_and_is_replaced() -> None:
    async with mischief_server() as server:
        with pytest.raises(WorkerDied, match="ended with status 9") as caught:
            await server.run(ask("die"))
        assert caught.value.retryable
        assert int((await server.run(ask("who"))).text) > 0


async def test_kill_before_during_and_after_a_request() -> None:
    async with mischief_server() as server:
        before = int((await server.run(ask("who"))).text)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: not server.pool.find("m").instances)
        during = int((await server.run(ask("who"))).text)
        assert during != before
        waiting = [asyncio.create_task(server.run(ask("wait"))) for _ in range(3)]
        await eventually(lambda: server.pool.running == 3)
        await asyncio.sleep(0.2)  # all of them have said something, and this engine does not say how to go on
        os.kill(during, signal.SIGKILL)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, WorkerDied) and "signal 9" in str(result) for result in results)
        assert server.pool.running == 0
        after = int((await server.run(ask("who"))).text)
        assert after not in (before, during)


async def test_an_engine_that_cannot_say_what_it_takes_is_loaded_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async with mischief_server(options={"load": "no idea"}) as server:
        await server.run(ask("who"))
        estimate = (await server.status()).models["m"].estimate
    assert estimate is not None
    assert estimate.parts["process"] > 10_000_000, "a guess"
    assert "could not be estimated" in caplog.text


async def test_an_engine_that_raises_ends_only_its_request(caplog: pytest.LogCaptureFixture) -> None:
    async with mischief_server() as server:
        pid = int((await server.run(ask("who"))).text)
        with pytest.raises(EngineError, match="ZeroDivisionError: by nothing"):
            await server.run(ask("raise"))
        assert int((await server.run(ask("who"))).text) == pid
    assert "Traceback" in caplog.text, "the log has the place"


async def test_dying_while_loading_is_a_load_failure() -> None:
    async with mischief_server(options={"load": "die"}) as server:
        with pytest.raises(LoadFailed, match="ended with status 7"):
            await server.run(ask("who"))


async def test_a_request_that_gives_up_while_loading_leaves_the_load_to_the_others() -> None:
    async with demo_server() as server:
        hasty = asyncio.create_task(server.text_completion(model="demo", prompt="Once", max_tokens=1))
        await eventually(lambda: server.pool._models["demo"].instances)
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        assert (await server.text_completion(model="demo", prompt="Once", max_tokens=1)).usage.completion_tokens == 1
        assert len(server.pool._models["demo"].instances) == 1


async def test_closing_in_the_middle_of_loading_leaves_no_process() -> None:
    server = mischief_server(options={"load": "hang"})
    waiting = asyncio.create_task(server.run(ask("who")))
    await eventually(lambda: server.pool.find("m").instances and server.pool.find("m").instances[0].engine.pid)
    pid = server.pool.find("m").instances[0].engine.pid
    assert pid is not None
    await server.close()
    assert not exists(pid)
    assert (await asyncio.gather(waiting, return_exceptions=True))[0] is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ignore")
async def test_a_worker_that_ignores_everything_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infs.worker.client.CLOSE_TIMEOUT", 0.3)
    async with mischief_server() as server:
        pid = int((await server.run(ask("who"))).text)
        async with aclosing(server.stream(ask("block"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
    assert not exists(pid)


async def test_cancelling_reaches_the_engine() -> None:
    async with mischief_server(max_sequences=1) as server:
        await server.run(ask("who"))
        async with aclosing(server.stream(ask("wait"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        assert int((await server.run(ask("who"))).text) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 of a process is POSIX")
async def test_a_worker_notices_that_its_parent_is_gone() -> None:
    script = textwrap.dedent(
        """
        import asyncio
        from infs.testing import demo_server

        async def main():
            async with demo_server() as server:
                await server.text_completion(model="demo", prompt="Once", max_tokens=1)
                status = await server.status()
                print(status.models["demo"].instances[0].engine["pid"], flush=True)
                await asyncio.sleep(1000)

        asyncio.run(main())
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert parent.stdout is not None
    with parent.stdout:
        worker = int(await asyncio.to_thread(parent.stdout.readline))
        assert exists(worker)
        parent.kill()
        parent.wait()
    await eventually(lambda: not exists(worker))


async def test_a_missing_library_is_named_before_a_process_is_started() -> None:
    spec = msgspec.structs.replace(find_engine("llama-cpp"), requires=("no_such_library",))
    models = {"m": msgspec.structs.replace(demo_model(), engine="broken")}
    async with InferenceServer(models, {"broken": spec}) as server:
        with pytest.raises(MissingExtra, match=r'no_such_library.*pip install "infs\[llama-cpp\]"'):
            await server.run(ask("x"))


async def test_the_parent_never_imports_an_engine_library() -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        from infs.testing import demo_server

        async def main():
            async with demo_server() as server:
                await server.chat_completion(model="demo", messages=[{"role": "user", "content": "Hi"}])

        from infs import Message
        async def main():
            async with demo_server() as server:
                await server.chat_completion(model="demo", messages=[Message(role="user", content="Hi")])
        asyncio.run(main())
        wrong = {"llama_cpp", "llguidance", "numpy", "jinja2", "torch", "huggingface_hub"} & set(sys.modules)
        assert not wrong, wrong
        """
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stranger_on_the_pipe_is_refused() -> None:
    hello = Hello(protocol=PROTOCOL + 1, version=VERSION, python="3", pid=1)
    data = encode_frame(hello)
    assert decode_frame(data[4:]) == hello
    assert frame_length(data[:4]) == len(data) - 4
    with pytest.raises(ValueError, match="the stream is broken"):
        frame_length(b"\xff\xff\xff\xff")


async def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infs.worker.client.VERSION", "0.0.0")
    async with mischief_server() as server:
        with pytest.raises(LoadFailed, match="not of this version"):
            await server.run(ask("who"))


def test_the_demo_file_is_there() -> None:
    assert MODEL_FILE.stat().st_size > 2_000_000
