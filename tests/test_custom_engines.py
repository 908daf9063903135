"""Engines of one's own: how they are given, what they may do wrong, and models within models."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from infs import tool
from infs.engines.base import EngineSpec
from infs.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineNotFound,
    GenerationFailed,
    InfsError,
    LoadFailed,
    ModelNotFound,
    RequestTimeout,
)
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import ChatCompletionRequest, Delta, Message
from tests import custom
from tests.custom import SPEC, Asking, Echo, EchoOptions
from tests.engines.kit import eventually
from tests.toolbox.scripted import Scripted, calling, saying

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *([known] if known else [])]))


# --- how they are given

IN_PROCESS = replace(SPEC, factory=Echo, options=EchoOptions, in_process=True)


@pytest.mark.parametrize(
    ("engine", "has_runner"),
    [(Echo, True), (lambda: Echo(), True), (IN_PROCESS, True), (SPEC, False)],
    ids=["class", "callable", "specification", "worker"],
)
async def test_an_engine_may_be(engine: Any, has_runner: bool) -> None:
    model = {"engine": "mine", "options": {"times": 2}}
    async with InferenceServer({"m": model}, {"mine": engine}) as server:
        assert (await server.text_completion(model="m", prompt="hi")).text == "hi hi"
        [instance] = (await server.status()).models["m"].instances
        assert instance.engine["times"] == 2
        assert instance.details == {"runner": has_runner}


@pytest.mark.parametrize("spec", [SPEC, IN_PROCESS], ids=["named", "class"])
@pytest.mark.parametrize(("options", "key"), [({"tims": 2}, "did you mean 'times'"), ({"times": "x"}, "options.times")])
def test_options_are_checked_before_anything_starts(spec: EngineSpec, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        InferenceServer({"m": {"engine": "mine", "options": options}}, {"mine": spec})


MODULE = """
from infs.engines.base import EngineSpec
from tests.custom import Echo

SPEC = EngineSpec(name="echo", factory="somebodys_engines:Echo", needs_files=False)
NUMBER = 5
"""
OFFERED = """
[infs.engines]
echo = somebodys_engines:SPEC
echo-class = somebodys_engines:Echo
no-engine = somebodys_engines:NUMBER
no-module = somebodys_engine:SPEC
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that offers engines."""
    info = tmp_path / "somebodys_engines-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-engines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(OFFERED)
    (tmp_path / "somebodys_engines.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))


@pytest.mark.usefixtures("installed")
async def test_installed_packages_offer_engines() -> None:
    async with InferenceServer({name: {"engine": name} for name in ("echo", "echo-class")}) as server:
        for name, has_runner in (("echo", False), ("echo-class", True)):
            assert (await server.text_completion(model=name, prompt="hi")).text == "hi"
            [instance] = (await server.status()).models[name].instances
            assert instance.details == {"runner": has_runner}
    for name, said in (
        ("no-engine", "is a int, and no EngineSpec or class"),
        ("no-module", "'somebodys_engine:SPEC' cannot be imported: ModuleNotFoundError"),
        ("ecko", "there are: echo, echo-class, llama-cpp, no-engine, no-module"),
    ):
        with pytest.raises(EngineNotFound, match=said):
            InferenceServer({"m": {"engine": name}})


# --- what they may do wrong


def both(name: str) -> list[EngineSpec]:
    in_process = EngineSpec(name="mine", factory=getattr(custom, name, Echo), in_process=True, needs_files=False)
    return [in_process, EngineSpec(name="mine", factory=f"tests.custom:{name}", needs_files=False)]


@pytest.mark.parametrize("place", [0, 1], ids=["process", "worker"])
async def test_what_it_does_wrong_is_a_failure_of_that_request(place: int) -> None:
    async with InferenceServer({"m": {"engine": "mine"}}, {"mine": both("Echo")[place]}) as server:
        for prompt, said in (
            ("raise", "ValueError: surprise"),
            ("no event", "yielded a dict, which is no event"),
            ("no result", "ended without a result"),
            ("go on", "yielded a Delta after its result"),
        ):
            good = asyncio.create_task(server.text_completion(model="m", prompt="good"))
            with pytest.raises(GenerationFailed, match=said):
                await server.text_completion(model="m", prompt=prompt)
            assert (await good).text == "good"
        with pytest.raises(ContextLengthExceeded, match="too long") as caught:
            await server.text_completion(model="m", prompt="refuse")
        assert caught.value.param == "prompt"
        [instance] = (await server.status()).models["m"].instances
        assert instance.served == 9, "it is still the same one"


@pytest.mark.parametrize("place", [0, 1], ids=["process", "worker"])
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("NotAGenerator", GenerationFailed, "run gives a coroutine and no async generator"),
        ("LoadsNothing", LoadFailed, "There is nothing to load"),
        ("LoadRaises", LoadFailed, "KeyError: 'key'"),
        ("CannotBeMade", LoadFailed, "'mine' cannot be made: RuntimeError: not today"),
        ("NoEngine", LoadFailed, "is a NoEngine, which lacks what an engine has: run, status, close"),
    ],
)
async def test_what_is_no_engine_fails_its_requests(place: int, name: str, kind: type[InfsError], said: str) -> None:
    engines: dict[str, Any] = {"mine": both(name)[place], "fake": FakeEngine}
    async with InferenceServer({"m": {"engine": "mine"}, "other": {"engine": "fake"}}, engines) as server:
        for _ in range(2):
            with pytest.raises(kind, match=said):
                await server.text_completion(model="m", prompt="x")
        assert (await server.text_completion(model="other", prompt="x")).text == "x"


async def test_a_module_that_is_not_there_is_named() -> None:
    spec = EngineSpec(name="mine", factory="tests.customs:Echo", needs_files=False)
    async with InferenceServer({"m": {"engine": "mine"}}, {"mine": spec}) as server:
        with pytest.raises(LoadFailed, match=r"No module named 'tests\.customs'"):
            await server.text_completion(model="m", prompt="x")


@pytest.mark.parametrize("place", [0, 1], ids=["process", "worker"])
async def test_a_status_that_fails_hides_no_other(place: int) -> None:
    async with InferenceServer({"m": {"engine": "mine"}}, {"mine": both("NoStatus")[place]}) as server:
        await server.text_completion(model="m", prompt="x")
        await server.status()
        [instance] = (await server.status()).models["m"].instances
        assert instance.engine["error"] == "ValueError: no status"


# --- models within models


def combined(
    asking: dict[str, Asking], inner: FakeEngine | None = None, *, places: int = 1, **options: Any
) -> InferenceServer:
    """A server with the models of `asking`, and ``inner`` for them to ask, which has so many `places`."""
    models: dict[str, dict[str, Any]] = {name: {"engine": name} for name in [*asking, "inner"]}
    models["inner"]["max_sequences"] = places
    engines: dict[str, Callable[[], FakeEngine]] = {
        name: lambda engine=engine: engine  # type: ignore[misc]
        for name, engine in [*asking.items(), ("inner", inner or FakeEngine())]
    }
    return InferenceServer(models, engines, **options)


def chat(model: str, text: str = "one two", **options: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model=model, messages=[Message(role="user", content=text)], **options)


WAYS = ["stream", "drop", "run", "task"]


@pytest.mark.parametrize("how", WAYS)
async def test_requests_within_requests_wait_for_no_place_of_theirs(how: str) -> None:
    """Each of the outer ones takes all of `concurrency` in turn, or half of it."""
    outer = {"outer": Asking("middle", how), "middle": Asking("inner", how)}
    for concurrency in (1, 2):
        async with asyncio.timeout(20), combined(outer, concurrency=concurrency) as server:
            work = [server.run(chat(model, f"{model} {n}")) for n in range(6) for model in ("outer", "inner", "middle")]
            texts = [result.text for result in await asyncio.gather(*work)]
            assert texts == [f"{model} {n}" for n in range(6) for model in ("outer", "inner", "middle")]
            assert (await server.status()).running == 0


async def test_deltas_come_through_as_they_are_made() -> None:
    gate = asyncio.Semaphore(0)
    async with (
        combined({"outer": Asking("inner")}, FakeEngine(gate=gate)) as server,
        aclosing(server.stream(chat("outer", "a b c"))) as events,
    ):
        for text in ("a", " b", " c"):
            gate.release()
            assert await anext(e async for e in events if isinstance(e, Delta)) == Delta(text=text)


@pytest.mark.parametrize("how", ["stream", "drop", "run"])
async def test_what_ends_the_outer_request_ends_the_inner_one(how: str) -> None:
    inner = FakeEngine(gate=asyncio.Semaphore(1 if how != "run" else 0))
    async with combined({"outer": Asking("inner", how)}, inner) as server:
        with pytest.raises(RequestTimeout):
            await server.run(chat("outer", timeout=0.05))
        await eventually(lambda: inner.running == 0)
        task = asyncio.create_task(server.run(chat("outer")))
        await eventually(lambda: inner.running == 1)
        task.cancel()
        await eventually(lambda: inner.running == 0)
        assert len(inner.requests) == 2
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["stream", "drop"])
async def test_leaving_the_outer_stream_ends_the_inner_one(how: str) -> None:
    inner = FakeEngine(gate=asyncio.Semaphore(1))
    async with combined({"outer": Asking("inner", how)}, inner) as server:
        async with aclosing(server.stream(chat("outer"))) as events:
            assert await anext(e async for e in events if isinstance(e, Delta)) == Delta(text="one")
            assert inner.running == 1
        await eventually(lambda: inner.running == 0)


@pytest.mark.parametrize("how", ["stream", "drop", "run"])
async def test_failures_of_inner_requests_come_out_as_they_are(how: str) -> None:
    inner = FakeEngine(error=ContextLengthExceeded("too long", param="messages"), error_at=1)
    async with combined({"outer": Asking("inner", how), "lost": Asking("nobody", how)}, inner) as server:
        with pytest.raises(ContextLengthExceeded, match="too long") as caught:
            await server.run(chat("outer"))
        assert caught.value.param == "messages"
        with pytest.raises(ModelNotFound, match="'nobody'"):
            await server.run(chat("lost"))
        assert (await server.run(chat("inner", "one"))).text == "one"


@pytest.mark.parametrize("how", WAYS[:3])
async def test_circles_are_refused(how: str) -> None:
    asking = {"self": Asking("self", how), "a": Asking("b", how), "b": Asking("c", how), "c": Asking("a", how)}
    async with combined(asking) as server:
        for model, way in (("self", "self -> self"), ("a", "a -> b -> c -> a"), ("c", "c -> a -> b -> c")):
            with pytest.raises(GenerationFailed, match=rf"\({way}\)"):
                await server.run(chat(model))
        assert (await server.run(chat("inner", "x"))).text == "x"


async def test_loading_may_ask_other_models_but_not_in_a_circle() -> None:
    async with combined({"outer": Asking("inner", "load")}, concurrency=1) as server:
        assert (await server.run(chat("outer", "x"))).text == "x"
    async with combined({"self": Asking("self", "load")}) as server:
        with pytest.raises(GenerationFailed, match="self -> self"):
            await server.run(chat("self"))


async def test_tools_of_inner_requests_know_the_circle_too() -> None:
    inner = Scripted(calling(("ask_outer", {})), saying("done"))
    found: list[str] = []

    @tool
    async def ask_outer() -> str:
        """Ask the model that is just answering"""
        with pytest.raises(GenerationFailed) as caught:
            await server.run(chat("outer"))
        found.append(str(caught.value))
        return "nothing"

    class WithTool(Asking):
        def run(self, request: Any, context: Any) -> Any:
            return super().run(replace(request, tools=[ask_outer]), context)

    async with combined({"outer": WithTool("inner")}, inner, concurrency=1) as server:
        assert (await server.run(chat("outer"))).text == "done"
    assert "(outer -> outer)" in found[0]


async def test_who_reads_a_stream_is_not_within_it() -> None:
    async with combined({"outer": Asking("inner")}, places=2) as server:
        async with aclosing(server.stream(chat("outer", "a b"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    other = await server.run(chat("outer", "c")) if event.finish_reason else None
        assert other is not None
        assert other.text == "c"


async def test_draining_lets_a_request_make_those_that_it_needs() -> None:
    first, inner = FakeEngine(gate=asyncio.Semaphore(0)), FakeEngine()
    assert first._gate is not None

    class Twice(Asking):
        async def run(self, request: Any, context: Any) -> Any:
            await self.runner.run(replace(request, model="first"))
            yield await self.runner.run(replace(request, model="inner"))

    engines = {"outer": lambda: Twice("inner"), "first": lambda: first, "inner": lambda: inner}
    server = InferenceServer({name: {"engine": name} for name in engines}, engines)
    task = asyncio.create_task(server.run(chat("outer", "x")))
    await eventually(lambda: first.running)
    closing = asyncio.create_task(server.close(20))
    await eventually(lambda: server.closing)
    first._gate.release()
    assert (await task).text == "x"
    await closing
