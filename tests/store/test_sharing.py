"""Several who want the same files at the same time: in one process, and in many."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infs.config import ModelConfig
from infs.errors import DownloadFailed, ServerClosed
from infs.store import Store
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import Answer, HubServer, Server, below

CONTENT = os.urandom(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DEADLINE = 30.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will happen."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)


@pytest.fixture
def gate(web: Server) -> threading.Event:
    """Holds the next download of /m.gguf in its middle."""
    event = threading.Event()
    web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(stop_after=400_000, gate=event)]
    return event


@pytest.fixture
def model(web: Server, gate: threading.Event) -> Iterator[ModelConfig]:
    yield ModelConfig(url=f"{web.url}/m.gguf")
    gate.set()


async def test_two_fetches_share_one_download(
    web: Server, make_store: MakeStore, model: ModelConfig, gate: threading.Event
) -> None:
    store = make_store()
    first: list[Progress] = []
    second: list[Progress] = []
    one = asyncio.create_task(store.fetch("a", model, first.append))
    await until(lambda: bool(first))
    two = asyncio.create_task(store.fetch("b", model, second.append))
    # Who comes late learns at once how far it is.
    await until(lambda: bool(second))
    gate.set()
    assert await one == await two
    assert len(web.requests) == 1
    assert first[-1] == second[-1]
    assert first[-1].done == len(CONTENT)


async def test_one_who_leaves_does_not_stop_the_others(
    web: Server, make_store: MakeStore, model: ModelConfig, gate: threading.Event
) -> None:
    store = make_store()
    first: list[Progress] = []
    second: list[Progress] = []
    one = asyncio.create_task(store.fetch("m", model, first.append))
    two = asyncio.create_task(store.fetch("m", model, second.append))
    await until(lambda: bool(first and second))
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    heard = len(first)
    gate.set()
    path = await two
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert len(web.requests) == 1
    assert len(first) == heard


async def test_when_all_have_left_the_download_stops_and_can_go_on(
    web: Server, make_store: MakeStore, model: ModelConfig, gate: threading.Event, events: list[Progress], cache: Path
) -> None:
    store = make_store()
    fetches = [asyncio.create_task(store.fetch("m", model, events.append)) for _ in range(2)]
    await until(lambda: bool(events))
    for fetch in fetches:
        fetch.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*fetches, return_exceptions=True)
    )
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert len(web.requests) == 1
    path = await store.fetch("m", model, events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert web.gets("/m.gguf")[1].headers["range"].startswith("bytes=")
    assert below(cache, "*.part") == []


async def test_a_failure_reaches_all_and_is_not_kept(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    model = ModelConfig(url=web.add("/m.gguf", CONTENT))
    web.answers["/m.gguf"] = [Answer(status=418)]
    store = make_store()
    results = await asyncio.gather(*(store.fetch("m", model, events.append) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [DownloadFailed] * 3
    assert await store.fetch("m", model, events.append) is not None


async def test_a_broken_progress_callback_breaks_nothing(
    web: Server, make_store: MakeStore, events: list[Progress], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Progress) -> None:
        raise ZeroDivisionError

    model = ModelConfig(url=web.add("/m.gguf", CONTENT))
    assert await make_store().fetch("m", model, broken) is not None
    assert "A progress callback failed" in caplog.text


async def test_closing_ends_downloads(
    make_store: MakeStore, model: ModelConfig, events: list[Progress], gate: threading.Event
) -> None:
    store = make_store()
    fetch = asyncio.create_task(store.fetch("m", model, events.append))
    await until(lambda: bool(events))
    await store.close()
    with pytest.raises(ServerClosed):
        await fetch
    with pytest.raises(ServerClosed):
        await store.fetch("m", model, events.append)
    await store.close()


async def one_waits_for_the_other(make_store: MakeStore, model: ModelConfig) -> list[asyncio.Task[Path | None]]:
    """Two stores at work on the same file: the first downloads it, the second waits for that."""
    tasks = []
    details = []
    for _ in range(2):
        events: list[Progress] = []
        tasks.append(asyncio.create_task(make_store().fetch("m", model, events.append)))
        await until(lambda events=events: bool(events))  # type: ignore[misc]
        details.append(events[0].detail)
    assert details == ["m.gguf", "m.gguf: another process is downloading it"]
    return tasks


async def test_two_stores_in_one_process_download_once(
    web: Server, make_store: MakeStore, model: ModelConfig, gate: threading.Event
) -> None:
    """On one event loop: if waiting blocked it, this would never end."""
    one, two = await one_waits_for_the_other(make_store, model)
    gate.set()
    assert await one == await two
    assert len(web.requests) == 1


async def test_waiting_for_another_can_be_cancelled(
    make_store: MakeStore, model: ModelConfig, gate: threading.Event
) -> None:
    one, two = await one_waits_for_the_other(make_store, model)
    two.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two
    gate.set()
    assert await one is not None


# --- processes ---

FETCH = """
import asyncio, sys
from infs.config import HubConfig, ModelConfig
from infs.store import Store

async def main(url, sha256, cache, endpoint):
    store = Store(cache, hub=HubConfig(endpoint=endpoint), environ={"HF_HOME": cache})
    print((await store.fetch("m", ModelConfig(url=url, sha256=sha256), lambda event: None)).path)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def fetching(url: str, cache: Path, endpoint: str = "http://127.0.0.1:9") -> Iterator[subprocess.Popen[str]]:
    """Another process that fetches `url`."""
    command = [sys.executable, "-c", FETCH, url, SHA256, str(cache), endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def content_of(output: str) -> bytes:
    """What the file holds whose path such a process wrote."""
    return Path(output.strip()).read_bytes()


async def test_two_processes_download_once(web: Server, cache: Path, model: ModelConfig, gate: threading.Event) -> None:
    url = f"{web.url}/m.gguf"
    with fetching(url, cache) as one, fetching(url, cache) as two:
        await until(lambda: bool(web.requests))
        gate.set()
        outputs = [(await asyncio.to_thread(process.communicate))[0] for process in (one, two)]
    assert outputs[0] == outputs[1]
    assert content_of(outputs[0]) == CONTENT
    assert len(web.requests) == 1


async def test_two_processes_fetch_from_the_hub_once(hub: HubServer, cache: Path) -> None:
    hub.put("org/repo", "m.gguf", CONTENT)
    gate = threading.Event()
    hub.cdn.answers[f"/cdn/{SHA256}"] = [Answer(stop_after=400_000, gate=gate)]
    with fetching("hf:org/repo", cache, hub.url) as one, fetching("hf:org/repo", cache, hub.url) as two:
        await until(lambda: sum(request.method == "HEAD" for request in hub.requests) == 2)
        gate.set()
        outputs = [(await asyncio.to_thread(process.communicate))[0] for process in (one, two)]
    assert outputs[0] == outputs[1]
    assert content_of(outputs[0]) == CONTENT
    assert len(hub.cdn.requests) == 1


async def test_a_killed_process_leaves_its_part_and_not_its_lock(
    web: Server, cache: Path, model: ModelConfig, make_store: MakeStore, events: list[Progress], gate: threading.Event
) -> None:
    def partial() -> int:
        return sum(path.stat().st_size for path in below(cache, "*.part"))

    web.add("/m.gguf", CONTENT * 3)
    web.answers["/m.gguf"] = [Answer(stop_after=2_900_000, gate=gate)]
    store = make_store()
    with fetching(f"{web.url}/m.gguf", cache) as holder:
        await until(lambda: partial() > 0)
        fetch = asyncio.create_task(store.fetch("m", model, events.append))
        await until(lambda: bool(events))
        assert "another process" in events[0].detail
        holder.kill()
        await asyncio.to_thread(holder.wait)
        path = await fetch
    assert path is not None
    assert path.read_bytes() == CONTENT * 3
    assert web.gets("/m.gguf")[1].headers["range"] >= "bytes=1000000-"


def test_a_store_makes_nothing_before_it_is_used(cache: Path) -> None:
    Store(cache, environ={})
    assert not cache.exists()
