"""A client for streams of both sides that costs little, since both share the cores with it.

What comes is kept as it is, with the moment it came; it is read when the measurement is over.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

from benchmarks.processes import HOST

PATIENCE = 300.0  # seconds for an answer, after which the run has failed
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Piece:
    """Text of choice number `index` that came at `time` (``time.perf_counter``)."""

    time: float
    index: int
    text: str


@dataclass
class Answer:
    """One streamed answer: the moment it was asked for, and its events."""

    sent: float = 0.0
    ended: float = 0.0
    events: list[tuple[float, bytes]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, count: int) -> None:
        """Until `count` events have come."""
        while len(self.events) < count:
            self.news.clear()
            await self.news.wait()

    @cached_property
    def chunks(self) -> list[tuple[float, dict[str, Any]]]:
        """The events, read. An error among them is raised."""
        read = [(moment, json.loads(data)) for moment, data in self.events if data != b"[DONE]"]
        for _, chunk in read:
            if "error" in chunk:
                raise RuntimeError(f"The stream ended with an error: {chunk['error']}")
        return read

    @cached_property
    def pieces(self) -> list[Piece]:
        """The text as it came. What brings none (a role, an end) is left out."""
        return [
            Piece(moment, choice["index"], text)
            for moment, chunk in self.chunks
            for choice in chunk["choices"]
            if (text := choice.get("text") or choice.get("delta", {}).get("content"))
        ]

    @property
    def first(self) -> float:
        """Seconds to the first text."""
        return self.pieces[0].time - self.sent

    @property
    def whole(self) -> float:
        """Seconds to the end."""
        return self.ended - self.sent

    @property
    def text(self) -> str:
        """The text of all choices, one after the other."""
        return "".join(piece.text for piece in sorted(self.pieces, key=lambda piece: piece.index))

    def longest_pause(self, since: float = 0.0) -> float:
        """Seconds of the longest pause between two pieces, of which the second came after `since`."""
        times = [piece.time for piece in self.pieces]
        return max((later - earlier for earlier, later in pairwise(times) if later > since), default=0.0)

    @property
    def usages(self) -> list[dict[str, Any]]:
        """What the server says of tokens: once, or once for each choice."""
        return [usage for _, chunk in self.chunks if (usage := chunk.get("usage"))]

    @property
    def generated(self) -> int:
        """Tokens of the answer, all choices together."""
        return sum(usage["completion_tokens"] for usage in self.usages)

    @property
    def computed(self) -> int:
        """Tokens of the prompt that no cache had."""
        return sum(u["prompt_tokens"] - u["prompt_tokens_details"]["cached_tokens"] for u in self.usages)


def run(work: Coroutine[Any, Any, Returned]) -> Returned:
    """What `work` returns, within the patience there is."""

    async def limited() -> Returned:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(limited())


async def ask(port: int, body: Mapping[str, Any], answer: Answer | None = None) -> Answer:
    """Stream the answer to `body`, a chat where it has messages, into `answer`.

    Raises:
        RuntimeError: when the server refuses it, with what it says, or when the stream breaks off.
    """
    answer = answer or Answer()
    path = CHAT if "messages" in body else COMPLETIONS
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    answer.sent = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        async for moment, event in _events(_chunks(reader)):
            answer.events.append((moment, event))
            answer.news.set()
    finally:
        answer.ended = time.perf_counter()
        writer.close()
    if not answer.events or answer.events[-1][1] != b"[DONE]":
        raise RuntimeError(f"The stream broke off after {len(answer.events)} events: {answer.events[-1:]}")
    return answer


async def ask_all(port: int, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The answers to `bodies`, sent at once."""
    return await asyncio.gather(*(ask(port, body) for body in bodies))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of an HTTP answer's body; one that failed is raised."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if head.split()[1] != b"200":
        said = (await reader.read()).decode(errors="replace")
        raise RuntimeError(f"The server refused the request, status {head.split()[1].decode()}: {said[:500]}")
    if b"transfer-encoding: chunked" not in head:
        raise RuntimeError("The answer does not come in chunks, so it is no stream.")
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[float, bytes]]:
    """The data of server-sent events, each with the moment when its end had come."""
    rest = b""
    async for chunk in chunks:
        moment = time.perf_counter()
        *whole, rest = (rest + chunk).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: "):
                yield moment, event.removeprefix(b"data: ")
