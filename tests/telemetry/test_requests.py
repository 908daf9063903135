"""What is counted of requests: from synthetic events by a clock of the test's own, and over a whole server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from infs.errors import GenerationFailed, InfsError, ModelNotFound, QueueFull, RequestCancelled
from infs.server import InferenceServer
from infs.telemetry import Observation, Telemetry
from infs.telemetry.ended import Ended
from infs.testing import FakeEngine
from infs.types import (
    ChatCompletionRequest,
    CompletionChoice,
    Delta,
    Event,
    Message,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    ToolCall,
    ToolUse,
    Usage,
)
from tests.telemetry.samples import Samples, scrape
from tests.toolbox.scripted import Scripted, add, calling, saying

USER = Message(role="user", content="one two three")
REQUEST = TextCompletionRequest(model="m", prompt="x", n=2, max_tokens=50)
CHOICES = [CompletionChoice(index=index, text="x", finish_reason="length") for index in (0, 1)]
RESULT = TextCompletionResult(choices=CHOICES, usage=Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4))
CALL = ToolCall(id="1", name="add", arguments="{}")

Step = Event | Exception | str


class Watched:
    """A request whose events come one second after the other; ``"placed"`` is a place, and no event."""

    def __init__(self, *steps: Step, request: Request[Any] = REQUEST) -> None:
        self.now = 100.0
        self.gaps: list[float] = []
        self.ended: list[Ended] = []
        self.steps = steps
        self.observation = Observation(
            request, on_gaps=self.gaps.extend, on_end=self.ended.append, clock=lambda: self.now
        )

    async def events(self) -> AsyncGenerator[Event]:
        """The steps."""
        for step in self.steps:
            self.now += 1
            if isinstance(step, Exception):
                raise step
            if isinstance(step, str):
                self.observation.placed()
            else:
                yield step

    async def run(self, most: int = 1000) -> Ended:
        """Take `most` of the events; how the request ended, which is told once."""
        taken: list[Event] = []
        try:
            async with aclosing(self.observation.watch(self.events())) as events:
                async for event in events:
                    taken.append(event)
                    if len(taken) == most:
                        break
        except (InfsError, ZeroDivisionError):
            pass
        assert taken == [step for step in self.steps if isinstance(step, Event)][:most]
        [ended] = self.ended
        return ended


def progress(stage: Any) -> Progress:
    return Progress(stage=stage, done=1)


def spent(ended: Ended) -> list[tuple[str, float]]:
    """The stages with the seconds that they took."""
    return [(stage.name, stage.end - stage.begin) for stage in ended.stages]


async def test_the_time_of_a_request_goes_to_its_stages() -> None:
    loading = [progress("queue"), progress("download"), progress("download"), progress("load")]
    watched = Watched(*loading, "placed", progress("prompt"), Delta(), Delta(index=1), Delta(), RESULT)
    ended = await watched.run()
    assert spent(ended) == [("queue", 2), ("download", 2), ("load", 1), ("prefill", 2), ("decode", 3)]
    assert (ended.seconds, ended.first_token, ended.pieces) == (10, 107, 3)
    assert (ended.usage, ended.error, ended.finish_reasons) == (RESULT.usage, None, ("length", "length"))
    assert watched.gaps == [2], "of each choice its own"
    assert ended.nanoseconds(ended.end) - ended.begin_ns == 10 * 10**9


async def test_tools_and_other_processes_are_stages_of_their_own() -> None:
    first: list[Step] = ["placed", Delta(), ToolUse(call=CALL), ToolUse(call=CALL), ToolUse(call=CALL, result="1")]
    then: list[Step] = [ToolUse(call=CALL, result="2"), "placed", Delta(), Delta(), progress("load")]
    watched = Watched(*first, *then, "placed", Delta(), RESULT)
    ended = await watched.run()
    assert spent(ended)[:5] == [("queue", 1), ("prefill", 1), ("decode", 1), ("tools", 3), ("queue", 1)]
    assert spent(ended)[5:] == [("prefill", 1), ("decode", 2), ("load", 1), ("prefill", 1), ("decode", 1)]
    assert watched.gaps == [1, 3], "nobody waits for a token while a tool runs, but while a process is replaced"
    assert ended.pieces == 4


@pytest.mark.parametrize(
    ("steps", "most", "error", "pieces"),
    [
        ((QueueFull("full"),), 9, "queue_full", 0),
        (("placed", Delta(), GenerationFailed("broken")), 9, "generation_failed", 1),
        (("placed", ZeroDivisionError()), 9, "internal_error", 0),
        (("placed", Delta(), RequestCancelled("gone")), 9, "cancelled", 1),
        (("placed", Delta(), Delta(), RESULT), 2, "cancelled", 2),
        (("placed", Delta(), Delta(), RESULT), 3, None, 2),
        ((), 9, "cancelled", 0),
    ],
)
async def test_how_a_request_ends(steps: tuple[Step, ...], most: int, error: str | None, pieces: int) -> None:
    ended = await Watched(*steps).run(most)
    assert (ended.error, ended.pieces, ended.usage) == (error, pieces, None if error else RESULT.usage)
    assert ended.placed == (bool(steps) and steps[0] == "placed")


async def test_a_long_answer_is_counted_while_it_is_told_and_right_in_the_end() -> None:
    telemetry = Telemetry()
    observation = telemetry.observe(REQUEST)
    usage = Usage(prompt_tokens=1, completion_tokens=260)

    async def events() -> AsyncGenerator[Event]:
        for number in range(200):
            yield Delta(text=str(number))
        yield TextCompletionResult(choices=CHOICES, usage=usage)

    seen = []
    async with aclosing(observation.watch(events())) as watched:
        async for _ in watched:
            seen.append(Samples(telemetry.expose({})).total("vllm:generation_tokens_total"))
    assert seen[60] == 0
    assert 60 <= seen[100] < 101
    assert seen == sorted(seen)
    assert seen[-1] == 260
    shown = Samples(telemetry.expose({}))
    assert shown("vllm:inter_token_latency_seconds_count", model_name="m") == 199
    assert shown("vllm:inter_token_latency_seconds_bucket", model_name="m", le="+Inf") == 199
    assert shown.total("vllm:inter_token_latency_seconds_sum") > 0


def server_of(engine: Callable[[], FakeEngine], **model: Any) -> InferenceServer:
    return InferenceServer({"m": {"engine": "fake", **model}, "other": {"engine": "fake"}}, {"fake": engine})


def chat(**options: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[USER], **options)


async def test_requests_with_a_result() -> None:
    async with server_of(FakeEngine) as server:
        await server.run(chat(max_tokens=2))
        await server.run(chat())
        await server.embedding(model="m", input=["abcde"])
        shown = await scrape(server)
    name = {"model_name": "m"}
    assert shown("vllm:request_success_total", finished_reason="length", **name) == 1
    assert shown("vllm:request_success_total", finished_reason="stop", **name) == 2
    assert shown("vllm:prompt_tokens_total", **name) == 3 + 3 + 5
    assert shown("vllm:prefix_cache_queries_total", **name) == 3 + 3
    assert shown("vllm:prefix_cache_hits_total", **name) == 0
    assert shown("vllm:generation_tokens_total", **name) == 2 + 3
    assert shown("vllm:request_params_max_tokens_sum", **name) == 2
    times = ("time_to_first_token", "request_prefill_time", "request_decode_time", "request_time_per_output_token")
    assert [shown(f"vllm:{one}_seconds_count", **name) for one in times] == [2] * 4
    whole = ("e2e_request_latency", "request_queue_time", "request_inference_time")
    assert [shown(f"vllm:{one}_seconds_count", **name) for one in whole] == [3] * 3
    assert shown("infs_request_loading_seconds_count", stage="load", **name) == 1, "the others found it loaded"
    gen_ai = {"gen_ai_provider_name": "infs", "gen_ai_request_model": "m"}
    duration = "gen_ai_server_request_duration_seconds_count"
    assert shown(duration, gen_ai_operation_name="chat", error_type="", **gen_ai) == 2
    assert shown(duration, gen_ai_operation_name="embeddings", error_type="", **gen_ai) == 1
    usage = "gen_ai_client_token_usage_sum"
    assert shown(usage, gen_ai_operation_name="chat", gen_ai_token_type="output", **gen_ai) == 5
    assert shown(usage, gen_ai_operation_name="embeddings", gen_ai_token_type="output", **gen_ai) is None


async def test_requests_without_a_result() -> None:
    gate = asyncio.Semaphore(1)
    engine = FakeEngine(gate=gate, error=GenerationFailed("broken"), error_at=2)
    async with server_of(lambda: engine, max_sequences=1, max_queue=0) as server:
        async with aclosing(server.stream(chat())) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
            with pytest.raises(QueueFull):
                await server.run(chat())
        gate.release()
        gate.release()
        with pytest.raises(GenerationFailed):
            await server.run(chat())
        with pytest.raises(ModelNotFound):
            await server.text_completion(model="made-up", prompt="x")
        shown = await scrape(server)
    assert shown("vllm:request_success_total", model_name="m", finished_reason="abort") == 1
    assert shown("vllm:request_success_total", model_name="m", finished_reason="error") == 2
    assert shown("infs_request_failures_total", model_name="m", code="queue_full") == 1
    assert shown("infs_request_failures_total", model_name="m", code="generation_failed") == 1
    assert shown.values("infs_request_failures_total", "code") == {"queue_full", "generation_failed"}
    assert shown("vllm:generation_tokens_total", model_name="m") == 1 + 2, "the pieces that were told"
    assert shown("vllm:e2e_request_latency_seconds_count", model_name="m") is None
    assert shown("vllm:request_queue_time_seconds_count", model_name="m") == 2
    assert all("made-up" not in dict(labels).values() for _, labels in shown.all)


async def test_a_request_with_tools_is_one_request() -> None:
    engine = Scripted(calling(("add", {"a": 2, "b": 3})), saying("It is five"))
    async with server_of(lambda: engine) as server:
        await server.run(chat(tools=[add]))
        shown = await scrape(server)
    assert shown.total("vllm:request_success_total") == 1
    assert shown("vllm:request_queue_time_seconds_count", model_name="m") == 1
    assert shown.total("vllm:generation_tokens_total") == 6
