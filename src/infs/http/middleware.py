"""What happens to every request, whatever its route: an id, a line in the log, the check of its API key."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infs.errors import Unauthorized
from infs.http.errors import details, error_response
from infs.trace_context import TRACE_HEADERS, trace_context

log = logging.getLogger("infs.http")

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class RequestLog:
    """Gives each request its ``x-request-id`` (the client's own, if it sent a sensible one) and a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then log it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = sent if _GOOD_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
        status = 499  # unless an answer starts, the client went away

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        begin = time.perf_counter()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._log(scope, status, time.perf_counter() - begin, request_id)

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        level = logging.DEBUG if scope["path"].endswith(("/health", "/metrics")) else logging.INFO
        if log.isEnabledFor(level):
            said = " ".join(f"{name}={_printable(value)}" for name, value in details(scope).items())
            path = _printable(scope["path"])
            log.log(level, "%s %s %d %.0f ms %s %s", scope["method"], path, status, seconds * 1000, request_id, said)


def _printable(text: str) -> str:
    """`text` on one line, of bounded length: it is the client's, and the log's lines are ours."""
    return text[:200].encode("unicode_escape").decode("ascii")


class TraceContext:
    """Hands down the trace that a client's headers say its request is a part of."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on within that trace."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        before = trace_context.set({name: headers[name] for name in TRACE_HEADERS if name in headers})
        try:
            await self.app(scope, receive, send)
        finally:
            trace_context.reset(before)


class ApiKeys:
    """Lets requests pass that carry one of `keys` as a bearer token; without keys, all.

    Every route is guarded but those in `open_paths`, so that a new one is guarded by default.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Sequence[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if not self._keys or scope["type"] != "http" or self._allows(scope):
            await self.app(scope, receive, send)
            return
        details(scope)["error"] = Unauthorized.code
        error = Unauthorized("A valid API key is needed: send it as 'Authorization: Bearer KEY'.")
        await error_response(error)(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in self._open:
            return True
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1")
        # All keys are compared, so that the time does not tell which one was nearly right.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)
