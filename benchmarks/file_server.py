"""``python -m benchmarks.file_server --port N``: a web server of files of any size, as fast as is asked for.

The path says it: ``/SIZE/RATE/name`` has SIZE bytes, sent with RATE bytes per second to each connection (0: as fast as
the machine does it). Ranges are answered.
"""

from __future__ import annotations

import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

CHUNK = 256 * 1024
ZEROS = memoryview(bytes(CHUNK))


class Handler(BaseHTTPRequestHandler):
    """Answers with zeros."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file, or a part of it."""
        found = re.fullmatch(r"/(\d+)/(\d+)/.*", self.path)
        if found is None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size, rate = int(found[1]), int(found[2])
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(part[1]) if part else 0
        end = min(size, int(part[2]) + 1) if part and part[2] else size
        self.send_response(206 if part else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"zeros"')
        self.send_header("Content-Length", str(end - first))
        if part:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        self.end_headers()
        self._send(end - first, rate)

    def _send(self, left: int, rate: int) -> None:
        started, sent = time.perf_counter(), 0
        while sent < left:
            chunk = ZEROS[: min(CHUNK, left - sent)]
            try:
                self.wfile.write(chunk)
            except OSError:
                # The client has enough of it.
                self.close_connection = True
                return
            sent += len(chunk)
            if rate:
                time.sleep(max(0.0, sent / rate - (time.perf_counter() - started)))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Serve until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
