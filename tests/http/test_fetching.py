"""Files that requests name by URL: what is fetched, and above all what is not."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx
import pytest

from infs.http import fetching
from infs.http.fetching import MOST_FILES, MOST_REDIRECTS, NotFetched, fetch_all, is_public
from tests.store.servers import Answer, Server, serving

NAME = "files.example"
Reach = Literal["public", "anywhere"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the test's own server is counts as the public Internet; all else is what it is."""
    monkeypatch.setattr(fetching, "is_public", lambda address: str(address) == "127.0.0.1" or is_public(address))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, list[list[str]]], list[str]]:
    """The addresses of names: an answer for each time that they are asked for, the last one for ever. And who asked."""
    known: dict[str, list[list[str]]] = {}
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text not in known:
            return real(host, port, *rest, **more)
        asked.append(text)
        addresses = known[text].pop(0) if len(known[text]) > 1 else known[text][0]
        return [entry for address in addresses for entry in real(address, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known, asked


async def fetch(url: str, reach: Reach = "anywhere", limit: int = 1000) -> bytes:
    return (await fetch_all([url], reach, limit))[url]


async def reason(url: str, reach: Reach = "anywhere", limit: int = 1000) -> str:
    """Why it is not fetched."""
    with pytest.raises(NotFetched) as caught:
        await fetch(url, reach, limit)
    assert caught.value.url == url
    return caught.value.reason


async def test_files_are_fetched_once_each(server: Server) -> None:
    one, two = server.add("/one.png", b"one", kind="image/png"), server.add("/two", b"two")
    assert await fetch_all([one, two, one], "anywhere", 6) == {one: b"one", two: b"two"}
    (request,) = server.gets("/one.png")
    assert request.headers["host"] == server.url.removeprefix("http://")
    assert (request.headers["user-agent"], request.headers["accept-encoding"]) == ("infs", "identity")
    assert await fetch_all([], "anywhere", 1) == {}


@pytest.mark.parametrize("kind", ["image/jpeg", "Audio/WAV; x=y", "application/octet-stream", ""])
async def test_types_that_may_be_media(server: Server, kind: str) -> None:
    url = server.add("/a", b"a", kind=kind)
    assert await fetch(url) == b"a"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=404), "its server answered 404"),
        (Answer(status=304), "its server answered 304"),
        (Answer(status=302), "its server answered 302"),
        (Answer(headers={"Content-Type": "text/html"}), "of type 'text/html', which is neither image nor audio"),
        (Answer(headers={"Content-Encoding": "gzip"}), "sent it as 'gzip'"),
        (Answer(status=302, headers={"Location": "file:///etc/passwd"}), "which is no http or https URL"),
        (Answer(status=302, headers={"Location": "ftp://127.0.0.1/a"}), "no http or https URL"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:99999/"}), "no http or https URL"),
        (Answer(drop_after=2), "closed connection"),
    ],
    ids=range(9),
)
async def test_answers_that_are_no_file(server: Server, answer: Answer, said: str) -> None:
    url = server.add("/a", b"abcdef")
    server.answers["/a"] = [answer]
    assert said in await reason(url)
    assert await fetch(url) == b"abcdef"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/x", "connect"),
        ("http://127.0.0.1:0/x", "no http or https URL"),
        ("http://127.0.0.1:99999/x", "no http or https URL"),
        ("http:///x", "no http or https URL"),
        ("http://a\0b/x", "Invalid non-printable"),
        ("http://[::1/x", "Invalid"),
        (f"http://{'a' * 70}.invalid/x", "too long"),
    ],
    ids=range(7),
)
async def test_urls_that_lead_nowhere(url: str, said: str) -> None:
    assert said in await reason(url)


async def test_a_host_that_is_not_known(names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known, _ = names
    known[NAME] = [[]]
    assert await reason(f"http://{NAME}/x") == "its host has no address"

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "not known" in await reason(f"http://{NAME}/x")


async def test_redirects_are_followed_up_to_a_number(server: Server) -> None:
    for number in range(MOST_REDIRECTS + 1):
        server.add(f"/{number}", b"end")
        server.answers[f"/{number}"] = [Answer(status=302, headers={"Location": f"/{number + 1}"})] * 2
    server.add(f"/{MOST_REDIRECTS + 1}", b"end")
    assert await fetch(f"{server.url}/1") == b"end"
    assert await reason(f"{server.url}/0") == f"it redirects more than {MOST_REDIRECTS} times"


async def test_files_are_within_their_limit_together(server: Server) -> None:
    one, two = server.add("/one", b"x" * 600), server.add("/two", b"y" * 500)
    assert len(await fetch(one, limit=600)) == 600
    assert "room for 599 bytes" in await reason(one, limit=599)
    with pytest.raises(NotFetched, match="room for 1099 bytes"):
        await fetch_all([one, two], "anywhere", 1099)
    assert len(await fetch_all([one, two], "anywhere", 1100)) == 2


async def test_a_request_names_so_many_files(server: Server) -> None:
    urls = [server.add(f"/{number}", b"x") for number in range(MOST_FILES + 1)]
    assert len(await fetch_all(urls[1:], "anywhere", 100)) == MOST_FILES
    with pytest.raises(NotFetched, match=f"may name {MOST_FILES} files"):
        await fetch_all(urls, "anywhere", 100)
    assert not server.gets("/0")


async def test_one_that_fails_ends_the_others(server: Server) -> None:
    slow = server.add("/slow", b"abc")
    server.answers["/slow"] = [Answer(stop_after=1, gate=threading.Event())]
    with pytest.raises(NotFetched, match="answered 404"):
        await fetch_all([slow, f"{server.url}/none"], "anywhere", 100)


@pytest.mark.parametrize("sent", [0, 2])
async def test_a_file_that_does_not_come(server: Server, sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    url = server.add("/a", b"abc")
    server.answers["/a"] = [Answer(stop_after=sent, gate=threading.Event())]
    assert await reason(url) == "it did not come within 0.1 seconds"


async def test_user_and_password_of_a_url_are_used(server: Server) -> None:
    server.add("/a", b"abc")
    assert await fetch(server.url.replace("http://", "http://me:secret@") + "/a") == b"abc"
    assert server.gets("/a")[0].headers["authorization"] == "Basic bWU6c2VjcmV0"


# --- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_what_only_the_server_can_reach_is_not_public(server: Server, host: str) -> None:
    server.add("/a", b"abc")
    assert "not public" in await reason(f"http://{host}:{server.url.rpartition(':')[2]}/a", "public")
    assert not server.requests


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize(
    "place", ["http://10.0.0.1/", "http://169.254.169.254/latest", "//[fd00::1]/", "http://[::1]/x"]
)
async def test_redirects_to_private_addresses_are_refused(server: Server, place: str) -> None:
    url = server.add("/a", b"abc")
    assert await fetch(url, "public") == b"abc"
    server.answers["/a"] = [Answer(status=307, headers={"Location": place})]
    assert "not public" in await reason(url, "public")


@pytest.mark.usefixtures("near")
async def test_the_connection_goes_to_the_address_that_was_checked(server: Server, names: Any) -> None:
    """A name that means another address a moment later changes nothing."""
    known, asked = names
    server.add("/a", b"abc")
    known[NAME] = [["127.0.0.1"], ["10.0.0.1"]]
    url = f"http://{NAME}:{server.url.rpartition(':')[2]}/a"
    assert await fetch(url, "public") == b"abc"
    assert asked == [NAME]
    assert server.gets("/a")[0].headers["host"] == url.split("/")[2]
    assert "not public" in await reason(url, "public")


@pytest.mark.usefixtures("near")
async def test_all_addresses_of_a_name_must_be_public(server: Server, names: Any) -> None:
    known, _ = names
    known[NAME] = [["127.0.0.1", "192.168.0.1"]]
    server.add("/a", b"abc")
    assert "not public" in await reason(f"http://{NAME}:{server.url.rpartition(':')[2]}/a", "public")
    assert not server.requests


async def test_the_next_address_is_tried_where_one_cannot_be_reached(server: Server, names: Any) -> None:
    known, _ = names
    known[NAME] = [["::1", "127.0.0.1"]]
    server.add("/a", b"abc")
    assert await fetch(f"http://{NAME}:{server.url.rpartition(':')[2]}/a") == b"abc"


async def test_a_certificate_is_that_of_the_name(names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to an address, so it has to be told for whom."""
    known, _ = names
    known[NAME] = [["2001:4860:4860::8888"]]
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=parts())

    async def parts() -> AsyncIterator[bytes]:
        yield b"abc"

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(fetching, "_make_client", lambda: client)
    assert await fetch(f"https://{NAME}/a?b=c", "public") == b"abc"
    assert str(seen[0].url) == "https://[2001:4860:4860::8888]/a?b=c"
    assert (seen[0].headers["host"], seen[0].extensions["sni_hostname"]) == (NAME, NAME)


async def test_no_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetch(server.add("/a", b"abc")) == b"abc"


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    re.findall(
        r"\S+",
        """
        0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 192.0.0.8 192.168.1.1 198.18.0.1
        192.88.99.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
        64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001:0:808:808::1 2001:db8::1 2002:7f00:1:: 2002:a00:1:: 3fff::1
        fc00::1 fd12::1 fe80::1 fec0::1 ff02::1
        """,
    ),
)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
