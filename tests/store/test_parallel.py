"""Large files over several connections, and what servers, networks and kills do to that."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from infs.config import HubConfig, ModelConfig
from infs.errors import ChecksumMismatch, DownloadFailed, SourceError, SourceForbidden, SourceNotFound, StorageFull
from infs.store import RetryPolicy, Store
from infs.store.partial import arrived
from infs.store.segments import Piece, Pieces, Ranges
from infs.store.web import Connections
from infs.types import Progress
from tests.store.servers import Answer, HubServer, Server, below
from tests.store.test_sharing import content_of, until

CONTENT = random.Random(4).randbytes(2_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIECE = 100_000
POLICY = RetryPolicy(
    attempts=3,
    first=0.01,
    longest=0.05,
    timeout=10.0,
    connections=Connections(most=4, piece=PIECE, least=3 * PIECE),
)
MakeParallel = Callable[..., Store]


@pytest_asyncio.fixture
async def make(cache: Path, tmp_path: Path) -> AsyncIterator[MakeParallel]:
    """Makes stores that take small files for large ones; keywords change the policy."""
    stores: list[Store] = []

    def make(endpoint: str | None = None, *, token: str | None = None, **policy: Any) -> Store:
        retry = msgspec.structs.replace(POLICY, **policy)
        environ = {"HF_HOME": str(tmp_path / "hf")}
        stores.append(Store(cache, hub=HubConfig(endpoint=endpoint, token=token), environ=environ, retry=retry))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def model(web: Server) -> ModelConfig:
    return ModelConfig(url=web.add("/m.gguf", CONTENT))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow connections are found out soon."""
    monkeypatch.setattr("infs.store.segments.PATIENCE", 0.05)
    monkeypatch.setattr("infs.store.segments.WINDOW", 0.1)
    monkeypatch.setattr("infs.store.pace.LEAST", 0.05)


def parts(web: Server, path: str = "/m.gguf") -> list[tuple[int, int]]:
    """The ranges asked for, without the request that began it all."""
    return [each for each in web.asked(path) if each != (0, len(CONTENT))]


def once(answer: Answer, first: int | None = None) -> Callable[[int], Answer]:
    """A rule: `answer` for the first request of a part (the one that begins at `first`), good ones for the others."""
    left = [answer]

    def rule(start: int) -> Answer:
        wanted = start > 0 if first is None else start == first
        return left.pop() if wanted and left else Answer()

    return rule


def noted(cache: Path) -> Ranges:
    """What the note beside the partial file promises."""
    notes = below(cache / "downloads", "*.part.json")
    return Ranges(json.loads(notes[0].read_text()).get("done", [])) if notes else Ranges()


def silent(event: Progress) -> None:
    pass


async def content(store: Store, model: ModelConfig) -> bytes:
    """What the downloaded file holds."""
    fetched = await store.fetch("m", model, silent)
    assert fetched is not None
    return fetched.path.read_bytes()


# --- parts of a file ---


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))), st.integers(0, 30))
def test_ranges_are_sets_of_bytes(added: list[tuple[int, int]], total: int) -> None:
    ranges = Ranges(added)
    model = {byte for first, end in added for byte in range(first, end)}
    assert {byte for first, end in ranges for byte in range(first, end)} == model
    assert ranges.size == len(model)
    missing = [byte for byte in range(total) if byte not in model]
    gap = ranges.gap(total)
    assert (gap is None) == (not missing)
    assert gap is None or (gap[0] == missing[0] and not model & set(range(*gap)) and (gap[1] in model | {total}))
    assert ranges.beginning == next(byte for byte in range(31) if byte not in model)
    assert ranges.below(total) == Ranges((first, min(end, total)) for first, end in added)
    pairs = list(ranges)
    assert all(end < first for (_, end), (first, _) in pairwise(pairs))


def simulate(speeds: list[float], total: int = 100_000, size: int = 10_000, delay: float = 0.0) -> tuple[float, int]:
    """Seconds until connections of these speeds (bytes per second) have fetched a file, and the bytes that came."""
    now = [0.0]
    done = Ranges()
    pieces = Pieces(total, done, size, lambda: now[0])
    working: dict[int, Piece | None] = dict.fromkeys(range(len(speeds)))
    came = 0
    while not pieces.complete and now[0] < 1000:
        for number, speed in enumerate(speeds):
            piece = working[number] = working[number] or pieces.take()
            if piece is not None and now[0] - piece.started >= delay:
                count = max(0, min(piece.left, int(speed * 0.01)))
                first = piece.at
                pieces.received(piece, count)
                done.add(first, piece.at)
                came += count
                if piece.left <= 0:
                    pieces.release(piece)
                    working[number] = None
        now[0] += 0.01
    return now[0], came


def test_pieces_go_to_whoever_is_free() -> None:
    seconds, came = simulate([10_000, 10_000, 10_000, 10_000])
    assert seconds == pytest.approx(100_000 / 40_000, rel=0.3)
    assert came == 100_000


@pytest.mark.parametrize("slow", [0, 100, 1000])
def test_a_slow_connection_does_not_hold_the_others_up(slow: int) -> None:
    seconds, came = simulate([10_000, 10_000, slow])
    assert seconds < 100_000 / 20_000 + 4
    assert came < 110_000


def test_a_server_that_takes_its_time_is_not_asked_in_circles() -> None:
    """Connections that wait for their first byte do not take it from each other for ever."""
    seconds, came = simulate([10_000] * 4, total=40_000, delay=5.0)
    assert seconds < 7
    assert came < 2 * 40_000


# --- good servers ---


async def test_a_large_file_comes_over_several_connections(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    together = threading.Barrier(3)
    waiting = [PIECE, 2 * PIECE, 3 * PIECE]

    def rule(first: int) -> Answer:
        if first in waiting:
            together.wait(30)
        return Answer()

    web.rules["/m.gguf"] = rule
    assert await content(make(), model) == CONTENT
    assert parts(web) == [(first, first + PIECE) for first in range(PIECE, len(CONTENT), PIECE)]
    assert {request.headers.get("if-range") for request in web.gets("/m.gguf")} == {None, '"one"'}
    assert below(cache / "downloads", "*.part*") == []


async def test_the_hubs_files_do_and_the_token_stays_with_the_hub(
    hub: HubServer, make: MakeParallel, cache: Path
) -> None:
    hub.put("org/repo", "m.gguf", CONTENT)
    assert await content(make(hub.url, token="hf_secret"), ModelConfig(url="hf:org/repo/m.gguf")) == CONTENT
    cdn = f"/cdn/{SHA256}"
    assert hub.cdn.asked(cdn) == [(first, first + PIECE) for first in range(0, len(CONTENT), PIECE)]
    assert not any("authorization" in request.headers for request in hub.cdn.requests)
    # The hub is asked where the file is, and its redirect followed, once.
    assert [request.method for request in hub.requests] == ["HEAD", "GET"]


async def test_an_address_that_expires_is_asked_for_again(hub: HubServer, make: MakeParallel) -> None:
    hub.put("org/repo", "m.gguf", CONTENT)
    hub.cdn.rules[f"/cdn/{SHA256}"] = once(Answer(status=403))
    assert await content(make(hub.url), ModelConfig(url="hf:org/repo/m.gguf")) == CONTENT
    assert [request.method for request in hub.requests] == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize(
    "more", [{"etag": 'W/"weak"', "modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, {"etag": ""}, {"content": CONTENT[:9]}]
)
async def test_what_comes_over_one_connection(web: Server, make: MakeParallel, more: dict[str, Any]) -> None:
    """Content that nothing promises to be the same, and small files."""
    model = ModelConfig(url=web.add("/m.gguf", **({"content": CONTENT} | more)))
    assert await content(make(), model) == web.files["/m.gguf"].content
    assert len(web.requests) == 1


async def test_progress_rises_to_the_end(make: MakeParallel, model: ModelConfig) -> None:
    events: list[Progress] = []
    await make().fetch("m", model, events.append)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].done, events[-1].total) == (len(CONTENT), len(CONTENT))


async def test_what_comes_is_counted_while_it_comes_and_nothing_else(make: MakeParallel, model: ModelConfig) -> None:
    store = make()
    seen: list[tuple[str, int | None]] = []

    def look(event: Progress) -> None:
        seen.extend((download.detail, download.total) for download in store.traffic.running)

    await store.fetch("m", model, look)
    assert ("m.gguf", len(CONTENT)) in seen
    assert store.traffic.running == []
    assert store.traffic.bytes == len(CONTENT)
    await store.fetch("m", model, look)
    assert store.traffic.bytes == len(CONTENT), "it was there"


# --- bad ones ---


@pytest.mark.parametrize(
    "answer",
    [
        Answer(drop_after=30_000),
        Answer(drop_after=0),
        Answer(status=500),
        Answer(headers={"Content-Length": "1000", "Connection": "close"}, drop_after=1000),
        Answer(headers={"Content-Length": str(9 * PIECE), "Connection": "close"}),
        # From here on the server is no longer trusted with parts.
        Answer(whole=True),
        Answer(status=416),
        Answer(headers={"ETag": '"two"'}),
        Answer(headers={"Content-Range": f"bytes 0-{PIECE - 1}/{len(CONTENT)}"}),
        Answer(headers={"Content-Range": f"bytes {PIECE}-{2 * PIECE - 1}/{len(CONTENT) + 1}"}),
        Answer(headers={"Content-Range": ""}),
        Answer(headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_a_part_that_goes_wrong(web: Server, make: MakeParallel, model: ModelConfig, answer: Answer) -> None:
    web.rules["/m.gguf"] = once(answer, PIECE)
    assert await content(make(), model) == CONTENT


@pytest.mark.parametrize("said", [len(CONTENT) - 7 * PIECE, len(CONTENT) + 7 * PIECE])
async def test_a_length_of_the_whole_that_is_wrong(
    web: Server, make: MakeParallel, model: ModelConfig, said: int
) -> None:
    """What the parts say counts."""
    lie = [Answer(headers={"Content-Length": str(said), "Connection": "close"}, drop_after=said)]
    web.rules["/m.gguf"] = lambda first: lie.pop() if first == 0 and lie else Answer()
    assert await content(make(), model) == CONTENT
    assert lie == []


async def test_a_server_that_always_says_too_little(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    lie = Answer(headers={"Content-Length": "900000", "Connection": "close"}, drop_after=900_000)
    web.rules["/m.gguf"] = lambda first: Answer() if first else lie
    with pytest.raises(ChecksumMismatch, match=SHA256):
        await make().fetch("m", msgspec.structs.replace(model, sha256=SHA256), silent)


async def test_a_server_that_cuts_every_part(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    web.rules["/m.gguf"] = lambda first: Answer(drop_after=60_000)
    assert await content(make(), model) == CONTENT


async def test_a_server_that_sends_no_more(web: Server, make: MakeParallel, model: ModelConfig, cache: Path) -> None:
    web.rules["/m.gguf"] = lambda first: Answer(drop_after=0) if first >= 10 * PIECE else Answer()
    with pytest.raises(DownloadFailed, match="failed after 3 tries"):
        await make().fetch("m", model, silent)
    # Failures at the same time count as one; so there are no more than four connections times three tries.
    assert sum(first >= 10 * PIECE for first, _ in parts(web)) <= 12
    del web.rules["/m.gguf"]
    assert noted(cache) == Ranges([(0, 10 * PIECE)])
    web.requests.clear()
    assert await content(make(), model) == CONTENT
    assert all(first >= 10 * PIECE for first, _ in web.asked("/m.gguf"))


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_wants_fewer_requests(
    web: Server, make: MakeParallel, model: ModelConfig, status: int
) -> None:
    left = [Answer(status=status, headers={"Retry-After": "0"})] * 3
    web.rules["/m.gguf"] = lambda first: left.pop() if first and left else Answer()
    # Not one failure is allowed, and this is none: three of four connections were too many.
    assert await content(make(attempts=1), model) == CONTENT
    assert left == []


async def test_a_server_that_wants_a_long_wait(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    web.rules["/m.gguf"] = lambda first: Answer(status=429, headers={"Retry-After": "3600"}) if first else Answer()
    with pytest.raises(DownloadFailed) as caught:
        await make().fetch("m", model, silent)
    assert caught.value.retry_after == 3600.0
    assert len(web.requests) <= 5


@pytest.mark.parametrize(("status", "kind"), [(401, SourceForbidden), (403, SourceForbidden), (404, SourceNotFound)])
async def test_a_server_that_refuses_in_the_middle(
    web: Server, make: MakeParallel, model: ModelConfig, status: int, kind: type[SourceError], cache: Path
) -> None:
    web.rules["/m.gguf"] = lambda first: Answer(status=status) if first >= 10 * PIECE else Answer()
    with pytest.raises(kind, match=f"answered {status}"):
        await make().fetch("m", model, silent)
    kept = noted(cache)
    assert kept.size > 0
    del web.rules["/m.gguf"]
    assert await content(make(), model) == CONTENT


@pytest.mark.parametrize("how", [{"stop_after": 10_000}, {"stop_after": 0}, {"trickle": 100}])
async def test_a_connection_that_hardly_moves_holds_nothing_up(
    web: Server, make: MakeParallel, model: ModelConfig, how: dict[str, int], impatient: None
) -> None:
    """Others fetch what it does not: it would time out after the test."""
    answer = Answer(gate=threading.Event() if "stop_after" in how else None, **how)  # type: ignore[arg-type]
    web.rules["/m.gguf"] = once(answer, first=2 * PIECE)
    assert await content(make(timeout=500.0), model) == CONTENT
    assert sum(2 * PIECE <= first < 3 * PIECE for first, _ in parts(web)) > 1


async def test_connections_that_all_stall_time_out(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    stalled: set[int] = set()

    def rule(first: int) -> Answer:
        if first in stalled or len(stalled) == 4:
            return Answer()
        stalled.add(first)
        return Answer(stop_after=10_000, gate=threading.Event())

    web.rules["/m.gguf"] = rule
    assert await content(make(timeout=0.3), model) == CONTENT
    assert len(stalled) == 4
    assert {first + 10_000 for first in stalled} <= {first for first, _ in web.asked("/m.gguf")}


async def test_a_wrong_checksum(web: Server, make: MakeParallel, model: ModelConfig, cache: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=SHA256):
        await make().fetch("m", msgspec.structs.replace(model, sha256="0" * 64), silent)
    assert [path.name for path in below(cache)] == ["m.gguf.lock"]


# --- the disk ---


async def test_a_disk_that_fills_up_in_the_middle(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    resource = pytest.importorskip("resource", reason="limits of this kind are Unix's")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * PIECE + 50_000, hard))
    try:
        with pytest.raises(StorageFull, match=r"Free some space, or set cache_path .* goes on from there"):
            await make().fetch("m", model, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = noted(cache)
    assert 0 < kept.size <= 10 * PIECE + 50_000
    await goes_on(web, make, model, kept)


async def goes_on(web: Server, make: MakeParallel, model: ModelConfig, kept: Ranges) -> None:
    """Fetch the rest, and nothing of what was kept."""
    web.requests.clear()
    web.rules.clear()
    assert await content(make(), msgspec.structs.replace(model, sha256=SHA256)) == CONTENT
    # As a set: a request of the first run may have reached the server late.
    asked = Ranges(web.asked("/m.gguf"))
    assert asked.size == len(CONTENT) - kept.size
    assert Ranges([*kept, *asked]) == Ranges([(0, len(CONTENT))])


@pytest.mark.parametrize("note", ["", "{}", '{"etag": "\\"one\\"", "size": 9, "done": [[5, 3]]}', '{"done": 7}'])
async def test_a_damaged_note(web: Server, make: MakeParallel, model: ModelConfig, cache: Path, note: str) -> None:
    await leave_gaps(web, make, model)
    below(cache / "downloads", "*.part.json")[0].write_text(note)
    assert await content(make(), model) == CONTENT


async def leave_gaps(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    """Have some parts there, not from the beginning on."""
    web.rules["/m.gguf"] = lambda first: Answer(status=404) if first == 8 * PIECE else Answer(trickle=25_000)
    with pytest.raises(SourceNotFound):
        await make().fetch("m", model, silent)
    web.rules.clear()
    web.requests.clear()


async def test_a_partial_file_that_was_cut(web: Server, make: MakeParallel, model: ModelConfig, cache: Path) -> None:
    await leave_gaps(web, make, model)
    partial = below(cache / "downloads", "*.part")[0]
    os.truncate(partial, 150_000)
    kept = noted(cache).below(150_000)
    assert arrived(partial) == kept.size
    await goes_on(web, make, model, kept)


async def test_parts_of_a_file_that_changed_are_not_mixed(web: Server, make: MakeParallel, model: ModelConfig) -> None:
    await leave_gaps(web, make, model)
    new = bytes(reversed(CONTENT))
    web.add("/m.gguf", new, etag='"two"')
    assert await content(make(), model) == new


async def test_a_cancelled_download_keeps_what_came(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    gate = threading.Event()
    web.rules["/m.gguf"] = lambda first: Answer(stop_after=50_000, gate=gate) if first >= 10 * PIECE else Answer()
    fetch = asyncio.create_task(make().fetch("m", model, silent))
    await until(lambda: len(web.requests) >= 13 and noted(cache).size >= 10 * PIECE)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    # Cancelled work ends beside the one who waited for it.
    await until(lambda: len(asyncio.all_tasks()) == 1)
    gate.set()
    kept = noted(cache)
    assert kept.size > 10 * PIECE
    await goes_on(web, make, model, kept)


# --- one connection and several, one after the other ---


async def test_what_one_connection_left_goes_on_over_several(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    web.answers["/m.gguf"] = [Answer(drop_after=650_000)]
    with pytest.raises(DownloadFailed):
        await make(attempts=1, connections=Connections(most=1)).fetch("m", model, silent)
    assert arrived(below(cache, "*.part")[0]) == 650_000
    web.requests.clear()
    assert await content(make(), model) == CONTENT
    assert [first for first, _ in web.asked("/m.gguf")] == list(range(650_000, len(CONTENT), PIECE))


async def test_what_several_left_goes_on_over_one(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    await leave_gaps(web, make, model)
    beginning = noted(cache).beginning
    assert await content(make(connections=Connections(most=1)), model) == CONTENT
    assert web.asked("/m.gguf") == [(beginning, len(CONTENT))]


# --- processes ---

FETCH = """
import asyncio, sys, msgspec
from infs.config import ModelConfig
from infs.store import RetryPolicy, Store

async def main(url, cache, policy):
    store = Store(cache, environ={"HF_HOME": cache}, retry=msgspec.json.decode(policy, type=RetryPolicy))
    print((await store.fetch("m", ModelConfig(url=url), lambda event: None)).path)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def fetching(model: ModelConfig, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that fetches `model`."""
    command = [sys.executable, "-c", FETCH, str(model.url), str(cache), msgspec.json.encode(POLICY).decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_killed_process_leaves_its_parts_to_another(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    """Killed while four parts have stopped in the middle, and others between them are complete."""
    gate = threading.Event()
    stuck = (2 * PIECE, 9 * PIECE, 10 * PIECE, 11 * PIECE)
    web.rules["/m.gguf"] = lambda first: Answer(stop_after=1000, gate=gate) if first in stuck else Answer()
    with fetching(model, cache) as process:
        await until(lambda: noted(cache).size == 8 * PIECE and len(web.requests) == 12)
        process.kill()
        await asyncio.to_thread(process.wait)
    gate.set()
    kept = noted(cache)
    assert kept.beginning < kept.size
    await goes_on(web, make, model, kept)


async def test_two_processes_and_three_stores_download_once(
    web: Server, make: MakeParallel, model: ModelConfig, cache: Path
) -> None:
    gate = threading.Event()
    web.rules["/m.gguf"] = lambda first: Answer(stop_after=0, gate=gate)
    with fetching(model, cache) as one, fetching(model, cache) as two:
        stores = [asyncio.create_task(content(make(), model)) for _ in range(3)]
        await until(lambda: bool(web.requests))
        gate.set()
        outputs = [(await asyncio.to_thread(process.communicate))[0] for process in (one, two)]
        assert await asyncio.gather(*stores) == [CONTENT] * 3
    assert [content_of(output) for output in outputs] == [CONTENT] * 2
    assert parts(web) == [(first, first + PIECE) for first in range(PIECE, len(CONTENT), PIECE)]
