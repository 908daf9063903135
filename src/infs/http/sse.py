"""Server-sent events: an answer that ends its work when the client leaves, stalls, or the server drains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from infs.http.errors import as_infs_error, details, error_body, error_response
from infs.http.service import ClientGone, Service

log = logging.getLogger("infs.http")

# Optional: the host of the application offers a function that drops the connection, whatever is left to send.
ABORT = "infs.abort"

DONE = b"data: [DONE]\n\n"

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: object) -> bytes:
    """One event, its `data` as JSON."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


class EventStream(Response):
    """Sends `events`, encoded ones, as they come.

    The status line waits for the first event, so that whatever fails before it is an answer of its own status. A
    later failure is an ``error`` object as the last event. `events` is closed whenever the answer ends.
    """

    def __init__(self, service: Service, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._service = service
        self._events = events
        self._open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await self._answer(scope, receive, send)
        except ClientGone as gone:
            details(scope)["ended"] = gone.message
            if abort := scope.get("extensions", {}).get(ABORT):
                abort()
                await asyncio.sleep(0)  # the host hears of it in the next step of the loop

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._service.run(receive, lambda: self._send_all(send))
        except ClientGone:
            raise
        except Exception as error:
            await self._fail(error, scope, receive, send)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for data in events:
                await self._write(send, data)
        await self._write(send, b"", more=False)

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._open:
            self._open = True
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send(send, {"type": "http.response.body", "body": data, "more_body": more})

    async def _send(self, send: Send, message: Message) -> None:
        limit = self._service.settings.stall_timeout
        try:
            async with asyncio.timeout(limit):
                await send(message)
        except TimeoutError:
            raise ClientGone(f"The client has not read its stream for {limit:g} seconds.") from None
        except OSError as error:
            raise ClientGone("The client closed the connection.") from error

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        failure = as_infs_error(error)
        details(scope)["error"] = failure.code
        if not self._open:
            await error_response(failure)(scope, receive, send)
            return
        await self._write(send, event(error_body(failure)))
        await self._write(send, b"", more=False)
