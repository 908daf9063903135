"""A loop that nobody runs but the user."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infs.errors import InvalidRequest
from infs.llama import Llama
from tests.llama.models import COUNT, QUESTIONS, counting, demo


def requests() -> list[tuple[Any, dict[str, Any]]]:
    texts = [(counting(first), {"max_tokens": 15}) for first in (1, 2, 3)]
    return [*texts, *((([{"role": "user", "content": question}]), {}) for question in QUESTIONS)]


def test_steps_give_the_same_texts_as_the_thread(manual: Llama, llm: Llama) -> None:
    handles = [manual.submit(what, **settings) for what, settings in requests()]
    assert not any(handle.done for handle in handles)
    steps = 1
    while manual.step():
        steps += 1
    assert all(handle.done for handle in handles)
    assert steps > 15
    assert manual.step() is False
    expected = [llm.submit(what, **settings).result().text for what, settings in requests()]
    assert [handle.result().text for handle in handles] == expected


def test_run_until_idle_and_again(manual: Llama) -> None:
    manual.run()
    for _ in range(2):
        handle = manual.submit(COUNT, max_tokens=5)
        manual.run()
        assert handle.result().usage.completion_tokens == 5


def test_a_step_is_one_step(manual: Llama) -> None:
    handle = manual.submit(COUNT, max_tokens=3)
    told = []
    while manual.step():
        told.append(manual.counts()["generated_tokens"])
    assert told == sorted(told)
    assert handle.result().usage.completion_tokens == 3


def test_a_thread_of_ones_own() -> None:
    with demo(run="manual") as llm:
        thread = threading.Thread(target=lambda: llm.run(forever=True))
        thread.start()
        with ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(lambda _: llm.chat(QUESTIONS[0]).text, range(16)))
        assert set(texts) == {"The capital of France is Paris."}
        assert thread.is_alive()
    thread.join()


def test_threads_submit_while_one_steps(manual: Llama, llm: Llama) -> None:
    expected = [llm.complete(counting(first), max_tokens=12).text for first in range(1, 5)]
    with ThreadPoolExecutor(8) as pool:
        submitted = [pool.submit(manual.submit, counting(1 + n % 4), max_tokens=12) for n in range(32)]
        while not all(future.done() and future.result().done for future in submitted):
            manual.step()
    assert [future.result().result().text for future in submitted] == expected * 8
    assert manual.step() is False


def test_two_threads_that_step_take_turns(manual: Llama) -> None:
    handles = [manual.submit(COUNT, max_tokens=20) for _ in range(4)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: manual.run(), range(2)))
    assert {handle.result().usage.completion_tokens for handle in handles} == {20}


def test_a_loop_with_a_thread_is_not_to_be_run(llm: Llama) -> None:
    for call in (llm.step, llm.run):
        with pytest.raises(InvalidRequest, match="run='manual'"):
            call()


def test_a_closed_one_has_nothing_to_do() -> None:
    llm = demo(run="manual")
    llm.submit(COUNT)
    llm.close()
    assert llm.step() is False
    llm.run()
    llm.run(forever=True)


def test_what_is_on_disk_is_found_without_a_loop(tmp_path: Path) -> None:
    prompt = COUNT * 20
    for cached in (False, True):
        with demo(run="manual", cache=tmp_path, disk_cache=1 << 24) as llm:
            handle = llm.submit(prompt, max_tokens=1)
            llm.run()
            assert (handle.result().usage.cached_tokens > 100) is cached
