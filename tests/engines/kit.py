"""What every engine must do, whatever it is: the tests of `BehaviourKit` run over each of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from infs.errors import InvalidRequest, ModelNotFound, RequestTimeout
from infs.server import InferenceServer
from infs.types import (
    ChatCompletionRequest,
    Delta,
    EmbeddingRequest,
    Event,
    Message,
    Progress,
    Request,
    Result,
    TextCompletionRequest,
)


async def eventually(condition: Any, seconds: float = 20.0) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is anything
            await asyncio.sleep(0.001)


class BehaviourKit:
    """Subclasses give `make_server`, a server with the model ``m``, which can hold three requests at once."""

    long_prompt = "Tell me a story."
    """A message that is answered with at least ten tokens."""

    long_start = "Once upon a time there was a"
    """A text that goes on for at least ten tokens."""

    endless: dict[str, Any] = {"max_tokens": 900}  # noqa: RUF012
    """Settings with which the answer to it takes long."""

    def make_server(self, **model: Any) -> InferenceServer:
        raise NotImplementedError

    @asynccontextmanager
    async def running(self, **model: Any) -> AsyncIterator[InferenceServer]:
        async with self.make_server(**model) as server:
            yield server

    def requests(self, text: str, **options: Any) -> list[Request[Any]]:
        return [
            ChatCompletionRequest(model="m", messages=[Message(role="user", content=text)], **options),
            TextCompletionRequest(model="m", prompt=self.long_start if text == self.long_prompt else text, **options),
        ]

    async def events(self, server: InferenceServer, request: Request[Any]) -> list[Event]:
        async with aclosing(server.stream(request)) as events:
            return [event async for event in events]

    async def test_a_stream_tells_what_the_result_says(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, max_tokens=8):
                *before, result = await self.events(server, request)
                assert isinstance(result, request.result_type)
                deltas = [event for event in before if isinstance(event, Delta)]
                assert all(isinstance(event, Delta | Progress) for event in before)
                assert "".join(delta.text for delta in deltas) == result.text  # type: ignore[attr-defined]
                assert [d.finish_reason for d in deltas if d.finish_reason] == [
                    result.choices[0].finish_reason  # type: ignore[attr-defined]
                ]
                assert deltas[-1].finish_reason is not None
                assert await server.run(request) is not None

    async def test_max_tokens_cuts(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, max_tokens=3):
                result = await server.run(request)
                assert result.choices[0].finish_reason == "length"
                assert result.usage.completion_tokens == 3
                assert result.usage.prompt_tokens > 0

    async def test_choices_are_numbered_and_each_is_finished(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, max_tokens=3, n=3):
                *before, result = await self.events(server, request)
                assert [choice.index for choice in result.choices] == [0, 1, 2]  # type: ignore[attr-defined]
                ends = [d.index for d in before if isinstance(d, Delta) and d.finish_reason]
                assert sorted(ends) == [0, 1, 2]
                for choice in result.choices:  # type: ignore[attr-defined]
                    told = "".join(d.text for d in before if isinstance(d, Delta) and d.index == choice.index)
                    said = choice.text if hasattr(choice, "text") else choice.message.content
                    assert told == said

    async def test_stop_strings_never_show(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, max_tokens=30):
                whole = (await server.run(request)).text
                stop = whole[3:7]
                cut = await server.run(self._with(request, stop=[stop]))
                assert cut.text == whole[: whole.index(stop)]
                assert cut.choices[0].finish_reason == "stop"

    def _with(self, request: Request[Any], **options: Any) -> Any:
        import msgspec

        return msgspec.structs.replace(request, **options)

    async def test_more_requests_than_places_are_all_served(self) -> None:
        async with self.running() as server:
            requests = [self.requests(self.long_prompt, max_tokens=4)[i % 2] for i in range(12)]
            results = await asyncio.gather(*(server.run(request) for request in requests))
            assert all(result.usage.completion_tokens == 4 for result in results)

    async def test_a_cancelled_stream_gives_its_place_back(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, **self.endless):
                async with aclosing(server.stream(request)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            break
                await eventually(lambda: server.pool.running == 0)
            assert (await server.run(self.requests(self.long_prompt, max_tokens=1)[0])).usage.completion_tokens == 1

    async def test_a_cancelled_task_gives_its_place_back(self) -> None:
        async with self.running() as server:
            await server.run(self.requests(self.long_prompt, max_tokens=1)[0])
            task = asyncio.ensure_future(server.run(self.requests(self.long_prompt, **self.endless)[0]))
            await eventually(lambda: server.pool.running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: server.pool.running == 0)

    async def test_a_timeout_ends_a_request(self) -> None:
        async with self.running() as server:
            for request in self.requests(self.long_prompt, timeout=0.000_001):
                with pytest.raises(RequestTimeout, match="timeout"):
                    await server.run(request)
            assert server.pool.running == 0

    async def test_wrong_values_are_refused_by_name(self) -> None:
        async with self.running() as server:
            for request in self.requests("hi", temperature=-1.0):
                with pytest.raises(InvalidRequest) as caught:
                    await server.run(request)
                assert caught.value.param == "temperature"

    async def test_an_unknown_model_is_named(self) -> None:
        async with self.running() as server:
            with pytest.raises(ModelNotFound, match=r"'nobody'.*There are: m"):
                await server.run(TextCompletionRequest(model="nobody", prompt="x"))

    async def test_half_a_surrogate_pair_is_refused(self) -> None:
        async with self.running() as server:
            for request in self.requests("a \ud800 b"):
                with pytest.raises(InvalidRequest, match="surrogate"):
                    await server.run(request)

    async def test_vectors_come_in_order_and_have_unit_length(self) -> None:
        async with self.running() as server:
            texts: list[str | list[int]] = ["one", "two", [5, 6, 7], "one"]
            result = await server.run(EmbeddingRequest(model="m", input=texts))
            vectors = result.as_lists()
            assert len(vectors) == 4
            assert all(len(v) == result.dimensions for v in vectors)
            assert all(math.isclose(math.hypot(*v), 1.0, rel_tol=1e-4) for v in vectors)
            assert math.isclose(sum(a * b for a, b in zip(vectors[0], vectors[3], strict=True)), 1.0, rel_tol=1e-3)
            assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
            cut = await server.run(EmbeddingRequest(model="m", input=["one"], dimensions=4))
            assert cut.dimensions == 4
            assert math.isclose(math.hypot(*cut.as_lists()[0]), 1.0, rel_tol=1e-4)
            with pytest.raises(InvalidRequest) as caught:
                await server.run(EmbeddingRequest(model="m", input=["one"], dimensions=100_000))
            assert caught.value.param == "dimensions"

    async def test_the_last_event_is_the_only_result(self) -> None:
        async with self.running() as server:
            events = await self.events(server, self.requests(self.long_prompt, max_tokens=2)[0])
            assert [isinstance(event, Result) for event in events].count(True) == 1
            assert isinstance(events[-1], Result)
