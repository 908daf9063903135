"""Web servers on this machine that misbehave on demand, and one that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from msgspec import Struct

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Answer(Struct, frozen=True, kw_only=True):
    """What the next request for a path gets, and how it is different from a good answer.

    Attributes:
        status: instead of the content.
        headers: added, or put in the place of others; an empty text leaves one out.
        drop_after: bytes of the body after which the connection is cut.
        whole: ranges are ignored.
        stop_after: bytes of the body after which the server waits until `gate` is set.
        trickle: bytes that are sent at a time, with a hundredth of a second in between.
    """

    status: int | None = None
    headers: dict[str, str] = {}
    drop_after: int | None = None
    whole: bool = False
    stop_after: int | None = None
    gate: threading.Event | None = None
    trickle: int | None = None


class Request(NamedTuple):
    """What a server saw."""

    method: str
    path: str
    headers: dict[str, str]


class File(Struct, kw_only=True):
    """Something that is served; `etag` is sent as it is, an empty one not at all."""

    content: bytes
    etag: str = '"one"'
    modified: str = ""
    kind: str = "application/octet-stream"


class Server:
    """Serves `files` by path, with ranges.

    Attributes:
        answers: how the next requests of a path go wrong, in their order.
        rules: for paths that several connections ask for at once: how the request goes that begins at a byte.
    """

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.rules: dict[str, Callable[[int], Answer]] = {}
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}
        self.gates: list[threading.Event] = []
        self.connections: set[socket.socket] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = False
        self._http.block_on_close = True
        self._http.handle_error = _quiet  # type: ignore[assignment, method-assign]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def add(self, path: str, content: bytes, **more: Any) -> str:
        """Serve `content` at `path` (not encoded); returns the URL."""
        self.files[path] = File(content=content, **more)
        return self.url + path

    def gets(self, path: str) -> list[Request]:
        """The GETs of `path` so far."""
        return [request for request in self.requests if request.method == "GET" and request.path == path]

    def asked(self, path: str) -> list[tuple[int, int]]:
        """The ranges that the GETs of `path` asked for, without the byte behind the last, in the order of the file."""
        texts = [request.headers.get("range", "") for request in self.gets(path)]
        found = [re.fullmatch(r"bytes=(\d+)-(\d*)", text) for text in texts]
        size = len(self.files[path].content)
        return sorted((int(each[1]), int(each[2]) + 1 if each[2] else size) if each else (0, size) for each in found)

    def close(self) -> None:
        for gate in self.gates:
            gate.set()
        self._http.shutdown()
        self._thread.join()
        # Clients may keep their connections, and the threads behind them would wait for ever.
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()

    def respond(self, handler: Handler, path: str) -> None:
        """Answer a request; another protocol does more here."""
        file = self.files.get(path)
        if file is None:
            handler.plain(404)
            return
        answers = self.answers.get(path, [])
        answer = answers.pop(0) if answers and handler.command == "GET" else Answer()
        if path in self.rules:
            answer = self.rules[path]((handler.range(file) or (0, 0))[0])
        if answer.status is not None:
            handler.plain(answer.status, answer.headers)
            return
        handler.file(file, answer, path)

    def _handler(self) -> type[Handler]:
        class Bound(Handler):
            owner = self

        return Bound


class Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connections.add(self.connection)

    def finish(self) -> None:
        self.owner.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        self.owner.respond(self, path)

    do_HEAD = do_GET

    def plain(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, file: File, answer: Answer, path: str) -> None:
        size = len(file.content)
        part = None if answer.whole else self.range(file)
        first, end = part or (0, size)
        if first >= size > 0:
            self.plain(416, {"Content-Range": f"bytes */{size}"})
            return
        body = file.content[first:end]
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(body)),
            "Content-Type": file.kind,
            "ETag": file.etag,
            "Last-Modified": file.modified,
        }
        if part:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        self.send_response(206 if part else 200)
        for name, value in (headers | answer.headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self._body(body, answer, path)

    def range(self, file: File) -> tuple[int, int] | None:
        """The first byte that is asked for, and the one behind the last; ``None`` when all is."""
        size = len(file.content)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or self.headers.get("If-Range") not in (None, file.etag, file.modified):
            return None
        return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size

    def _body(self, body: bytes, answer: Answer, path: str) -> None:
        if answer.drop_after is not None:
            self._send(body[: answer.drop_after], path)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if answer.gate is not None and answer.stop_after is not None:
            self.owner.gates.append(answer.gate)
            self._send(body[: answer.stop_after], path)
            answer.gate.wait(60)
            body = body[answer.stop_after :]
        step = answer.trickle or len(body) or 1
        for first in range(0, len(body), step):
            self._send(body[first : first + step], path)
            if answer.trickle:
                time.sleep(0.01)

    def _send(self, body: bytes, path: str) -> None:
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()
            self.owner.sent[path] = self.owner.sent.get(path, 0) + len(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _quiet(request: Any, address: Any) -> None:
    """Clients that go away are what is tested here."""


class HubServer(Server):
    """Speaks the hub's protocol: metadata with the redirect, content from `cdn`, folders as lists.

    Attributes:
        refused: status and code that all requests for a repository get.
        linked: headers put in the place of those that describe a file.
    """

    def __init__(self, cdn: Server) -> None:
        self.cdn = cdn
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.head_answers: list[int] = []
        self.linked: dict[str, str] = {}
        self.page = 1000
        super().__init__()

    def put(self, repo: str, path: str, content: bytes) -> str:
        """Have `path` in `repo`; returns the checksum."""
        self.repos.setdefault(repo, {})[path] = content
        digest = hashlib.sha256(content).hexdigest()
        self.cdn.add(f"/cdn/{digest}", content, etag=f'"cdn-{digest[:8]}"')
        return digest

    def respond(self, handler: Handler, path: str) -> None:
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
        found = listing or file
        repo = found[1] if found else ""
        if self.head_answers and handler.command == "HEAD":
            handler.plain(self.head_answers.pop(0))
        elif repo in self.refused:
            status, code = self.refused[repo]
            handler.plain(status, {"X-Error-Code": code} if code else {})
        elif found is None or repo not in self.repos:
            handler.plain(401 if "authorization" not in handler.headers else 404, {"X-Error-Code": "RepoNotFound"})
        elif found[2] not in ("main", "v1", COMMIT, "refs/pr/1"):
            handler.plain(404, {"X-Error-Code": "RevisionNotFound"})
        elif listing:
            self._list(handler, repo, listing[3] or "")
        elif found[3] not in self.repos[repo]:
            handler.plain(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._redirect(handler, self.repos[repo][found[3]])

    def _redirect(self, handler: Handler, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "ETag": '"pointer"',
            "Location": f"{self.cdn.url}/cdn/{digest}",
        }
        handler.plain(302, {name: value for name, value in (headers | self.linked).items() if value})

    def _list(self, handler: Handler, repo: str, folder: str) -> None:
        paths = [path for path in self.repos[repo] if path.startswith(f"{folder}/" if folder else "")]
        cursor = re.search(r"cursor=(\d+)", handler.path)
        start = int(cursor[1]) if cursor else 0
        page = [{"type": "file", "path": path, "size": 1} for path in paths[start : start + self.page]]
        headers = {"Content-Type": "application/json"}
        if start + self.page < len(paths):
            here = f"{self.url}{handler.path.partition('&cursor')[0]}"
            headers["Link"] = f'<{here}&cursor={start + self.page}>; rel="next"'
        handler.plain(200, headers, json.dumps([{"type": "directory", "path": "d"}, *page]).encode())


def below(folder: Path, pattern: str = "*") -> list[Path]:
    """The files below `folder` whose names fit to `pattern`."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def overwrite(path: Path, content: bytes) -> None:
    """Make `content` what `path` holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def hub_serving(cdn: Server) -> Iterator[HubServer]:
    server = HubServer(cdn)
    try:
        yield server
    finally:
        server.close()
