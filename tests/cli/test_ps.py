"""``infs ps`` and ``infs stop``, over the HTTP server with a scripted facade behind it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from infs.cli import listing
from infs.cli.commands import infs
from infs.cli.listing import models_table, remarks
from infs.cli.remote import Place, find_place
from infs.cli.tables import plain_lines, rich_table
from infs.config import ServerConfig
from infs.errors import ConfigError
from infs.http import create_app
from infs.status import (
    DownloadStatus,
    InstanceStatus,
    MemoryNeed,
    MemoryStatus,
    ModelStatus,
    ProgressStatus,
    ServerStatus,
)
from tests.http.conftest import running
from tests.http.fake_server import CHAT, TEXT, FakeServer

STATUS = ServerStatus(
    version="1.2.3",
    models={
        CHAT: ModelStatus(
            engine="llama-cpp",
            state="ready",
            queued=3,
            ttl=300.0,
            instances=[
                InstanceStatus(running=2, places=8, memory=MemoryNeed(host=10**9, devices={"cuda:0": 5 * 10**9})),
                InstanceStatus(running=0, places=8, idle_for=12.0, memory=MemoryNeed(host=10**9)),
            ],
        ),
        TEXT: ModelStatus(
            engine="llama-cpp", state="ready", ttl=300.0, instances=[InstanceStatus(places=4, idle_for=75.0)]
        ),
        "big": ModelStatus(
            state="loading",
            progress=ProgressStatus(
                stage="download", done=10**9, total=4 * 10**9, detail="big.gguf", rate=2e7, remaining=150.0
            ),
        ),
        "bad": ModelStatus(last_error="It is no GGUF file."),
    },
    memory={"host": MemoryStatus(limit=16 * 10**9, reserved=2 * 10**9), "cuda:0": MemoryStatus(reserved=5 * 10**9)},
    downloads=[DownloadStatus(what="big.gguf", done=1), DownloadStatus(what="other.gguf", done=10, total=100)],
)
TABLE = """\
MODEL       STATE    ENGINE     INSTANCES  RUNNING  QUEUED  MEMORY                 IDLE
chat        ready    llama-cpp          2     2/16       3  2.0 GB, cuda:0 5.0 GB  -
org/text:1  ready    llama-cpp          1      0/4       0  -                      1 min 15 s of 5 min 0 s
big         loading  -                  0        -       0  -                      -
bad         idle     -                  0        -       0  -                      -"""


class Server(FakeServer):
    """A scripted server with a lot to say of itself."""

    said: ClassVar[ServerStatus] = STATUS

    async def status(self) -> Any:
        return self.said


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Server, str]]:
    """One for all tests of this module, behind a key."""
    server = Server()
    settings = ServerConfig(port=0, api_keys=["k"])
    with running(create_app(server, settings), settings) as url:
        yield server, url


@pytest.fixture
def server(shared: tuple[Server, str]) -> Server:
    """The scripted server, as new."""
    shared[0].reset()
    return shared[0]


def call(url: str, *args: str, key: str | None = "k") -> Result:
    """``infs ARGS`` with the server at `url`."""
    env = {"INFS_URL": url, "INFS_API_KEY": key, "INFS_CONFIG": None}
    return CliRunner().invoke(infs, args, env=env)


# --- ps -------------------------------------------------------------------------------------------------------


def test_table_of_what_is_loaded(shared: tuple[Server, str]) -> None:
    lines = call(shared[1], "ps").stdout.splitlines()
    assert lines[:5] == TABLE.splitlines()
    assert lines[5:] == [
        "Downloading big.gguf: 1.0 GB of 4.0 GB, 20.0 MB/s, 2 min 30 s left",
        "Downloading other.gguf: 10 bytes of 100 bytes",
        "Memory: 2.0 GB of 16.0 GB reserved",
        "Memory of cuda:0: 5.0 GB reserved",
        "bad: It is no GGUF file.",
    ]


def test_json_is_all_that_the_server_says(shared: tuple[Server, str]) -> None:
    said = json.loads(call(shared[1], "ps", "--json").stdout)
    assert said["version"] == "1.2.3"
    assert said["models"]["chat"]["instances"][0]["memory"]["devices"] == {"cuda:0": 5 * 10**9}


def test_watching_goes_on_until_control_c(shared: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(listing, "pause", pause)
    done = call(shared[1], "ps", "--watch", "--interval", "0.5")
    assert (done.exit_code, waited) == (0, [0.5] * 3)
    assert done.stdout.count("org/text:1") == 3
    waited.clear()
    lines = call(shared[1], "ps", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["version"] for line in lines] == ["1.2.3"] * 3


def test_empty_server_and_one_that_closes() -> None:
    assert plain_lines(models_table(ServerStatus())) == [
        "MODEL  STATE  ENGINE  INSTANCES  RUNNING  QUEUED  MEMORY  IDLE"
    ]
    assert remarks(ServerStatus(closing=True)) == ["The server is shutting down."]
    waiting = ModelStatus(progress=ProgressStatus(stage="memory", done=0, total=100, unit="percent"))
    assert remarks(ServerStatus(models={"a": waiting})) == ["Waiting for memory: a"]


def test_terminal_gets_the_same_words() -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(rich_table(models_table(STATUS)))
    words = " ".join(capture.get().split())
    assert "chat ready llama-cpp 2 2/16 3 2.0 GB, cuda:0 5.0 GB -" in words
    assert "big loading" in words


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_terminal_is_kept_up_to_date(shared: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    async def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(listing, "pause", pause)
    monkeypatch.setenv("COLUMNS", "150")
    for watch in (False, True):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        place = Place(url=shared[1], key="k")
        if watch:
            listing.watch_list(place, 2.0, as_json=False)
        else:
            listing.list_once(place, as_json=False)
        shown = terminal.getvalue()
        assert f"{shared[1]}, infs 1.2.3" in shown
        assert "20.0 MB/s, 2 min 30 s left" in shown
    assert looks == [2.0] * 3


# --- stop -----------------------------------------------------------------------------------------------------


def test_stop_names_what_it_unloaded(server: Server, shared: tuple[Server, str]) -> None:
    done = call(shared[1], "stop", CHAT, TEXT, CHAT, "--now")
    assert (done.exit_code, sorted(done.stdout.splitlines())) == (
        0,
        ["chat is unloaded (2 instances ended).", "org/text:1 is unloaded (2 instances ended)."],
    )
    assert sorted(server.unloads) == [(CHAT, True), (TEXT, True)]


def test_stop_all_that_is_loaded(server: Server, shared: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(shared[1], "stop", "--all").exit_code == 0
    assert sorted(server.unloads) == [(CHAT, False), (TEXT, False)]
    monkeypatch.setattr(Server, "said", ServerStatus(models={"a": ModelStatus()}))
    assert call(shared[1], "stop", "--all").stdout == "Nothing is loaded.\n"


def test_stop_of_unknown_models_stops_the_others(server: Server, shared: tuple[Server, str]) -> None:
    done = call(shared[1], "stop", "no", CHAT, "neither")
    assert done.exit_code == 2
    assert "There is no model 'no'. There is no model 'neither'." in done.stderr
    assert server.unloads == [(CHAT, False)]


@pytest.mark.parametrize("args", [("stop",), ("stop", "--all", "a")])
def test_stop_wants_models_or_all(args: tuple[str, ...]) -> None:
    done = call("http://127.0.0.1:9", *args)
    assert done.exit_code == 2
    assert "Name the models to unload, or give --all." in done.stderr


# --- where the server is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environ", "flags", "place"),
    [
        ("", {}, (None, None), Place(url="http://127.0.0.1:3000")),
        ("[server]\nport = 81\nhost = '0.0.0.0'", {}, (None, None), Place(url="http://127.0.0.1:81")),
        ("[server]\nhost = '::'", {}, (None, None), Place(url="http://[::1]:3000")),
        ("[server]\napi_keys = ['a', 'b']", {}, (None, None), Place(url="http://127.0.0.1:3000", key="a")),
        ("[server]\napi_keys = ['a']", {}, (None, "f"), Place(url="http://127.0.0.1:3000", key="f")),
        # The key of the configuration is for its own server only.
        ("[server]\napi_keys = ['a']", {"INFS_URL": "http://x:1/"}, (None, None), Place(url="http://x:1")),
        ("", {"INFS_URL": "http://x:1", "INFS_API_KEY": "e"}, (None, None), Place(url="http://x:1", key="e")),
        ("", {"INFS_URL": "http://x:1"}, ("http://y:2", "k"), Place(url="http://y:2", key="k")),
        ("", {"INFS_SERVER__PORT": "82"}, (None, None), Place(url="http://127.0.0.1:82")),
        ("broken", {"INFS_URL": "http://x:1"}, (None, None), Place(url="http://x:1")),
    ],
)
def test_places(
    tmp_path: Path, text: str, environ: dict[str, str], flags: tuple[str | None, str | None], place: Place
) -> None:
    (tmp_path / "infs.toml").write_text(text)
    assert find_place(*flags, None, environ, tmp_path) == place


def test_wrong_configuration_is_said_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "infs.toml").write_text("broken")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        find_place(None, None, None, {}, tmp_path)


class Stranger(BaseHTTPRequestHandler):
    """Some other HTTP server, which answers what the path says."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {
        "/html/": (200, b"<html>"),
        "/list/": (200, b"[]"),
        "/other/": (200, b'{"name": "other"}'),
        "/fails/": (500, b'{"error": {"message": "It broke."}}'),
        "/plain/": (500, b"{}"),
        "/models/": (200, b'{"models": {"a": 1}}'),
    }

    def do_GET(self) -> None:
        status, body = self.answers[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """Where it is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as httpd:
        thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/html", "is no infs server. Say where it is with --url."),
        ("/list", "is no infs server."),
        ("/other", "is no infs server."),
        ("/plain", "is no infs server."),
        ("/fails", "Error: It broke."),
        ("/models", "is of another version: Expected `object`, got `int`"),
    ],
)
def test_other_servers(stranger: str, path: str, said: str) -> None:
    done = call(stranger + path, "ps")
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("http://127.0.0.1:1", 1, "No server answers at http://127.0.0.1:1 (All connection attempts failed). Start"),
        ("127.0.0.1:3000", 2, "'127.0.0.1:3000' (--url, or INFS_URL) is no URL of a server; write http://HOST:PORT."),
        ("http://[", 2, "is no URL of a server"),
        ("http://x:99999999", 2, "is no URL of a server"),
    ],
)
def test_no_server(url: str, status: int, said: str) -> None:
    done = call(url, "ps")
    assert (done.exit_code, len(done.stderr.splitlines())) == (status, 1)
    assert said in done.stderr


@pytest.mark.parametrize(("key", "said"), [(None, "wants an API key: give --api-key"), ("x", "does not take this")])
def test_keys(shared: tuple[Server, str], key: str | None, said: str) -> None:
    done = call(shared[1], "ps", key=key)
    assert done.exit_code == 1
    assert said in done.stderr
