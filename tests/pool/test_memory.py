"""Models that do not all fit: who is loaded, who waits, who is refused. On engines that say how much they take."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from infs.config import Config, ModelConfig
from infs.engines.base import DeviceMemory, MemoryUse, ModelInfo, ModelSetup
from infs.errors import InsufficientMemory, ModelNotFound, QueueTimeout, ServerClosed
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import Progress, TextCompletionRequest
from tests.engines.kit import eventually
from tests.pool.machines import FakeMachine

MB = 10**6


class Machine:
    """Remembers which models are loaded, and how many were at the same time."""

    def __init__(self, *, load: float = 0.0, **engine: Any) -> None:
        self.load_time = load
        self.options = engine
        self.loaded: Counter[str] = Counter()
        self.loads: Counter[str] = Counter()
        self.most = 0
        self.engines: list[Sized] = []

    def __call__(self) -> Sized:
        self.engines.append(Sized(self))
        return self.engines[-1]


class Sized(FakeEngine):
    """Takes as much memory as its options say, and tells so before it is loaded."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(**machine.options)
        self.machine = machine
        self.model = ""
        self.spare: int | None = None
        self.shrunk: list[int] = []

    async def estimate(self, setup: ModelSetup) -> MemoryUse:
        options = setup.config.options
        gpu = DeviceMemory(name="cuda:0", total=1000 * MB, free=1000 * MB)
        devices = {"cuda:0": options["gpu"] * MB} if "gpu" in options else {}
        return MemoryUse(host=options.get("size", 0) * MB, devices=devices, machine=[gpu] if devices else [])

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        self.model, self.spare = setup.model, setup.spare
        machine = self.machine
        machine.loads[self.model] += 1
        machine.loaded[self.model] += 1
        machine.most = max(machine.most, machine.loaded.total())
        await asyncio.sleep(machine.load_time)
        return await super().load(setup, progress)

    async def close(self) -> None:
        if self.model:
            self.machine.loaded[self.model] -= 1
            self.model = ""
        await super().close()


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """A machine with more than any of these models takes: what counts is `max_memory`."""
    machine = FakeMachine(total=10_000 * MB, available=10_000 * MB)
    monkeypatch.setattr("infs.server.ThisMachine", lambda: machine)
    monkeypatch.setattr("infs.server.reservations_folder", lambda: None)
    return machine


def server_with(machine: Machine, models: dict[str, dict[str, Any]], **options: Any) -> InferenceServer:
    configured = {name: {"engine": "sized", "max_sequences": 4, **model} for name, model in models.items()}
    return InferenceServer(configured, {"sized": machine}, **options)


def size(megabytes: int, **model: Any) -> dict[str, Any]:
    return {"options": {"size": megabytes}, **model}


def ask(model: str, text: str = "a b", **options: Any) -> TextCompletionRequest:
    return TextCompletionRequest(model=model, prompt=text, **options)


async def loaded(server: InferenceServer) -> list[str]:
    return [name for name, model in (await server.status()).models.items() if model.state == "ready"]


async def test_200_requests_for_5_models_with_memory_for_2() -> None:
    machine = Machine(load=0.02)
    names = list("abcde")
    async with server_with(machine, {name: size(100) for name in names}, max_memory=250 * MB) as server:
        requests = [ask(names[number % 5], f"{names[number % 5]} {number}") for number in range(200)]
        results = await asyncio.gather(*(server.run(request) for request in requests))
        assert [result.text for result in results] == [request.prompt for request in requests]
        assert machine.most == 2, "never more than fit"
        assert machine.loads.total() <= 10, "one after the other, not a load for each request"
        status = await server.status()
        assert status.memory["host"].reserved <= 250 * MB
        assert sum(model.evictions for model in status.models.values()) == machine.loads.total() - 2


async def test_two_models_that_alternate_take_turns() -> None:
    """Two clients, each waiting for its answer before it asks again: no load for every request."""
    machine = Machine(load=0.05)
    async with server_with(machine, {"a": size(100), "b": size(100)}, max_memory=150 * MB) as server:

        async def client(model: str) -> None:
            for _ in range(200):
                await server.run(ask(model))
                await asyncio.sleep(0.001)

        await asyncio.gather(client("a"), client("b"))
        assert machine.most == 1
        assert machine.loads.total() < 40, "400 requests"


async def test_the_least_recently_used_one_makes_room_and_a_busy_one_never() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    models = {name: size(100) for name in "abc"}
    async with server_with(machine, models, max_memory=250 * MB) as server:
        running = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        gate.release()
        await running
        gate.release()
        await server.run(ask("b"))
        busy = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines[0].running == 1)
        gate.release()
        gate.release()
        await asyncio.sleep(0)
        await asyncio.gather(server.run(ask("c")), busy)
        assert await loaded(server) == ["a", "c"]


async def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    machine = Machine()
    async with server_with(machine, {"big": size(300), "small": size(100)}, max_memory="200MB") as server:
        with pytest.raises(InsufficientMemory, match=r"'big' needs 300\.0 MB of main memory.*allows 200\.0 MB"):
            await server.run(ask("big"))
        assert (await server.run(ask("small"))).text == "a b"
        assert machine.loads["big"] == 0
        assert "needs 300.0 MB" in str((await server.status()).models["big"].last_error)


async def test_pinned_models_and_minimums_stay_and_others_are_refused() -> None:
    machine = Machine()
    models = {"p": size(100, pinned=True, ttl=0), "m": size(100, min_instances=1), "x": size(100)}
    async with server_with(machine, models, max_memory=250 * MB) as server:
        await server.run(ask("p"))
        await server.run(ask("m"))
        with pytest.raises(InsufficientMemory, match="What stays loaded: m, p"):
            await server.run(ask("x"))
        assert await loaded(server) == ["p", "m"], "though its ttl is 0"


async def test_memory_of_other_programs_is_not_waited_for(plenty: FakeMachine) -> None:
    plenty.available = 500 * MB
    machine = Machine()
    async with server_with(machine, {"a": size(300)}) as server:
        with pytest.raises(InsufficientMemory, match="Other programs use the rest"):
            await server.run(ask("a"))
        plenty.available = 900 * MB
        assert (await server.run(ask("a"))).text == "a b"


async def test_gpus_are_shared_where_models_fit_and_exclusive_where_wanted() -> None:
    machine = Machine()
    models: dict[str, dict[str, Any]] = {name: {"options": {"gpu": 400}} for name in "ab"}
    models["own"] = {"options": {"gpu": 400}, "device": {"exclusive": True}}
    async with server_with(machine, models) as server:
        await server.run(ask("a"))
        await server.run(ask("b"))
        assert await loaded(server) == ["a", "b"]
        await server.run(ask("own"))
        assert await loaded(server) == ["own"]
        assert (await server.status()).memory["cuda:0"].reserved == 980 * MB
        await server.run(ask("a"))
        assert await loaded(server) == ["a"]


async def test_another_instance_is_only_started_where_there_is_room() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    models = {"a": size(100, max_instances=5, max_sequences=1), "b": size(100)}
    async with server_with(machine, models, max_memory=350 * MB) as server:
        gate.release()
        await server.run(ask("b"))
        tasks = [asyncio.create_task(server.run(ask("a"))) for _ in range(6)]
        await eventually(lambda: sum(engine.running for engine in machine.engines) == 2)
        assert machine.loaded == {"a": 2, "b": 1}, "nobody has to go for a second instance"
        for _ in tasks:
            gate.release()
        await asyncio.gather(*tasks)
        assert machine.loads["a"] == 2


async def test_waiting_for_memory_has_a_deadline_and_leaves_nothing() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    models = {"a": size(100), "b": size(100, queue_timeout=0.1)}
    async with server_with(machine, models, max_memory=150 * MB) as server:
        busy = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        with pytest.raises(QueueTimeout, match=r"within its queue_timeout of 0\.1 seconds; other models have"):
            await server.run(ask("b"))
        await eventually(lambda: not server.pool.find("b").instances)
        gate.release()
        await busy
        gate.release()
        await server.run(ask("a"))
        assert machine.loads == {"a": 1}


async def test_a_small_one_does_not_wait_for_a_large_one_that_waits_for_a_busy_one() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    models = {"busy": size(100), "large": size(150), "small": size(50)}
    async with server_with(machine, models, max_memory=200 * MB) as server:
        busy = asyncio.create_task(server.run(ask("busy")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        large = asyncio.create_task(server.run(ask("large")))
        await eventually(lambda: server.pool.find("large").last_progress is not None)
        small = asyncio.create_task(server.run(ask("small")))
        await eventually(lambda: machine.loaded["small"] == 1)
        assert machine.loaded["large"] == 0
        for _ in range(3):
            gate.release()
        await asyncio.gather(busy, small, large)
        assert machine.loads == {"busy": 1, "small": 1, "large": 1}
        assert await loaded(server) == ["large", "small"], "there was room for both"


async def test_who_waits_for_memory_is_told() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    async with server_with(machine, {"a": size(100), "b": size(100)}, max_memory=150 * MB) as server:
        busy = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        seen: list[Progress] = []

        async def follow() -> None:
            seen.extend([event async for event in server.stream(ask("b")) if isinstance(event, Progress)])

        waiting = asyncio.create_task(follow())
        await eventually(lambda: server.pool.find("b").last_progress is not None)
        gate.release()
        gate.release()
        await asyncio.gather(busy, waiting)
        assert [event.total for event in seen if event.stage == "memory"] == [100 * MB]


async def test_two_servers_in_one_process_share_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("infs.server.ThisMachine", lambda: FakeMachine(total=200 * MB, available=200 * MB))
    monkeypatch.setattr("infs.server.reservations_folder", lambda: tmp_path)
    monkeypatch.setattr("infs.pool.room.POLL", 0.01)
    one, other = Machine(), Machine()
    async with (
        server_with(one, {"a": size(100, ttl=0.2)}) as first,
        server_with(other, {"b": size(150)}) as second,
    ):
        await first.run(ask("a"))
        task = asyncio.create_task(second.run(ask("b")))
        await eventually(lambda: second.pool.find("b").last_progress is not None)
        assert other.loads == {}
        assert (await task).text == "a b", "as soon as the first one's was idle for long enough"
        assert one.loaded.total() == 0


# --- models come and go


async def test_unloading_waits_for_requests_or_ends_them() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    async with server_with(machine, {"a": size(100)}) as server:
        busy = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        unloading = asyncio.create_task(server.unload("a"))
        await asyncio.sleep(0.02)
        assert not unloading.done()
        gate.release()
        assert (await busy).text == "x"
        assert await unloading == 1
        assert machine.loaded.total() == 0
        assert await server.unload("a") == 0
        with pytest.raises(ModelNotFound):
            await server.unload("nobody")


def config(**models: dict[str, Any]) -> Config:
    return Config(models={name: ModelConfig(engine="sized", **model) for name, model in models.items()})


async def test_a_reload_changes_models_and_leaves_running_requests_alone() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    async with InferenceServer(config(same=size(1), other=size(1), gone=size(1)).models, {"sized": machine}) as server:
        running = {name: asyncio.create_task(server.run(ask(name))) for name in ("same", "other", "gone")}
        await eventually(lambda: sum(engine.running for engine in machine.engines) == 3)
        server.read_config = lambda: config(same=size(1), other=size(2), new=size(1))
        changes = await server.reload()
        assert changes == {
            "added": ["new"],
            "changed": ["other"],
            "removed": ["gone"],
            "unchanged": ["same"],
            "restart": [],
        }
        with pytest.raises(ModelNotFound):
            await server.run(ask("gone"))
        waiting = asyncio.create_task(server.run(ask("other")))
        await eventually(lambda: machine.loads["other"] == 2)
        for _ in range(4):
            gate.release()
        assert [(await task).text for task in running.values()] == ["x", "x", "x"]
        await waiting
        await eventually(lambda: machine.loaded == {"same": 1, "other": 1, "gone": 0})
        gate.release()
        assert (await server.run(ask("new"))).text == "x"
    assert machine.loaded.total() == 0


async def test_those_who_wait_for_a_model_that_is_removed_hear_so() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    async with InferenceServer(config(a=size(1, max_sequences=1)).models, {"sized": machine}) as server:
        running = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        waiting = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: len(server.pool.find("a").waiters) == 1)
        server.update(config())
        with pytest.raises(ModelNotFound, match="was removed"):
            await waiting
        gate.release()
        assert (await running).text == "x"


async def test_a_closed_server_refuses_those_who_wait_for_memory() -> None:
    gate = asyncio.Semaphore(0)
    machine = Machine(gate=gate, words=["x"])
    server = server_with(machine, {"a": size(100), "b": size(100)}, max_memory=150 * MB)
    async with server:
        busy = asyncio.create_task(server.run(ask("a")))
        await eventually(lambda: machine.engines and machine.engines[0].running == 1)
        waiting = asyncio.create_task(server.run(ask("b")))
        await eventually(lambda: server.pool.find("b").last_progress is not None)
    with pytest.raises(ServerClosed):
        await waiting
    with pytest.raises(ServerClosed):
        await busy
