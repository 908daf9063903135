"""The order of those who wait for a place: priority, equal shares for clients, arrival; and what a request takes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.batching.order import ANSWER
from infs.pool.queue import MEDIA, Queue, Waiter, cost_of
from infs.types import (
    ChatCompletionRequest,
    DecisionRequest,
    EmbeddingRequest,
    ImagePart,
    Message,
    Predicate,
    RerankRequest,
    TextCompletionRequest,
    Tool,
)

Asked = tuple[int, str, int]
ASKED = st.tuples(st.integers(-2, 2), st.sampled_from("abc"), st.integers(1, 9))


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def waiter(loop: asyncio.AbstractEventLoop, priority: int = 0, client: str = "", cost: float = 1) -> Waiter:
    return Waiter(priority, client, cost, [], loop.create_future(), lambda progress: None)


def added(queue: Queue, loop: asyncio.AbstractEventLoop, *asked: Asked) -> list[Waiter]:
    waiters = [waiter(loop, *one) for one in asked]
    for one in waiters:
        queue.add(one)
    return waiters


def order_of(queue: Queue, waiters: list[Waiter]) -> list[int]:
    """The numbers of `waiters` as they are served."""
    return [waiters.index(one) for one in queue]


def test_equals_are_served_as_they_came(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    waiters = added(queue, loop, *[(0, "", 5)] * 4)
    assert (queue.first, queue.last) == (waiters[0], waiters[3])
    assert [waiters.index(queue.take()) for _ in range(4)] == [0, 1, 2, 3]
    assert len(queue) == 0


def test_a_lower_number_goes_first(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    waiters = added(queue, loop, (0, "", 1), (5, "", 1), (-3, "", 1), (0, "", 1), (-3, "", 1))
    assert order_of(queue, waiters) == [2, 4, 0, 3, 1]


def test_one_who_floods_waits_behind_the_first_of_others(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    waiters = added(queue, loop, *[(0, "flood", 10)] * 5, (0, "rare", 10), (0, "rare", 10))
    assert order_of(queue, waiters) == [0, 5, 1, 6, 2, 3, 4]


def test_shares_are_of_tokens_not_of_requests(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    waiters = added(queue, loop, *[(0, "long", 30)] * 3, *[(0, "short", 10)] * 6)
    assert order_of(queue, waiters) == [0, 3, 4, 5, 1, 6, 7, 8, 2]


def test_who_was_away_saves_up_nothing(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    added(queue, loop, *[(0, "busy", 10)] * 10)
    for _ in range(10):
        queue.take()
    waiters = added(queue, loop, *[(0, "late", 10)] * 3, (0, "busy", 10))
    assert order_of(queue, waiters) == [0, 1, 3, 2]


def test_what_was_given_up_costs_nothing(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    for one in added(queue, loop, *[(0, "fickle", 100)] * 20):
        queue.remove(one)
    waiters = added(queue, loop, (0, "steady", 10), (0, "steady", 10), (0, "fickle", 10))
    assert order_of(queue, waiters) == [0, 2, 1]


def test_clearing_costs_nothing_either(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue()
    waiters = added(queue, loop, *[(0, "a", 100)] * 3, (-1, "b", 1))
    assert queue.clear() == [waiters[3], *waiters[:3]]
    waiters = added(queue, loop, (0, "b", 10), (0, "b", 10), (0, "a", 10))
    assert order_of(queue, waiters) == [0, 2, 1]


def test_giving_up_brings_nobody_into_the_past(loop: asyncio.AbstractEventLoop) -> None:
    """A client whose later request comes earlier must not get ahead of those who are already due."""
    queue = Queue()
    added(queue, loop, *[(0, "a", 10)] * 3)
    for _ in range(3):
        queue.take()  # it is 20 now
    large, _ = waiters = added(queue, loop, (0, "b", 1000), (0, "b", 10))
    waiters += added(queue, loop, (0, "c", 10))
    queue.remove(large)
    assert [one.turn[1] for one in queue] == [20, 20]
    assert order_of(queue, waiters) == [1, 2]


@given(asked=st.lists(ASKED, max_size=20), given_up=st.sets(st.integers(0, 19)))
def test_it_is_as_if_who_gave_up_had_never_asked(
    loop: asyncio.AbstractEventLoop, asked: list[Asked], given_up: set[int]
) -> None:
    queue, other = Queue(), Queue()
    waiters = added(queue, loop, *asked)
    for number in given_up & set(range(len(asked))):
        queue.remove(waiters[number])
    kept = [number for number in range(len(asked)) if number not in given_up]
    never = added(other, loop, *(asked[number] for number in kept))
    assert order_of(queue, waiters) == [kept[number] for number in order_of(other, never)]
    assert [one.turn[:2] for one in queue] == [one.turn[:2] for one in other]


@given(st.lists(st.one_of(ASKED, st.sampled_from(["take", "give up"])), max_size=60), st.randoms())
def test_any_history_keeps_the_order(loop: asyncio.AbstractEventLoop, history: list[Any], random: Any) -> None:
    queue, waiting, arrived = Queue(), [], []
    for step in history:
        if isinstance(step, tuple):
            waiting += added(queue, loop, step)
            arrived.append(waiting[-1])
        elif waiting:
            gone = queue.first if step == "take" else random.choice(waiting)
            (queue.take() if step == "take" else queue.remove(gone))
            waiting.remove(gone)
        assert len(queue) == len(waiting)
        assert set(queue) == set(waiting)
        assert all(one.turn < other.turn for one, other in pairwise(queue))
        assert all(one.priority <= other.priority for one, other in pairwise(queue))
        for client, priority in {(one.client, one.priority) for one in waiting}:
            own = [one for one in queue if (one.client, one.priority) == (client, priority)]
            assert own == sorted(own, key=arrived.index), "each client's requests stay in their order"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), min_size=2, max_size=60))
def test_clients_who_wait_all_the_time_get_equal_shares(
    loop: asyncio.AbstractEventLoop, asked: list[tuple[str, int]]
) -> None:
    """As long as both have somebody waiting, they have got the same up to the two largest requests."""
    queue, got = Queue(), Counter[str]()
    added(queue, loop, *((0, client, cost) for client, cost in asked))
    while {one.client for one in queue} == {"a", "b"}:
        one = queue.take()
        got[one.client] += int(one.cost)
        assert abs(got["a"] - got["b"]) <= 18


# --- what a request takes


def chat(*messages: Message, **options: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=list(messages), **options)


def test_a_prompt_and_an_answer_have_a_cost() -> None:
    assert cost_of(TextCompletionRequest(model="m", prompt=[1, 2, 3], max_tokens=5)) == 8
    assert cost_of(TextCompletionRequest(model="m", prompt="x" * 400, suffix="y" * 40, max_tokens=5)) == 115
    assert cost_of(TextCompletionRequest(model="m", prompt=[1])) == 1 + ANSWER
    assert cost_of(TextCompletionRequest(model="m", prompt=[1], max_tokens=None)) == 1 + ANSWER
    assert cost_of(TextCompletionRequest(model="m", prompt=[1], max_tokens=10**6)) == 1 + ANSWER
    assert cost_of(TextCompletionRequest(model="m", prompt=[1], max_tokens=5, n=3, best_of=4)) == 21


def test_all_that_a_chat_reads_has_a_cost_and_no_setting() -> None:
    small = cost_of(chat(Message(role="user", content="x" * 400), max_tokens=1))
    assert 101 <= small <= 105
    tool = Tool(name="t", description="d" * 4000, parameters={"type": "object", "properties": {"p" * 400: {}}})
    assert cost_of(chat(Message(role="user", content="x" * 400), max_tokens=1, tools=[tool])) >= small + 1100
    picture = Message(role="user", content=[ImagePart(data=b"x" * 100_000)])
    assert MEDIA < cost_of(chat(picture, max_tokens=1)) < MEDIA + 20
    settings: dict[str, Any] = {"cache_salt": "x" * 500, "client": "y" * 500, "stop": ["z" * 500]}
    assert cost_of(chat(Message(role="user", content="x" * 400), max_tokens=1, **settings)) == small


def test_other_tasks_have_a_cost_too() -> None:
    assert cost_of(EmbeddingRequest(model="m", input=["x" * 40, [1, 2, 3]])) == 13
    assert cost_of(EmbeddingRequest(model="m", input=[""])) == 1
    assert cost_of(RerankRequest(model="m", query="x" * 40, documents=["y" * 40] * 3)) == 40
    decision = DecisionRequest(model="m", input="x" * 400, questions=[Predicate(question="y" * 40)])
    assert 110 <= cost_of(decision) <= 115
