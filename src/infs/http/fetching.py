"""Files that requests name by URL: fetched for clients, within limits, and not from where only the server can reach.

A client that can make the server open any URL reaches what the server reaches: its own machine, the network around it,
the services that a cloud offers its machines. So names are resolved here, every address is checked, and the connection
goes to the address that was checked, not to what the name means a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

TIMEOUT = 20.0  # seconds for a file, redirects included
MOST_REDIRECTS = 3
MOST_FILES = 32  # of a request
HEADERS = {"User-Agent": "infs", "Accept-Encoding": "identity"}  # what is compressed has no size that is known
KINDS = ("image/", "audio/", "application/octet-stream")
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # addresses of IPv4, reached through a gateway
SPECIAL = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20")]
"""What `ipaddress` takes for public in some versions of Python."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotFetched(Exception):
    """A file that could not be had, or may not; `reason` is the rest of a sentence that begins with the URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason


class Room:
    """Bytes that the files of one request may have, all of them together."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def take(self, count: int, url: str) -> None:
        """Use `count` of them for the file at `url`."""
        self.left -= count
        if self.left < 0:
            raise NotFetched(url, f"there is room for {self.limit} bytes of files in a request (server.max_body)")


async def fetch_all(urls: Iterable[str], reach: Literal["public", "anywhere"], limit: int) -> dict[str, bytes]:
    """The bytes of the files at `urls`, each fetched once, side by side.

    Args:
        reach: only addresses of the public Internet, or any.
        limit: bytes that the files may have, all of them together.

    Raises:
        NotFetched: for the first that cannot be had, or is neither image nor audio.
    """
    wanted = list(dict.fromkeys(urls))
    if len(wanted) > MOST_FILES:
        raise NotFetched(wanted[MOST_FILES], f"a request may name {MOST_FILES} files by URL")
    room = Room(limit)
    async with _client() as client:
        tasks = [asyncio.ensure_future(_fetch(client, url, reach, room)) for url in wanted]
        try:
            return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    client = await asyncio.to_thread(_make_client)
    try:
        yield client
    finally:
        await client.aclose()


def _make_client() -> httpx.AsyncClient:
    """A client that uses no proxy, which would resolve names itself. (Importing it takes a while.)

    A connection belongs to one request: kept ones are known by their addresses, and names may share an address.
    """
    import httpx

    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False, trust_env=False, headers=HEADERS, limits=limits)


async def _fetch(client: httpx.AsyncClient, url: str, reach: str, room: Room) -> bytes:
    import httpx

    try:
        async with asyncio.timeout(TIMEOUT):
            return await _follow(client, url, reach, room)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise NotFetched(url, f"it did not come within {TIMEOUT:g} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise NotFetched(url, str(error) or type(error).__name__) from error


async def _follow(client: httpx.AsyncClient, url: str, reach: str, room: Room) -> bytes:
    import httpx

    target = httpx.URL(url)
    for _ in range(MOST_REDIRECTS + 1):
        async with _open(client, target, url, reach) as response:
            if not response.has_redirect_location:
                return await _read(response, url, room)
            target = target.join(response.headers["location"])
    raise NotFetched(url, f"it redirects more than {MOST_REDIRECTS} times")


@asynccontextmanager
async def _open(client: httpx.AsyncClient, target: httpx.URL, url: str, reach: str) -> AsyncIterator[httpx.Response]:
    """The answer of `target`, asked of an address of its host that has been checked."""
    if target.scheme not in ("http", "https") or not target.host or not 0 < _port(target) < 65536:
        raise NotFetched(url, f"it leads to {str(target)[:100]!r}, which is no http or https URL")
    response = await _connect(client, target, await _addresses(target, url, reach))
    try:
        yield response
    finally:
        await response.aclose()


def _port(target: httpx.URL) -> int:
    return target.port if target.port is not None else 443 if target.scheme == "https" else 80


async def _connect(client: httpx.AsyncClient, target: httpx.URL, addresses: list[Address]) -> httpx.Response:
    """The answer of the first of `addresses` that can be reached."""
    import httpx

    for index, address in enumerate(addresses):
        request = client.build_request(
            "GET",
            target.copy_with(host=str(address), userinfo=b""),
            headers={"Host": target.netloc.decode("ascii")},
            extensions={"sni_hostname": target.raw_host.decode("ascii")},
        )
        login = (target.username, target.password) if target.userinfo else None
        try:
            return await client.send(request, stream=True, auth=login)
        except httpx.ConnectError:
            if index == len(addresses) - 1:
                raise
    raise OSError("its host has no address")


async def _addresses(target: httpx.URL, url: str, reach: str) -> list[Address]:
    host = target.raw_host.decode("ascii")
    found = await asyncio.get_running_loop().getaddrinfo(host, _port(target), type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    addresses = [ipaddress.ip_address(text) for text in texts]
    if reach != "anywhere" and not all(is_public(address) for address in addresses):
        raise NotFetched(url, "it leads to an address that is not public, which server.fetch_media does not allow")
    return addresses


def is_public(address: Address) -> bool:
    """Whether `address` is one of the public Internet, also where it stands for one of another kind."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    special = any(address in network for network in SPECIAL)
    return address.is_global and not (address.is_multicast or address.is_reserved or special)


async def _read(response: httpx.Response, url: str, room: Room) -> bytes:
    if response.status_code != 200:
        raise NotFetched(url, f"its server answered {response.status_code}")
    if (packed := response.headers.get("content-encoding", "identity").lower()) != "identity":
        raise NotFetched(url, f"its server sent it as {packed[:100]!r}, though it was not asked to")
    kind = response.headers.get("content-type", "application/octet-stream").lower()
    if not kind.startswith(KINDS):
        raise NotFetched(url, f"its content is of type {kind[:100]!r}, which is neither image nor audio")
    data = bytearray()
    async for chunk in response.aiter_raw():
        room.take(len(chunk), url)
        data += chunk
    return bytes(data)
