"""The pool on engines without a model: places, queues, fairness, limits, idle time, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from infs.errors import GenerationFailed, LoadFailed, QueueFull, RequestTimeout, ServerClosed
from infs.pool import affinity
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    ChatCompletionRequest,
    Delta,
    EmbeddingRequest,
    Message,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
)
from tests.engines.kit import eventually


class Engines:
    """Makes fake engines and remembers them."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.made: list[FakeEngine] = []

    def __call__(self) -> FakeEngine:
        self.made.append(FakeEngine(**self.options))
        return self.made[-1]


def ask(text: str = "a b c", model: str = "m", **options: Any) -> TextCompletionRequest:
    return TextCompletionRequest(model=model, prompt=text, **options)


def server_with(
    engines: Callable[[], FakeEngine], *names: str, concurrency: int | None = None, **model: Any
) -> InferenceServer:
    models = {name: {"engine": "fake", **model} for name in names or ("m",)}
    return InferenceServer(models, {"fake": engines}, concurrency=concurrency)


async def state(server: InferenceServer, model: str = "m") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(await server.status())["models"][model]
    return found


async def read_into(seen: list[str], server: InferenceServer) -> None:
    async with aclosing(server.stream(ask())) as events:
        async for event in events:
            if isinstance(event, Delta):
                seen.append(event.text)


async def test_nothing_is_loaded_before_it_is_wanted() -> None:
    engines = Engines()
    async with server_with(engines) as server:
        assert engines.made == []
        assert (await state(server))["state"] == "idle"
        assert (await server.run(ask())).text == "a b c"
        assert len(engines.made) == 1
        assert (await state(server))["instances"][0]["served"] == 1
    assert engines.made[0].closed


async def test_places_are_limited_and_waiters_come_in_order() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=2) as server:
        done: list[int] = []

        async def one(number: int) -> None:
            await server.run(ask(str(number)))
            done.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(6)]
        await eventually(lambda: engines.made and engines.made[0].running == 2)
        assert (await state(server))["queued"] == 4
        for count in range(1, 7):
            gate.release()
            await eventually(lambda count=count: len(done) == count)
        assert done == [0, 1, 2, 3, 4, 5]
        await asyncio.gather(*tasks)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1, max_queue=2) as server:
        tasks = [asyncio.create_task(server.run(ask())) for _ in range(3)]
        await eventually(lambda: engines.made and engines.made[0].running == 1)
        with pytest.raises(QueueFull, match="2 requests wait for 'm'") as caught:
            await server.run(ask())
        assert caught.value.retry_after is not None
        assert caught.value.retryable
        for _ in tasks:
            gate.release()
        await asyncio.gather(*tasks)
        gate.release()
        await server.run(ask())


async def test_no_queue_at_all_still_serves_what_has_a_place() -> None:
    async with server_with(Engines(), max_sequences=2, max_queue=0) as server:
        await asyncio.gather(server.run(ask()), server.run(ask()))
        assert (await server.run(ask())).text == "a b c"


async def served(server: InferenceServer, engines: Engines, gate: asyncio.Semaphore, *asked: Request[Any]) -> list[str]:
    """The clients of `asked` in the order in which they had the only place, which was taken when they came."""
    tasks = [asyncio.create_task(server.run(ask()))]
    await eventually(lambda: engines.made and engines.made[0].running == 1)
    for number, request in enumerate(asked, start=1):
        tasks.append(asyncio.create_task(server.run(request)))
        await eventually(lambda number=number: len(waiting(server)) == number)
    for count in range(len(asked)):
        gate.release()
        await eventually(lambda count=count: len(engines.made[0].requests) == count + 2)
    gate.release()
    await asyncio.gather(*tasks)
    return [request.client for request in engines.made[0].requests[1:]]


def waiting(server: InferenceServer, model: str = "m") -> list[str]:
    """The clients who wait, the next one first."""
    return [waiter.client for waiter in server.pool._models[model].waiters]


async def test_who_waits_is_served_by_priority_then_in_equal_shares() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1) as server:
        flood = [ask(client="flood", max_tokens=5) for _ in range(3)]
        rare = [ask(client="rare", max_tokens=5)]
        urgent = [ask(client="urgent", priority=-1), ask(client="patient", priority=1)]
        order = await served(server, engines, gate, *flood, *rare, *urgent)
        assert order == ["urgent", "flood", "rare", "flood", "flood", "patient"]


async def test_all_tasks_wait_in_one_queue() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1) as server:
        running = asyncio.create_task(server.run(ask()))
        await eventually(lambda: engines.made and engines.made[0].running == 1)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(server.run(ask(client="text")))]
        await eventually(lambda: waiting(server) == ["text"])
        vectors = EmbeddingRequest(model="m", input=["a"], priority=-5, client="vectors")
        tasks.append(asyncio.create_task(server.run(vectors)))
        await eventually(lambda: waiting(server) == ["vectors", "text"])
        gate.release()
        gate.release()
        await asyncio.gather(running, *tasks)
        assert [request.client for request in engines.made[0].requests] == ["", "vectors", "text"]


async def test_a_full_queue_refuses_the_one_that_all_others_go_before() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1, max_queue=2) as server:
        tasks = [asyncio.create_task(server.run(ask(client="flood"))) for _ in range(3)]
        await eventually(lambda: waiting(server) == ["flood"] * 2)
        tasks.append(asyncio.create_task(server.run(ask(client="rare"))))
        await eventually(lambda: waiting(server) == ["rare", "flood"])
        with pytest.raises(QueueFull, match="2 requests wait for 'm'") as caught:
            await tasks[2]
        assert caught.value.retry_after is not None
        tasks.append(asyncio.create_task(server.run(ask(client="urgent", priority=-1))))
        await eventually(lambda: waiting(server) == ["urgent", "rare"])
        for refused in (ask(client="patient", priority=1), ask(client="flood")):
            with pytest.raises(QueueFull):
                await server.run(refused)
        assert waiting(server) == ["urgent", "rare"]
        for _ in tasks:
            gate.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, QueueFull) for result in results] == [False, True, True, False, False]
        assert server.pool.running == 0


async def test_who_stops_waiting_has_had_no_share() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1) as server:
        running = asyncio.create_task(server.run(ask()))
        await eventually(lambda: engines.made and engines.made[0].running == 1)
        late = [asyncio.create_task(server.run(ask(client="fickle", timeout=0.01))) for _ in range(5)]
        gone = [asyncio.create_task(server.run(ask(client="fickle"))) for _ in range(5)]
        await eventually(lambda: all(task.done() for task in late))
        assert all(isinstance(task.exception(), RequestTimeout) for task in late)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert (await state(server))["queued"] == 0
        tasks = [asyncio.create_task(server.run(ask(client=name))) for name in ("steady", "steady", "fickle")]
        await eventually(lambda: len(waiting(server)) == 3)
        assert waiting(server) == ["steady", "fickle", "steady"]
        for _ in range(4):
            gate.release()
        await asyncio.gather(running, *tasks)
        assert (await state(server))["instances"][0]["served"] == 4


async def test_priority_counts_between_models_that_are_limited_together() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, "one", "other", concurrency=1) as server:
        tasks = [asyncio.create_task(server.run(ask(model="one")))]
        await eventually(lambda: engines.made and engines.made[0].running == 1)
        asked = [("one", 0), ("other", 0), ("other", -1), ("other", -1)]
        tasks += [asyncio.create_task(server.run(ask(model=model, priority=priority))) for model, priority in asked]
        await eventually(lambda: len(engines.made) == 2 and len(waiting(server, "other")) == 3)
        await eventually(lambda: server.pool._models["other"].ready)
        seen = []
        for _ in range(4):
            gate.release()
            before = [len(engine.requests) for engine in engines.made]
            await eventually(lambda before=before: [len(engine.requests) for engine in engines.made] != before)
            seen += [number for number in (0, 1) if len(engines.made[number].requests) != before[number]]
        assert seen[:2] == [1, 1], "those of the lower number go first, although the models take turns"
        assert sorted(seen[2:]) == [0, 1]
        gate.release()
        await asyncio.gather(*tasks)


async def test_models_take_turns_when_all_together_are_limited() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, "busy", "rare", concurrency=1) as server:
        done: list[str] = []

        async def one(model: str) -> None:
            await server.run(ask(model=model))
            done.append(model)

        tasks = [asyncio.create_task(one("busy")) for _ in range(5)]
        await eventually(lambda: any(engine.running for engine in engines.made))
        tasks += [asyncio.create_task(one("rare")) for _ in range(2)]
        await eventually(lambda: len(engines.made) == 2)
        for count in range(1, 8):
            gate.release()
            await eventually(lambda count=count: len(done) == count)
        assert done[:5].count("rare") == 2, "the rare model need not wait for all of the busy one's queue"
        await asyncio.gather(*tasks)


async def test_another_instance_starts_when_the_first_is_full() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=2, max_instances=2) as server:
        tasks = [asyncio.create_task(server.run(ask())) for _ in range(6)]
        await eventually(lambda: sum(engine.running for engine in engines.made) == 4)
        assert len(engines.made) == 2
        assert (await state(server))["queued"] == 2
        for _ in tasks:
            gate.release()
        await asyncio.gather(*tasks)


async def test_an_instance_that_knows_the_beginning_is_preferred() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])

    def turn(*texts: str) -> ChatCompletionRequest:
        return ChatCompletionRequest(model="m", messages=[Message(role="user", content=text) for text in texts])

    async with server_with(engines, max_sequences=2, max_instances=2) as server:
        tasks = [asyncio.create_task(server.run(turn(f"conversation {n}"))) for n in range(4)]
        await eventually(lambda: sum(engine.running for engine in engines.made) == 4)
        for _ in range(4):
            gate.release()
        await asyncio.gather(*tasks)
        homes = [
            next(i for i, e in enumerate(engines.made) if turn(f"conversation {n}") in e.requests) for n in range(4)
        ]
        for number, home in enumerate(homes):
            gate.release()
            follow_up = turn(f"conversation {number}", "and then?")
            await server.run(follow_up)
            assert follow_up in engines.made[home].requests


def test_affinity_is_the_longest_shared_beginning() -> None:
    memory = affinity.Memory()
    first = affinity.keys(ask("x" * 2000))
    memory.add(first)
    assert memory.depth(affinity.keys(ask("x" * 1100 + "y" * 900))) == 2
    assert memory.depth(affinity.keys(ask("y" * 2000))) == 0
    assert memory.depth(first) == len(first) == 4
    for number in range(5000):
        memory.add(affinity.keys(ask(f"{number}" * 600)))
    assert memory.depth(first) == 0, "it forgets"


async def test_an_idle_instance_goes_after_its_time_and_comes_back() -> None:
    engines = Engines()
    async with server_with(engines, ttl=0.05) as server:
        await server.run(ask())
        await eventually(lambda: engines.made[0].closed)
        assert (await state(server))["instances"] == []
        await server.run(ask())
        assert len(engines.made) == 2


async def test_ttl_zero_disposes_at_once_but_not_before_those_who_wait() -> None:
    engines = Engines()
    async with server_with(engines, ttl=0, max_sequences=1) as server:
        await asyncio.gather(*(server.run(ask()) for _ in range(5)))
        assert len(engines.made) == 1
        await eventually(lambda: engines.made[0].closed)


async def test_min_instances_are_there_from_the_start_and_stay() -> None:
    engines = Engines()
    async with server_with(engines, ttl=0, min_instances=1, max_instances=2) as server:
        await eventually(lambda: len(engines.made) == 1)
        await server.run(ask())
        assert not engines.made[0].closed
        assert (await state(server))["state"] == "ready"


async def test_a_load_that_fails_ends_who_waits_and_is_tried_again_for_the_next() -> None:
    engines = Engines(load_error=LoadFailed("out of luck"))
    async with server_with(engines) as server:
        results = await asyncio.gather(*(server.run(ask()) for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["out of luck"] * 3
        assert (await state(server))["last_error"] == "out of luck"
        engines.options.clear()
        assert (await server.run(ask())).text == "a b c"
        assert (await state(server))["last_error"] is None


async def test_an_unexpected_error_while_loading_is_a_load_failure() -> None:
    async with server_with(Engines(load_error=ZeroDivisionError("oops"))) as server:
        with pytest.raises(LoadFailed, match="ZeroDivisionError: oops"):
            await server.run(ask())


async def test_an_engine_that_fails_in_the_middle_gives_the_place_back() -> None:
    engines = Engines(error=GenerationFailed("stuck"), error_at=2)
    async with server_with(engines, max_sequences=1) as server:
        for _ in range(3):
            seen: list[str] = []
            with pytest.raises(GenerationFailed, match="stuck"):
                await read_into(seen, server)
            assert seen == ["a", " b"]
        assert server.pool.running == 0


async def test_cancelling_a_waiter_takes_it_out_of_the_queue() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    async with server_with(engines, max_sequences=1) as server:
        first = asyncio.create_task(server.run(ask()))
        await eventually(lambda: engines.made and engines.made[0].running == 1)
        second = asyncio.create_task(server.run(ask()))
        await eventually(lambda: server.pool._models["m"].waiters)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (await state(server))["queued"] == 0
        gate.release()
        await first
        assert server.pool.running == 0


async def test_a_place_given_in_the_moment_of_cancellation_is_not_lost() -> None:
    async with server_with(Engines(), max_sequences=1) as server:
        holder = server.pool.lease(ask())
        await holder.__aenter__()
        waiting = asyncio.create_task(server.pool.lease(ask()).__aenter__())
        await eventually(lambda: server.pool._models["m"].waiters)
        await holder.__aexit__(None, None, None)  # gives the place to the one that waits, ...
        waiting.cancel()  # ... which is cancelled before it can run
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert server.pool.running == 0
        assert (await server.run(ask())).text == "a b c"


async def test_a_lease_is_a_context_manager_for_the_user_too() -> None:
    async with server_with(Engines()) as server:
        request = ask()
        async with server.pool.lease(request) as instance:
            assert server.pool.running == 1
            events = [event async for event in instance.run(request)]
        assert isinstance(events[-1], TextCompletionResult)
        assert server.pool.running == 0


async def test_progress_of_loading_is_told_to_who_waits() -> None:
    async with server_with(Engines()) as server, aclosing(server.stream(ask())) as events:
        told = [event async for event in events if isinstance(event, Progress)]
    assert [(progress.stage, progress.done) for progress in told] == [("load", 0), ("load", 100)]


async def test_closing_drains_and_refuses() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    server = server_with(engines)
    await server.start()
    running = asyncio.create_task(server.run(ask()))
    await eventually(lambda: engines.made and engines.made[0].running == 1)
    closing = asyncio.create_task(server.close(drain=30))
    await eventually(lambda: server.closing)
    with pytest.raises(ServerClosed):
        await server.run(ask())
    gate.release()
    assert (await running).text == "x"
    await closing
    assert engines.made[0].closed


async def test_closing_without_patience_ends_who_waits() -> None:
    gate = asyncio.Semaphore(0)
    engines = Engines(gate=gate, words=["x"])
    server = server_with(engines, max_sequences=1)
    tasks = [asyncio.create_task(server.run(ask())) for _ in range(2)]
    await eventually(lambda: engines.made and engines.made[0].running == 1)
    await server.close()
    assert isinstance((await asyncio.gather(tasks[1], return_exceptions=True))[0], ServerClosed)
    gate.release()
    await asyncio.gather(tasks[0], return_exceptions=True)
    await server.close()


async def test_completion_defaults_fill_what_a_request_leaves_open() -> None:
    engines = Engines()
    async with server_with(engines, completion_defaults={"max_tokens": 2, "stop": "b"}) as server:
        assert (await server.run(ask())).text == "a "
        assert (await server.run(ask(stop=[]))).text == "a b"
        assert (await server.run(ask(stop=[], max_tokens=None))).text == "a b c"
