"""The two sides of a comparison as servers: how each is started with the same settings, and what it says of itself."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import HOST, INFS, PATIENCE, Served, served

MODEL = "m"
SPECULATION = ("--spec-type", "ngram-simple")  # of llama-server's own kinds without a draft model, the plainest


@dataclass(frozen=True)
class Setup:
    """How a server is started.

    Attributes:
        context: tokens of the longest sequence; the cache has room for all `sequences` of that length.
        speculation: guess what was there before.
        idle: seconds after which an idle model is unloaded.
        folder: where infs keeps what outlives it; a temporary one by default.
    """

    model: Path
    threads: int
    context: int
    sequences: int = 8
    speculation: bool = False
    idle: float | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Side:
    """A kind of server.

    Attributes:
        command: what starts it, without the port.
        status: the path of what it says of itself.
        unloaded: whether that says that no model is in memory.
    """

    name: str
    command: Callable[[Setup, Path], list[str]]
    status: str
    unloaded: Callable[[Mapping[str, Any]], bool]

    @contextmanager
    def serve(self, setup: Setup) -> Iterator[Served]:
        """A server that is up until the block is left. (The model of infs is loaded by the first request.)"""
        with ExitStack() as stack:
            folder = setup.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            yield stack.enter_context(served(self.command(setup, folder), "/health"))

    def wait_until_unloaded(self, server: Served) -> None:
        """Until no model is in memory."""
        deadline = time.perf_counter() + PATIENCE
        while not self.unloaded(_get(server.port, self.status)):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{self.name} still had its model {PATIENCE:.0f} s after its last request.")
            time.sleep(0.05)


def _get(port: int, path: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def infs_side() -> Side:
    """``infs serve``, as it comes but for what `Setup` says."""
    return Side("infs", _infs, "/", lambda status: not status["models"][MODEL]["instances"])


def _infs(setup: Setup, folder: Path) -> list[str]:
    options = {
        "cache_tokens": setup.context * setup.sequences,
        "speculation": {"mode": "auto" if setup.speculation else "off"},
    }
    command = [*INFS, str(setup.model), "--model-id", MODEL, "--log-level", "warning", "--cache-path", str(folder)]
    command += ["--threads", str(setup.threads), "--context-size", str(setup.context)]
    command += ["--max-sequences", str(setup.sequences), "--set", f"models.{MODEL}.options={json.dumps(options)}"]
    return command if setup.idle is None else [*command, "--ttl", str(setup.idle)]


def llama_server_side(program: Path, extra: Sequence[str] = ()) -> Side:
    """``llama-server``, as it comes but for what `Setup` and `extra` say."""

    def command(setup: Setup, folder: Path) -> list[str]:
        line = [str(program), "--host", HOST, "--model", str(setup.model), "--alias", MODEL, "--no-webui"]
        line += ["--threads", str(setup.threads), "--parallel", str(setup.sequences)]
        line += ["--ctx-size", str(setup.context * setup.sequences)]  # of all sequences together
        line += SPECULATION if setup.speculation else ()
        line += ["--sleep-idle-seconds", f"{setup.idle:.0f}"] if setup.idle is not None else []
        return [*line, *extra]

    return Side("llama-server", command, "/props", lambda status: bool(status["is_sleeping"]))
