"""A network, a hub, a disk and a cache that do not do what they should; and what is told meanwhile."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from infs.config import HubConfig, ModelConfig
from infs.errors import DownloadFailed, StorageFull
from infs.store import RetryPolicy, Store
from infs.store.checksum import Verifier
from infs.store.disk import Notes, write_text
from infs.store.pace import Pace
from infs.store.progress import Meter
from infs.store.sink import Sink
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import Answer, HubServer, Server, below

CONTENT = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LOG = logging.getLogger("test")


def silent(event: Progress) -> None:
    pass


# --- the network ---


async def test_a_hub_that_is_down(make_store: MakeStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DownloadFailed, match=r"failed after 3 tries: the connection .* Check the connection"):
            await make_store(endpoint).fetch("m", ModelConfig(url="hf:org/repo/m.gguf"), silent)


async def test_a_hub_that_says_nothing(cache: Path) -> None:
    """It takes connections, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hub = HubConfig(endpoint=f"http://127.0.0.1:{mute.getsockname()[1]}")
        store = Store(cache, hub=hub, environ={}, retry=RetryPolicy(attempts=2, first=0.01, timeout=0.1))
        with pytest.raises(DownloadFailed, match="did not answer in time"):
            await store.fetch("m", ModelConfig(url="hf:org/repo/m.gguf"), silent)
        await store.close()


async def test_a_hub_that_wants_a_long_wait(hub: HubServer, make_store: MakeStore) -> None:
    hub.put("org/repo", "m.gguf", CONTENT)
    path = f"/cdn/{SHA256}"
    hub.cdn.answers[path] = [Answer(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(DownloadFailed, match="answered 429") as caught:
        await make_store(hub.url).fetch("m", ModelConfig(url="hf:org/repo/m.gguf"), silent)
    assert caught.value.retry_after == 3600.0
    assert len(hub.cdn.requests) == 1


@pytest.mark.parametrize("answer", [Answer(trickle=100_000), Answer(stop_after=700_000, gate=threading.Event())])
async def test_a_slow_server(web: Server, cache: Path, answer: Answer) -> None:
    """One that trickles is waited for, for as long as something comes; one that stops is asked for the rest."""
    model = ModelConfig(url=web.add("/m.gguf", CONTENT), sha256=SHA256)
    web.answers["/m.gguf"] = [answer]
    store = Store(cache, environ={}, retry=RetryPolicy(attempts=2, first=0.01, timeout=0.2))
    path = await store.fetch("m", model, silent)
    await store.close()
    assert path is not None
    assert [request.headers.get("range") for request in web.gets("/m.gguf")] == (
        [None] if answer.trickle else [None, "bytes=700000-"]
    )


# --- the disk ---


async def test_a_write_that_finds_the_disk_full(
    web: Server, make_store: MakeStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(url=web.add("/m.gguf", CONTENT), sha256=SHA256)
    write = Sink._write

    def full(sink: Sink) -> None:
        if sink._at > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(sink)

    monkeypatch.setattr(Sink, "_write", full)
    with pytest.raises(StorageFull, match=r"No space left.* set cache_path .* What came so far is kept"):
        await make_store().fetch("m", model, silent)
    monkeypatch.undo()
    kept = below(cache, "*.part")[0].stat().st_size
    assert kept >= 1_000_000
    assert await make_store().fetch("m", model, silent) is not None
    assert web.gets("/m.gguf")[1].headers["range"] == f"bytes={kept}-"


def test_a_note_that_somebody_reads_is_replaced_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses it meanwhile."""
    replace, refused = os.replace, [1, 2]

    def refuse(new: Path, path: Path) -> None:
        if refused:
            refused.pop()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(new, path)

    monkeypatch.setattr("infs.store.disk.os.replace", refuse)
    write_text(tmp_path / "note", "new")
    assert (tmp_path / "note").read_text() == "new"
    refused[:] = range(9)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "note", "newer")
    assert below(tmp_path) == [tmp_path / "note"]


# --- the cache ---


@pytest.fixture
def verifier(tmp_path: Path) -> Verifier:
    return Verifier(Notes(tmp_path / "notes"))


def put(path: Path, content: bytes, seconds: int) -> Path:
    """Have `content` there, last changed so many seconds after the epoch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    return path


DIGESTS = {"sha256": SHA256}
ALTERED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "digests", "content", "said"),
    [
        ("m.gguf", DIGESTS, CONTENT[:-1], "has 2999999 bytes, and had 3000000"),
        ("m.gguf", {}, CONTENT[:-1], "has 2999999 bytes, and had 3000000"),
        ("m.gguf", DIGESTS, ALTERED, "has the sha256 checksum"),
        (SHA256, {}, ALTERED, "has the sha256 checksum"),
        ("m.gguf", {}, ALTERED, "was changed after its download"),
    ],
)
async def test_damage_in_the_cache_is_noticed(
    verifier: Verifier,
    tmp_path: Path,
    name: str,
    digests: dict[str, str],
    content: bytes,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = put(tmp_path / name, CONTENT, 1000)
    verifier.remember(path, digests)
    assert not await verifier.discard_damaged(path, silent, LOG)
    put(path, content, 2000)
    assert await verifier.discard_damaged(path, silent, LOG)
    assert not path.exists()
    assert said in caplog.text
    assert "downloaded again" in caplog.text


@pytest.mark.parametrize(("name", "digests"), [("m.gguf", DIGESTS), (SHA256, {})])
async def test_a_file_that_only_has_another_time_stays(
    verifier: Verifier, tmp_path: Path, name: str, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / name, CONTENT, 1000)
    verifier.remember(path, digests)
    put(path, CONTENT, 2000)
    assert not await verifier.discard_damaged(path, silent, LOG)
    # It was read for that, and is not read again.
    monkeypatch.delattr("infs.store.checksum.digests_of")
    assert not await verifier.discard_damaged(path, silent, LOG)


async def test_a_file_of_another_tool_is_remembered_when_it_is_first_seen(verifier: Verifier, tmp_path: Path) -> None:
    path = put(tmp_path / "m.gguf", CONTENT, 1000)
    assert not await verifier.discard_damaged(path, silent, LOG)
    put(path, CONTENT[:9], 2000)
    assert await verifier.discard_damaged(path, silent, LOG)


async def test_what_another_process_has_repaired_meanwhile_stays(
    verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "m.gguf", CONTENT, 1000)
    verifier.remember(path, DIGESTS)
    put(path, ALTERED, 2000)

    async def slowly(path: Path, names: tuple[str, ...]) -> dict[str, str]:
        put(path, CONTENT, 3000)
        return dict.fromkeys(names, "what it was before")

    monkeypatch.setattr("infs.store.checksum.digests_of", slowly)
    assert await verifier.discard_damaged(path, silent, LOG)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("source", ["hub", "web"])
async def test_a_damaged_download_is_repaired(
    hub: HubServer, make_store: MakeStore, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.put("org/repo", "m.gguf", CONTENT)
    url = "hf:org/repo/m.gguf" if source == "hub" else hub.cdn.add("/m.gguf", CONTENT)
    path = await make_store(hub.url).fetch("m", ModelConfig(url=url), silent)
    assert path is not None
    os.truncate(path, 2_000_000)
    assert await make_store(hub.url).fetch("m", ModelConfig(url=url), silent) == path
    assert path.read_bytes() == CONTENT
    assert len(hub.cdn.requests) == 2
    assert "has 2000000 bytes, and had 3000000" in caplog.text


# --- speed ---


def test_speed_and_time_left() -> None:
    """What was there before is no speed; what is long ago does not count; who starts anew has no speed yet."""
    now = 0.0
    events: list[Progress] = []
    meter = Meter(events.append, "m", lambda: now)

    def at(seconds: float, done: int, total: int | None = 10_000) -> tuple[float | None, float | None]:
        nonlocal now
        now = seconds
        meter.show(done, total, always=True)
        return events[-1].rate, events[-1].remaining

    assert at(0.0, 5000) == (None, None)
    assert at(0.2, 5100) == (None, None)
    assert at(1.0, 5500) == (500.0, 9.0)
    assert at(2.0, 6000, None) == (500.0, None)
    assert at(7.0, 6000) == (0.0, None)
    assert at(8.0, 7000) == (pytest.approx(1000 / 6), pytest.approx(18.0))  # type: ignore[comparison-overlap]
    assert at(9.0, 0) == (None, None)
    assert at(10.0, 100) == (100.0, 99.0)
    assert at(11.0, 10_000) == (5000.0, 0.0)


def test_the_pace_of_many_counts_takes_little_memory() -> None:
    pace = Pace(window=1.0)
    for count in range(10_000):
        pace.seen(count / 1000, count)
        pace.rate(count / 1000)
    assert pace.rate(9.999) == pytest.approx(1000, rel=0.01)
    assert len(pace._seen) < 20
