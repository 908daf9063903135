"""Files from any web server, with all that can go wrong on the way."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from msgspec.structs import replace
from platformdirs import user_cache_path

from infs.config import ModelConfig
from infs.errors import (
    ChecksumMismatch,
    ConfigError,
    DownloadFailed,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    StorageFull,
)
from infs.store import RetryPolicy, Store
from infs.store.progress import Meter
from infs.store.web import network_errors
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import Answer, Server, below, overwrite

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


def config(url: str, **more: Any) -> ModelConfig:
    return ModelConfig(url=url, **more)


def ranges(web: Server, path: str = "/m.gguf") -> list[str | None]:
    return [request.headers.get("range") for request in web.gets(path)]


def leftovers(cache: Path) -> list[str]:
    """What lies beside the downloads and is none that is finished."""
    return [path.name for path in below(cache / "downloads") if path.suffix in (".part", ".json", ".new")]


async def test_a_file_is_downloaded_and_then_used(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    url = web.add("/m.gguf", CONTENT)
    store = make_store()
    assert store.find(config(url)) is None
    path = await store.fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache / "downloads")
    assert path.name == "m.gguf"
    assert leftovers(cache) == []
    last = replace(events[-1], rate=None, remaining=None)
    assert last == Progress(stage="download", done=len(CONTENT), total=len(CONTENT), detail="m.gguf")
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert store.find(config(url)) == path
    assert await make_store().fetch("m", config(url), events.append) == path
    assert len(web.requests) == 1


async def test_a_model_without_files(make_store: MakeStore, events: list[Progress]) -> None:
    assert await make_store().fetch("m", ModelConfig(), events.append) is None
    assert make_store().find(ModelConfig()) is None


async def test_progress_comes_at_most_ten_times_a_second() -> None:
    events: list[Progress] = []
    now = iter([0.0, 0.05, 0.0999, 0.1, 0.15, 0.15])
    meter = Meter(events.append, "m", lambda: next(now))
    for done in range(5):
        meter.show(done, 9)
    meter.show(9, 9, always=True)
    assert [event.done for event in events] == [0, 3, 9]


async def test_a_dropped_connection_is_resumed(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000), Answer(drop_after=500_000)]
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=1000000-", "bytes=1500000-"]
    assert web.gets("/m.gguf")[1].headers["if-range"] == '"one"'
    assert web.sent["/m.gguf"] == len(CONTENT)


async def leave_part(web: Server, make_store: MakeStore) -> None:
    """What a process leaves that got the first million bytes of /m.gguf and no more."""
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000)]
    with pytest.raises(DownloadFailed, match="goes on from what came so far"):
        await make_store(attempts=1).fetch("m", config(f"{web.url}/m.gguf"), lambda event: None)


async def test_a_download_goes_on_in_another_process(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    url = web.add("/m.gguf", CONTENT)
    await leave_part(web, make_store)
    assert leftovers(cache) == ["m.gguf.part", "m.gguf.part.json"]
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=1000000-"]
    assert web.sent["/m.gguf"] == len(CONTENT)
    assert leftovers(cache) == []


async def test_the_time_of_change_does_where_there_is_no_etag(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    changed = "Wed, 21 Oct 2015 07:28:00 GMT"
    url = web.add("/m.gguf", CONTENT, etag='W/"weak"', modified=changed)
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000)]
    await make_store().fetch("m", config(url, md5=MD5), events.append)
    assert web.gets("/m.gguf")[1].headers["if-range"] == changed
    assert web.sent["/m.gguf"] == len(CONTENT)


async def test_without_either_a_download_starts_anew(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    url = web.add("/m.gguf", CONTENT, etag="")
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000)]
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, None]


async def test_a_file_that_changed_in_between_starts_anew(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    url = web.add("/m.gguf", b"old" * 500_000)
    await leave_part(web, make_store)
    web.add("/m.gguf", CONTENT, etag='"two"')
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=1000000-"]


async def test_a_part_of_another_file_is_not_appended(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    """A server that sends ranges without looking at If-Range."""
    url = web.add("/m.gguf", b"old" * 500_000)
    await leave_part(web, make_store)
    web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(headers={"ETag": '"two"'})]
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=1000000-", None]


async def test_a_server_that_knows_no_ranges(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000, whole=True), Answer(whole=True)]
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=1000000-"]


async def test_a_server_that_always_cuts_is_given_up(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000, whole=True)] * 50
    with pytest.raises(DownloadFailed, match=r"failed after 3 tries") as caught:
        await make_store().fetch("m", config(url), events.append)
    assert caught.value.retryable
    # Only the first of them brought something new: what came later was no more than what had been there.
    assert len(web.requests) == 3
    assert below(cache, "*.gguf") == []


async def test_a_length_that_is_too_long(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    url = web.add("/m.gguf", CONTENT, etag="")
    lie = {"Content-Length": str(len(CONTENT) + 5), "Connection": "close"}
    web.answers["/m.gguf"] = [Answer(headers=lie)] * 9
    with pytest.raises(DownloadFailed):
        await make_store(attempts=2).fetch("m", config(url), events.append)
    assert below(cache, "*.gguf") == []


async def test_a_length_that_is_too_short(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    """The size of the whole file is known from the range, and counts."""
    url = web.add("/m.gguf", CONTENT)
    lie = {"Content-Length": "1000", "Connection": "close"}
    web.answers["/m.gguf"] = [Answer(drop_after=500_000), Answer(headers=lie, drop_after=1000)]
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=500000-", "bytes=501000-"]


async def test_a_complete_partial_file_is_published(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    """The process died between the last byte and the new name."""
    url = web.add("/m.gguf", CONTENT)
    await leave_part(web, make_store)
    overwrite(below(cache, "*.part")[0], CONTENT)
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert ranges(web) == [None, "bytes=3000000-"]


async def test_a_damaged_partial_file_is_noticed(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    url = web.add("/m.gguf", CONTENT)
    await leave_part(web, make_store)
    overwrite(below(cache, "*.part")[0], bytes(1_000_000))
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("longer", [3_000_001, 9_000_000])
async def test_a_partial_file_longer_than_the_file(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path, longer: int
) -> None:
    url = web.add("/m.gguf", CONTENT)
    await leave_part(web, make_store)
    overwrite(below(cache, "*.part")[0], bytes(longer))
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("digests", [{"sha256": "0" * 64}, {"md5": "0" * 32}, {"sha256": SHA256, "md5": "0" * 32}])
async def test_a_wrong_checksum(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path, digests: dict[str, str]
) -> None:
    url = web.add("/m.gguf", CONTENT)
    with pytest.raises(ChecksumMismatch) as caught:
        await make_store().fetch("m", config(url, **digests), events.append)
    assert (MD5 if "md5" in digests else SHA256) in caught.value.message
    assert "000000" in caught.value.message
    assert [path.name for path in below(cache) if path.suffix != ".lock"] == []
    assert len(web.requests) == 1


async def test_both_checksums_in_capitals(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT)
    checked = config(url, sha256=SHA256.upper(), md5=MD5.upper())
    assert await make_store().fetch("m", checked, events.append) is not None


class Refusal(NamedTuple):
    status: int
    kind: type[SourceError]
    requests: int


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(401, SourceForbidden, 1),
        Refusal(403, SourceForbidden, 1),
        Refusal(404, SourceNotFound, 1),
        Refusal(410, SourceNotFound, 1),
        Refusal(418, DownloadFailed, 1),
        Refusal(500, DownloadFailed, 3),
        Refusal(503, DownloadFailed, 3),
        Refusal(429, DownloadFailed, 3),
    ],
)
async def test_answers_that_are_no_file(
    web: Server, make_store: MakeStore, events: list[Progress], refusal: Refusal
) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(status=refusal.status)] * 9
    with pytest.raises(refusal.kind, match=f"answered {refusal.status}") as caught:
        await make_store().fetch("m", config(f"{url}?token=secret"), events.append)
    assert type(caught.value) is refusal.kind
    assert "secret" not in caught.value.message
    assert len(web.requests) == refusal.requests


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=500),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Answer(status=503, headers={"Retry-After": "soon"}),
    ],
)
async def test_a_server_that_recovers(
    web: Server, make_store: MakeStore, events: list[Progress], answer: Answer
) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [answer]
    assert await make_store().fetch("m", config(url), events.append) is not None
    assert len(web.requests) == 2


async def test_a_server_that_wants_a_long_wait(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(DownloadFailed) as caught:
        await make_store().fetch("m", config(url), events.append)
    assert caught.value.retry_after == 3600.0
    assert len(web.requests) == 1


async def test_nobody_listens(make_store: MakeStore, events: list[Progress]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/m.gguf"
        with pytest.raises(DownloadFailed, match="connection"):
            await make_store().fetch("m", config(url), events.append)


async def test_a_server_that_says_nothing(web: Server, cache: Path, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT)
    web.answers["/m.gguf"] = [Answer(stop_after=0, gate=threading.Event()), Answer()]
    store = Store(cache, environ={}, retry=RetryPolicy(attempts=2, first=0.01, timeout=0.3))
    fetched = await store.fetch("m", config(url), events.append)
    await store.close()
    assert fetched is not None
    assert fetched.path.read_bytes() == CONTENT
    assert len(web.requests) == 2


async def test_a_proxy_that_is_none(
    web: Server, make_store: MakeStore, events: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(SourceError, match="proxy"):
        await make_store().fetch("m", config(web.add("/m.gguf", CONTENT)), events.append)


async def test_a_compressed_answer(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    """Nobody asked for it; it is unpacked, and not gone on with."""
    url = web.add("/m.gguf", gzip.compress(CONTENT))
    packed = {"Content-Encoding": "gzip"}
    web.answers["/m.gguf"] = [Answer(drop_after=1_000_000, headers=packed), Answer(headers=packed)]
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert ranges(web) == [None, None]


def test_a_certificate_that_is_not_trusted() -> None:
    error = httpx.ConnectError("refused")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    with pytest.raises(DownloadFailed, match="not trusted"), network_errors("https://example.org/m.gguf"):
        raise error


async def test_a_server_without_a_certificate(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT).replace("http:", "https:")
    with pytest.raises(DownloadFailed, match="connection"):
        await make_store(attempts=1).fetch("m", config(url), events.append)


async def test_redirects_are_followed_and_named_by_the_first_url(
    web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    web.add("/real", CONTENT)
    url = web.add("/m.gguf", b"")
    web.answers["/m.gguf"] = [Answer(status=302, headers={"Location": "/real"})]
    path = await make_store().fetch("m", config(url), events.append)
    assert path is not None
    assert path.name == "m.gguf"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["/m.gguf", "ftp://127.0.0.1/x", "http://[/x"])
async def test_redirects_to_nowhere(web: Server, make_store: MakeStore, events: list[Progress], target: str) -> None:
    url = web.add("/m.gguf", b"")
    web.answers["/m.gguf"] = [Answer(status=302, headers={"Location": target})] * 99
    with pytest.raises((DownloadFailed, ConfigError)):
        await make_store().fetch("m", config(url), events.append)


async def test_a_web_page_is_no_model(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", b"<html>", kind="text/html; charset=utf-8")
    with pytest.raises(SourceNotFound, match="web page"):
        await make_store().fetch("m", config(url), events.append)


async def test_an_empty_file_is_no_model(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    with pytest.raises(DownloadFailed, match="sent 0 bytes"):
        await make_store().fetch("m", config(web.add("/m.gguf", b"")), events.append)


@pytest.mark.parametrize("name", ["mödel ✓.gguf", "my model.gguf", "a+b&c;d.gguf", "100%.gguf"])
async def test_unusual_names(web: Server, make_store: MakeStore, events: list[Progress], name: str) -> None:
    web.add(f"/{name}", CONTENT)
    path = await make_store().fetch("m", config(f"{web.url}/{quote(name)}"), events.append)
    assert path is not None
    assert path.name == name
    assert path.read_bytes() == CONTENT


async def test_a_name_as_people_paste_it(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    web.add("/my mödel.gguf", CONTENT)
    path = await make_store().fetch("m", config(f"{web.url}/my mödel.gguf"), events.append)
    assert path is not None
    assert path.name == "my mödel.gguf"


async def test_a_user_and_a_password(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    url = web.add("/m.gguf", CONTENT).replace("://", "://user:pa55@")
    path = await make_store().fetch("m", config(url), events.append)
    assert web.requests[0].headers["authorization"] == "Basic dXNlcjpwYTU1"
    assert "pa55" not in str(path)
    assert "pa55" not in events[-1].detail


async def test_all_parts_of_a_split_model(web: Server, make_store: MakeStore, events: list[Progress]) -> None:
    for number in (1, 2, 3):
        web.add(f"/m-0000{number}-of-00003.gguf", bytes([number]) * 1000)
    url = f"{web.url}/m-00002-of-00003.gguf"
    digest = hashlib.sha256(bytes([1]) * 1000).hexdigest()
    store = make_store()
    path = await store.fetch("m", config(url, sha256=digest), events.append)
    assert path is not None
    assert path.name == "m-00001-of-00003.gguf"
    assert [part.read_bytes()[0] for part in sorted(path.parent.glob("*.gguf"))] == [1, 2, 3]
    assert store.find(config(url)) == path
    path.with_name("m-00003-of-00003.gguf").unlink()
    assert store.find(config(url)) is None


# --- the disk ---


async def test_too_little_space_is_seen_before_the_download(
    web: Server, make_store: MakeStore, events: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.add("/m.gguf", CONTENT)
    monkeypatch.setattr("infs.store.disk.shutil.disk_usage", lambda path: _Usage(free=2_000_000))
    with pytest.raises(StorageFull, match=r"2\.0 MB free, and 3\.0 MB are needed"):
        await make_store().fetch("m", config(url), events.append)
    assert events == []


class _Usage(NamedTuple):
    free: int


async def test_a_disk_that_fills_up(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.add("/m.gguf", CONTENT)
    monkeypatch.setattr("infs.store.sink.os.fsync", _full)
    with pytest.raises(StorageFull, match="set cache_path") as caught:
        await make_store().fetch("m", config(url), events.append)
    assert caught.value.status == 507
    monkeypatch.undo()
    assert below(cache, "m.gguf") == []
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert web.sent["/m.gguf"] == len(CONTENT)


def _full(number: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_file_larger_than_files_may_be(
    web: Server, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    resource = pytest.importorskip("resource", reason="limits of this kind are Unix's")
    url = web.add("/m.gguf", CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        with pytest.raises(StorageFull):
            await make_store().fetch("m", config(url), events.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(web.requests) == 1
    path = await make_store().fetch("m", config(url, sha256=SHA256), events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT


async def test_a_file_system_without_locks(
    web: Server, make_store: MakeStore, events: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, blocking: bool) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(SourceError, match="no locks"):
        await make_store().fetch("m", config(web.add("/m.gguf", CONTENT)), events.append)


def test_the_cache_is_the_users_unless_it_is_given() -> None:
    assert Store(environ={}).cache == user_cache_path("infs", appauthor=False)


async def test_a_cache_that_is_a_file(web: Server, make_store: MakeStore, events: list[Progress], cache: Path) -> None:
    overwrite(cache, b"not a folder")
    with pytest.raises(SourceError, match="Set cache_path"):
        await make_store().fetch("m", config(web.add("/m.gguf", CONTENT)), events.append)
