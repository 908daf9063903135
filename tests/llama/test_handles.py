"""Requests that run: read by threads, by coroutines, by several at once; cancelled, in time or too late."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infs.errors import GenerationFailed, InvalidRequest, RequestCancelled, RequestTimeout, ServerClosed, Unsupported
from infs.llama import Handle, Llama
from infs.types import (
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    EmbeddingRequest,
    Message,
    Progress,
    TextCompletionRequest,
    TextCompletionResult,
)
from tests.engines.kit import eventually
from tests.llama.models import COUNT, QUESTIONS, demo

ENDLESS: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}


def text_of(handle: Handle[Any]) -> str:
    return "".join(delta.text for delta in handle)


# --- submitted


def test_what_can_be_submitted(llm: Llama) -> None:
    expected = llm.complete(COUNT, max_tokens=5).text
    request = TextCompletionRequest(model="any", prompt=COUNT, max_tokens=5)
    texts = [llm.submit(what, max_tokens=5) for what in (COUNT, llm.tokenize(COUNT))]
    texts.append(llm.submit(request))
    assert [handle.result().text for handle in texts] == [expected] * 3
    message = Message(role="user", content=QUESTIONS[0])
    chats = [llm.submit([message]), llm.submit([{"role": "user", "content": QUESTIONS[0]}])]
    chats.append(llm.submit(ChatCompletionRequest(model="any", messages=[message])))
    assert [handle.result().text for handle in chats] == ["The capital of France is Paris."] * 3
    assert isinstance(chats[0].result(), ChatCompletionResult)


def test_what_cannot_be_submitted(llm: Llama) -> None:
    with pytest.raises(Unsupported, match="embed"):
        llm.submit(EmbeddingRequest(model="m", input=["x"]))  # type: ignore[arg-type]
    request = TextCompletionRequest(model="m", prompt="x")
    with pytest.raises(InvalidRequest, match="n belongs into the request"):
        llm.submit(request, n=2)
    with pytest.raises(InvalidRequest, match="temperature"):
        llm.submit(TextCompletionRequest(model="m", prompt="x", temperature=-1.0))


# --- read


def test_events_come_in_order_and_again_for_everybody(llm: Llama) -> None:
    handle = llm.submit(COUNT, max_tokens=6)
    events = list(handle.events())
    assert isinstance(events[0], Progress)
    assert all(isinstance(event, Delta | Progress) for event in events[:-1])
    assert events[-1] is handle.result()
    assert list(handle.events()) == events
    assert text_of(handle) == handle.result().text
    assert handle.done
    assert handle.usage == handle.result().usage


def test_several_threads_hear_the_same(llm: Llama) -> None:
    for _ in range(5):
        handle = llm.submit(COUNT, max_tokens=40)
        with ThreadPoolExecutor(6) as pool:
            texts = list(pool.map(lambda _, handle=handle: text_of(handle), range(6)))
        assert set(texts) == {handle.result().text}


async def test_a_handle_is_awaited_and_iterated(llm: Llama) -> None:
    handle = llm.submit(COUNT, max_tokens=20)
    told, result, again, in_thread = await asyncio.gather(
        _text(handle), _await(handle), _text(handle), asyncio.to_thread(text_of, handle)
    )
    assert told == again == in_thread == result.text
    assert [event async for event in handle.aevents()] == list(handle.events())
    assert (await handle) is handle.result()


def test_two_event_loops_wait_for_one_handle(llm: Llama) -> None:
    handle = llm.submit(COUNT, max_tokens=60)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: asyncio.run(_text(handle)), range(4)))
    assert set(texts) == {handle.result().text}


def test_an_event_loop_that_is_gone_does_not_matter(manual: Llama) -> None:
    handle = manual.submit(COUNT, max_tokens=5)

    async def impatient() -> None:
        await asyncio.wait_for(_await(handle), 0.001)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(_await(handle))
    loop.run_until_complete(asyncio.sleep(0))
    loop.call_soon(loop.stop)
    loop.run_forever()
    future = waiting.get_coro()
    manual.step()
    manual.run()
    assert loop.run_until_complete(waiting) is handle.result()
    assert future is not None
    loop.close()


async def _await(handle: Handle[Any]) -> Any:
    return await handle


async def _text(handle: Handle[Any]) -> str:
    return "".join([delta.text async for delta in handle])


# --- not waited for any longer


def test_a_result_that_is_late_is_not_lost(manual: Llama) -> None:
    handle = manual.submit(COUNT, max_tokens=5)
    for timeout in (0.0, 0.001):
        with pytest.raises(TimeoutError, match="goes on"):
            handle.result(timeout)
    assert not handle.done
    assert handle.usage is None
    manual.run()
    assert handle.done
    assert handle.result(0.0).usage.completion_tokens == 5


def test_a_request_that_takes_too_long_is_ended(manual: Llama) -> None:
    handle = manual.submit(COUNT, timeout=1e-9, **ENDLESS)
    other = manual.submit(COUNT, max_tokens=3)
    assert handle.done
    with pytest.raises(RequestTimeout, match="1e-09 seconds"):
        handle.result()
    manual.run()
    assert other.result().usage.completion_tokens == 3
    assert manual.counts()["running"] == 0


# --- cancelled


def test_cancel_before_during_and_after(manual: Llama) -> None:
    before = manual.submit(COUNT, **ENDLESS)
    assert before.cancel()
    during, other = manual.submit(COUNT, n=2, **ENDLESS), manual.submit(COUNT, max_tokens=10)
    for _ in range(4):
        manual.step()
    told = [next(events := during.events()) for _ in range(1)]
    assert during.cancel()
    manual.run()
    assert manual.counts()["running"] == manual.counts()["waiting"] == 0
    assert not other.cancel()
    assert other.result().usage.completion_tokens == 10
    for handle in (before, during):
        assert not handle.cancel()
        assert handle.done
        assert handle.usage is None
        with pytest.raises(RequestCancelled):
            handle.result()
    assert told
    with pytest.raises(RequestCancelled):
        list(events)


def test_a_waiting_reader_hears_of_the_end(manual: Llama) -> None:
    handle = manual.submit(COUNT, **ENDLESS)
    waiting = threading.Event()

    def read() -> str:
        waiting.set()
        return text_of(handle)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(read)
        waiting.wait()
        handle.cancel()
        with pytest.raises(RequestCancelled):
            future.result()


async def test_a_waiting_coroutine_hears_of_the_end(manual: Llama) -> None:
    handle = manual.submit(COUNT, **ENDLESS)
    task = asyncio.create_task(_await(handle))
    await asyncio.sleep(0)
    await asyncio.to_thread(handle.cancel)
    with pytest.raises(RequestCancelled):
        await task


def test_blocks_and_streams_cancel(manual: Llama) -> None:
    with manual.submit(COUNT, **ENDLESS) as handle:
        manual.step()
    assert handle.done
    stream = manual.stream_complete(COUNT, **ENDLESS)
    with stream:
        while not next(_ready(manual, stream)).text:
            pass
    assert stream.handle.done
    dropped = manual.stream_chat(COUNT, **ENDLESS)
    handle = dropped.handle
    del dropped
    gc.collect()
    manual.run()
    assert handle.done
    with pytest.raises(RequestCancelled):
        list(stream)
    manual.run()
    assert manual.counts()["running"] == 0


def _ready(llm: Llama, stream: Any) -> Any:
    """The stream, once there is something in it."""
    for _ in range(3):
        llm.step()
    return stream


async def test_an_async_block_cancels(llm: Llama) -> None:
    async with llm.submit(COUNT, **ENDLESS) as handle:
        pass
    with pytest.raises(RequestCancelled):
        await handle
    await eventually(lambda: not llm.counts()["running"])


async def test_an_awaited_handle_goes_on_without_the_task(llm: Llama) -> None:
    handle = llm.submit(COUNT, max_tokens=30)
    task = asyncio.create_task(_await(handle))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await handle).usage.completion_tokens == 30


# --- nobody reads


def test_nobody_needs_to_read(llm: Llama) -> None:
    expected = llm.complete(COUNT, max_tokens=10)
    handles = [llm.submit(COUNT, max_tokens=10) for _ in range(30)]
    assert isinstance(handles[-1].result(), TextCompletionResult)
    assert all(handle.result().text == expected.text for handle in handles)


def test_closing_ends_everything() -> None:
    for run in ("thread", "manual"):
        llm = demo(run=run)
        handles = [llm.submit(COUNT, **ENDLESS) for _ in range(12)]
        stream = llm.stream_chat(COUNT, **ENDLESS)
        llm.close()
        llm.close()
        assert llm.closed
        assert all(handle.done for handle in handles)
        for handle in handles:
            with pytest.raises(ServerClosed):
                handle.result()
        with pytest.raises(ServerClosed):
            list(stream)


def test_what_the_loop_lost_is_told(manual: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = [manual.submit(COUNT, max_tokens=5) for _ in range(3)]

    def fail(*args: object) -> Any:
        raise GenerationFailed("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("infs.engines.llama_cpp.decoder.Batch.compute", fail)
        manual.run()
    for handle in handles:
        with pytest.raises(GenerationFailed, match="no memory"):
            handle.result()
    later = manual.submit(COUNT, max_tokens=5)
    manual.run()
    assert later.result().usage.completion_tokens == 5
