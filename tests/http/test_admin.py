"""What the owner of a running server may tell it, and that no web page may."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from infs.config import ServerConfig
from infs.errors import ConfigError
from infs.http import create_app
from infs.http.hangups import Hangups, has_terminal
from infs.http.service import Service
from infs.http.serving import serve
from tests.http.conftest import SETTINGS
from tests.http.fake_server import CHAT, FakeServer, Hold

ORIGIN = "https://mine.example"


def calling(fake: FakeServer, settings: ServerConfig = SETTINGS) -> httpx.AsyncClient:
    """A client of `fake`, in this process."""
    transport = httpx.ASGITransport(create_app(fake, settings))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def happened(what: Callable[[], bool]) -> None:
    """Wait for it; fail when it does not come."""
    for _ in range(4000):
        if what():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("what was waited for did not happen")


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an answer that is an error."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_unload_says_how_many_instances_ended() -> None:
    fake = FakeServer()
    async with calling(fake) as client:
        answer = await client.post("/admin/unload", json={"model": CHAT, "now": True})
    assert (answer.status_code, answer.json()) == (200, {"model": CHAT, "instances": 2})
    assert fake.unloads == [(CHAT, True)]


async def test_reload_says_what_changed() -> None:
    fake = FakeServer()
    async with calling(fake) as client:
        bodies: tuple[Any, ...] = (None, {})
        for body in bodies:
            answer = await client.post("/admin/reload", json=body)
            assert answer.json()["added"] == ["new"]
            assert answer.json()["restart"] == ["server.port"]
    assert fake.reloads == 2


async def test_wrong_configuration_is_refused_with_the_reason() -> None:
    fake = FakeServer()
    fake.reload_error = ConfigError("unknown key 'server.prot'", param="server.prot")
    async with calling(fake) as client:
        answer = await client.post("/admin/reload")
    assert refusal(answer) == (400, "reload_refused", "server.prot")
    assert answer.json()["error"]["message"] == "Nothing has changed: unknown key 'server.prot'"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": "nobody"}, (404, "model_not_found", "model")),
        ({}, (400, "invalid_value", "model")),
        ({"model": 1}, (400, "invalid_value", "model")),
        ({"model": CHAT, "now": "yes"}, (400, "invalid_value", "now")),
        ({"model": CHAT, "nwo": True}, (400, "invalid_value", "nwo")),
        ([], (400, "invalid_value", None)),
    ],
)
async def test_wrong_bodies(body: Any, expected: tuple[int, str, str | None]) -> None:
    fake = FakeServer()
    async with calling(fake) as client:
        assert refusal(await client.post("/admin/unload", json=body)) == expected
    assert fake.unloads == []


# --- who may ask ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/admin/unload", "/admin/reload"])
@pytest.mark.parametrize(
    ("headers", "listed", "status"),
    [
        ({"origin": ORIGIN}, ["*"], 403),
        ({"origin": "null"}, ["*"], 403),
        ({"origin": "*"}, ["*"], 403),
        ({"origin": ORIGIN}, ["https://other.example"], 403),
        ({"origin": ORIGIN}, [ORIGIN], 200),
        ({"origin": ORIGIN}, ["*", ORIGIN], 200),
        ({}, ["*"], 200),
        # What a page can send anywhere without asking first.
        ({"content-type": "text/plain"}, ["*"], 415),
        ({"content-type": "application/x-www-form-urlencoded"}, ["*"], 415),
        ({"content-type": ""}, ["*"], 415),
        ({"content-type": "Application/JSON; charset=utf-8"}, ["*"], 200),
    ],
)
async def test_pages_may_not(path: str, headers: dict[str, str], listed: list[str], status: int) -> None:
    fake = FakeServer()
    content = b'{"model": "%s"}' % CHAT.encode() if path.endswith("unload") else b"{}"
    async with calling(fake, ServerConfig(cors_origins=listed)) as client:
        answer = await client.post(path, content=content, headers={"content-type": "application/json"} | headers)
    assert answer.status_code == status
    assert (fake.reloads + len(fake.unloads)) == (status == 200)


async def test_keys_guard_these_routes_too() -> None:
    fake = FakeServer()
    async with calling(fake, ServerConfig(api_keys=["k"])) as client:
        assert (await client.post("/admin/reload")).status_code == 401
        assert (await client.post("/admin/reload", headers={"authorization": "Bearer k"})).status_code == 200
    assert fake.reloads == 1


# --- one after the other --------------------------------------------------------------------------------------


async def test_a_reload_comes_to_its_end_without_its_asker_and_another_one_waits_for_it() -> None:
    fake = FakeServer()
    fake.reload_hold = Hold()
    service = Service(fake, SETTINGS)
    first, second = (asyncio.create_task(service.reload()) for _ in range(2))
    await happened(lambda: fake.reloads == 1)
    first.cancel()
    await asyncio.sleep(0)
    assert fake.reloads == 1, "the second one waits"
    fake.reload_hold.release()
    assert (await second)["added"] == ["new"]
    assert fake.reloads == 2
    assert first.cancelled()


async def test_no_reload_once_the_server_is_closing() -> None:
    fake = FakeServer()
    await fake.close()
    async with calling(fake) as client:
        assert (await client.post("/admin/reload")).status_code == 503
    assert fake.reloads == 0


# --- SIGHUP ---------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP; POST /admin/reload does the same")


@posix
async def test_hang_up_reads_the_configuration_again(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeServer()
    ready = asyncio.Event()
    with caplog.at_level("ERROR", "infs.http"):
        serving = asyncio.create_task(serve(create_app(fake, SETTINGS), SETTINGS, on_ready=lambda url: ready.set()))
        await ready.wait()
        os.kill(os.getpid(), signal.SIGHUP)
        await happened(lambda: fake.reloads == 1)
        fake.reload_error = ConfigError("it is wrong")
        os.kill(os.getpid(), signal.SIGHUP)
        await happened(lambda: "nothing has changed: it is wrong" in caplog.text)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert fake.reloads == 2
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@posix
@pytest.mark.parametrize(("ignored", "stops"), [(False, True), (True, False)])
async def test_the_end_of_its_terminal_ends_the_server_unless_that_was_to_be_ignored(
    monkeypatch: pytest.MonkeyPatch, ignored: bool, stops: bool
) -> None:
    fake, stop, there = FakeServer(), asyncio.Event(), [True]
    monkeypatch.setattr("infs.http.hangups.has_terminal", lambda: there[0])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with Hangups([Service(fake, SETTINGS)], stop):
            there[0] = False
            os.kill(os.getpid(), signal.SIGHUP)
            await happened(lambda: stop.is_set() or fake.reloads == 1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (stop.is_set(), fake.reloads) == (stops, 0 if stops else 1)


@posix
def test_a_process_knows_whether_it_has_a_terminal(tmp_path: Path) -> None:
    code = "from infs.http.hangups import has_terminal; print(has_terminal())"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, start_new_session=True)
    assert alone.stdout.strip() == b"False"
    assert isinstance(has_terminal(), bool)
