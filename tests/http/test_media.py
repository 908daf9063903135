"""Images and audio in the bodies of requests: as data, as URLs that the server fetches or refuses to."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import pytest

from infs.http import create_app
from infs.http.openai import media
from infs.types import AudioPart, ImagePart, TextPart
from tests.http.conftest import SETTINGS, running
from tests.http.fake_server import CHAT, FakeServer, until
from tests.http.test_disconnect import raw
from tests.http.test_parameters import chat, refused
from tests.store.servers import Server, serving
from tests.tiny.media import flac, mp3, png, wav

PLACE = "messages[0].content[1]"
TEXT = {"type": "text", "text": "What is it?"}


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def audio(data: bytes | str, format: str) -> dict[str, Any]:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    return {"type": "input_audio", "input_audio": {"data": text, "format": format}}


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ask(http: httpx.Client, *parts: dict[str, Any], **more: Any) -> httpx.Response:
    return chat(http, messages=[{"role": "user", "content": [TEXT, *parts]}], **more)


@contextmanager
def fetching(reach: Any) -> Iterator[tuple[FakeServer, httpx.Client]]:
    """A server that fetches media from there, and a client of it."""
    fake = FakeServer()
    settings = msgspec.structs.replace(SETTINGS, fetch_media=reach)
    with running(create_app(fake, settings)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield fake, client


@pytest.fixture
def files() -> Iterator[Server]:
    with serving() as server:
        yield server


# --- what is in the request


@pytest.mark.parametrize(
    ("url", "data"),
    [
        (data_url(png(1)), png(1)),
        (data_url(b"x", "application/octet-stream"), b"x"),
        ("DATA:image/png;charset=x;BASE64,eA==", b"x"),
        ("data:image/svg+xml,%3Csvg%20a=%22,%22/%3E", b'<svg a=","/>'),
        ("data:,x", b"x"),
    ],
    ids=range(5),
)
def test_images_as_data(http: httpx.Client, fake: FakeServer, url: str, data: bytes) -> None:
    assert ask(http, image(url, detail="auto")).status_code == 200
    assert fake.requests[-1].messages[0].content == [TextPart(text="What is it?"), ImagePart(data=data)]


@pytest.mark.parametrize(("data", "format"), [(wav(1), "wav"), (mp3(), "mp3"), (b"ID3xxx", "mp3"), (flac(1), "flac")])
def test_audio(http: httpx.Client, fake: FakeServer, data: bytes, format: str) -> None:
    assert ask(http, audio(data, format)).status_code == 200
    assert fake.requests[-1].messages[0].content[1] == AudioPart(data=data)


@pytest.mark.parametrize(
    ("part", "param", "said"),
    [
        (image("hello"), "image_url.url", "'hello' is no URL of an image: send a data URL"),
        (image(""), "image_url.url", "no URL of an image"),
        (image("ftp://example.org/a.png"), "image_url.url", "no URL of an image"),
        (image("file:///etc/passwd"), "image_url.url", "no URL of an image"),
        (image("data:image/png;base64"), "image_url.url", "no URL of an image"),
        (image("data:image/png;base64,"), "image_url.url", "The file is empty."),
        (image("data:image/png;base64,eA"), "image_url.url", "not valid base64: Incorrect padding"),
        (image("data:image/png;base64,e$=="), "image_url.url", "not valid base64"),
        (image("data:image/png;base64,é"), "image_url.url", "not valid base64"),
        (image("data:,x", detail="high"), "image_url.detail", "one level of detail"),
        ({"type": "image_url", "image_url": "data:,x"}, "image_url", ""),
        ({"type": "image_url", "image_url": {}}, "image_url.url", ""),
        ({"type": "image_url"}, "image_url", ""),
        (audio(wav(1), "ogg"), "input_audio.format", "ogg"),
        (audio(wav(1), "mp3"), "input_audio.format", "The data is no mp3 file."),
        (audio(b"hello", "wav"), "input_audio.format", "The data is no wav file."),
        (audio("", "wav"), "input_audio.data", "The file is empty."),
        (audio("not base64!", "wav"), "input_audio.data", "not valid base64"),
        (audio("é", "wav"), "input_audio.data", "not valid base64"),
        ({"type": "input_audio", "input_audio": {"data": "eA=="}}, "input_audio.format", ""),
        ({"type": "input_audio"}, "input_audio", ""),
        ({"type": "file", "file": {"file_data": "eA=="}}, "type", "send text, images or audio"),
    ],
    ids=range(22),
)
def test_what_is_no_medium(http: httpx.Client, fake: FakeServer, part: Any, param: str, said: str) -> None:
    refused(ask(http, part), f"{PLACE}.{param}", saying=said)
    assert not fake.requests


# --- what is elsewhere


@pytest.mark.parametrize("url", ["http://example.org/a.png", "HTTPS://example.org/a.png"])
def test_nothing_is_fetched_unless_it_is_configured(http: httpx.Client, fake: FakeServer, url: str) -> None:
    error = refused(ask(http, image(url)), f"{PLACE}.image_url.url", saying="does not fetch files")
    assert "server.fetch_media to public" in error["message"]
    assert not fake.requests


def test_images_are_fetched_from_anywhere(files: Server) -> None:
    one, two = files.add("/one.png", png(1), kind="image/png"), files.add("/two.png", png(2), kind="image/png")
    with fetching("anywhere") as (fake, http):
        assert ask(http, image(one), image(data_url(b"x")), image(two), image(one)).status_code == 200
        content = fake.requests[-1].messages[0].content
    assert content == [TextPart(text="What is it?"), *(ImagePart(data=data) for data in (png(1), b"x", png(2), png(1)))]
    assert len(files.requests) == 2


def test_files_that_cannot_be_fetched(files: Server) -> None:
    small, large = files.add("/a", b"a"), files.add("/b", b"b" * (SETTINGS.max_body + 1))
    files.add("/empty", b"")
    page = files.add("/page", b"<html>", kind="text/html")
    with fetching("anywhere") as (fake, http):
        for stream in (False, True):
            refused(
                ask(http, image(small), image(page), stream=stream), "messages[0].content[2].image_url.url", saying=page
            )
        refused(ask(http, image(f"{files.url}/none")), f"{PLACE}.image_url.url", saying="its server answered 404")
        refused(ask(http, image(f"{files.url}/empty")), f"{PLACE}.image_url.url", saying="The file is empty.")
        refused(ask(http, image(large)), f"{PLACE}.image_url.url", saying="(server.max_body)")
        assert not fake.requests


def test_public_does_not_reach_this_machine(files: Server) -> None:
    url = files.add("/a", b"a")
    with fetching("public") as (fake, http):
        refused(ask(http, image(url)), f"{PLACE}.image_url.url", saying="an address that is not public")
        assert not fake.requests
    assert not files.requests


def test_a_client_that_leaves_ends_the_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []

    async def fetch_all(*_: Any, **__: Any) -> dict[str, bytes]:
        states.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")
        return {}

    monkeypatch.setattr(media, "fetch_all", fetch_all)
    body = {"model": CHAT, "messages": [{"role": "user", "content": [image("http://127.0.0.1/a")]}]}
    with fetching("anywhere") as (fake, http):
        with raw(str(http.base_url), "/v1/chat/completions", body):
            until(lambda: states == ["begun"])
        until(lambda: states == ["begun", "ended"])
        assert not fake.requests
