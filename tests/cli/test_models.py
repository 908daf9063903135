"""``infs models``, against a hub on this machine, its cache, and fake folders of Ollama and LM Studio."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from infs.cli.commands import infs
from infs.cli.models import memory, removing
from infs.cli.models.adding import TomlFile
from infs.cli.models.bars import BarViews
from infs.cli.models.described import amount_text
from infs.cli.models.here import fits
from infs.cli.models.states import loaded_states
from infs.cli.models.trees import PLAIN, Node, tree_lines
from infs.config import ServerConfig
from infs.demo import MODEL_FILE
from infs.engines.registry import find_engine
from infs.http import create_app
from infs.status import ModelStatus, ServerStatus
from infs.store.locks import file_lock
from infs.types import Progress
from tests.cli.programs import environment, one_line, running
from tests.http.conftest import running as http_running
from tests.http.fake_server import FakeServer
from tests.store.servers import COMMIT, Answer, HubServer, Server, hub_serving, overwrite, serving
from tests.store.test_other_tools import put_lmstudio, put_ollama

DEMO = MODEL_FILE.read_bytes()
SMALL = "hf:org/repo/m-Q4_0.gguf"
SPLIT = "hf:org/repo/m-Q8_0-00001-of-00002.gguf"
CONFIG = """\
# mine
models.small.url = "hf:org/repo:Q4_0"  # the small one
models.small.context_size = 512
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[HubServer, Server]]:
    """A hub with a repository of two models, and another server."""
    with serving() as web, hub_serving(web) as hub:
        hub.put("org/repo", "m-Q4_0.gguf", DEMO)
        hub.put("org/repo", "mmproj-F16.gguf", b"GGUF p")
        for part in (1, 2):
            hub.put("org/repo", f"m-Q8_0-0000{part}-of-00002.gguf", b"GGUF" + bytes([part]) * 996)
        web.add("/f/web.gguf", DEMO)
        yield hub, web


@pytest.fixture
def hub(servers: tuple[HubServer, Server]) -> HubServer:
    servers[0].cdn.answers.clear()
    return servers[0]


@pytest.fixture
def url(servers: tuple[HubServer, Server]) -> str:
    """Where a model is that is on no hub."""
    return f"{servers[1].url}/f/web.gguf"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> Path:
    """The working directory, with a configuration; nothing of this machine is seen."""
    for name in list(os.environ):
        if name.upper().startswith(("INFS_", "HF_", "HUGGING", "OLLAMA")):
            monkeypatch.delenv(name)
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": str(tmp_path / "home"),
        "INFS_CACHE_PATH": str(tmp_path / "cache"),
        "INFS_URL": "http://127.0.0.1:9",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "infs.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def others(folder: Path) -> None:
    """What other tools have fetched, and what they have spoilt."""
    ollama = folder / "home" / ".ollama" / "models"
    put_ollama(ollama, "registry.ollama.ai/library/o", "1b", {"model": DEMO, "license": b"MIT"})
    overwrite(ollama / "manifests" / "registry.ollama.ai" / "library" / "o" / "damaged", b"{")
    put_lmstudio(folder / "home" / ".lmstudio" / "models", "pub/one/a-Q4_0.gguf", "pub/one/a-Q8_0.gguf")


@pytest.fixture(scope="module")
def full(servers: tuple[HubServer, Server], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with everything that can be downloaded."""
    path = tmp_path_factory.mktemp("full")
    references = [SMALL, "hf:org/repo:Q8_0", f"{servers[1].url}/f/web.gguf"]
    env = {"HF_ENDPOINT": servers[0].url, "INFS_CONFIG": None}
    args = ["models", "pull", *references, "--cache-path", str(path), "--quiet"]
    done = CliRunner().invoke(infs, args, env=env)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def pulled(full: Path, folder: Path) -> None:
    """The same cache, to change."""
    shutil.copytree(full, folder / "cache", symlinks=True)


def call(*args: str, input: str | None = None) -> Result:
    """``infs models ARGS``."""
    return CliRunner().invoke(infs, ["models", *args], input=input)


def said(*args: str) -> dict[str, Any]:
    """What ``infs models ARGS --json`` says."""
    done = call(*args, "--json")
    assert done.exit_code == 0, done.output
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def references(*args: str) -> list[str]:
    return [entry["reference"] for entry in said("list", *args)["entries"]]


# --- list -----------------------------------------------------------------------------------------------------


def test_all_there_is(others: None, pulled: None, url: str, folder: Path) -> None:
    repo = folder / "cache" / "hub" / "models--org--repo"
    overwrite(repo / "blobs" / f"{'a' * 64}.infs.incomplete", b"half")
    (repo / "snapshots" / COMMIT / "broken.gguf").symlink_to("nowhere")
    data = said("list")
    (small,) = data["models"]
    assert (small["id"], small["engine"], small["there"], small["bytes"]) == ("small", "llama-cpp", True, len(DEMO))
    assert [(each["reference"], each["bytes"], each["complete"], each["used_by"]) for each in data["entries"]] == [
        ("hf:org/repo", 4, False, []),
        (SMALL, len(DEMO), True, ["small"]),
        (SPLIT, 2000, True, []),
        (url, len(DEMO), True, []),
        ("lmstudio:pub/one/a-Q4_0.gguf", 4, True, []),
        ("lmstudio:pub/one/a-Q8_0.gguf", 4, True, []),
        ("ollama:o:1b", len(DEMO) + 3, True, []),
    ]
    assert data["bytes"] == 3 * len(DEMO) + 2000 + 4 + 8 + 3
    assert data["entries"][0]["files"][0]["state"] == "partial"


def test_flat_view_has_a_line_for_each_file(others: None, pulled: None) -> None:
    head, *lines, total = call("list").stdout.splitlines()
    assert head.split("  ")[0] == "USED BY"
    assert sorted(lines, key=lambda line: line.split()[1:]) == lines
    assert [line.split()[:3] for line in lines if "org/repo" in line] == [
        ["small", SMALL, "m-Q4_0.gguf"],
        ["-", SPLIT, "m-Q8_0-00001-of-00002.gguf"],
        ["-", SPLIT, "m-Q8_0-00002-of-00002.gguf"],
    ]
    assert total == "In the caches: 9.0 MB in 8 files, 6.0 MB that no configured model uses."


def test_tree_view(others: None, pulled: None, url: str) -> None:
    Path("infs.toml").write_text(CONFIG + "models.bad.url = 'nothing'\nmodels.gone.url = 'hf:org/none'")
    lines = call("list", "--view", "tree").stdout.splitlines()
    assert lines[:2] == ["Configuration  3 models", "├── small  llama-cpp, hf:org/repo:Q4_0, 3.0 MB, here"]
    assert lines[2] == "├── bad  nothing, wrong"
    assert lines[3].startswith("│   └── models.bad.url = 'nothing' is not a URL")
    assert lines[4:16] == [
        "└── gone  hf:org/none, missing",
        "Hugging Face cache  3.0 MB",
        "└── org/repo  3.0 MB",
        f"    └── main ({COMMIT[:7]})  3.0 MB",
        "        ├── m-Q4_0.gguf  3.0 MB, Q4_0, used by small",
        "        ├── m-Q8_0-00001-of-00002.gguf  1.0 KB, Q8_0",
        "        └── m-Q8_0-00002-of-00002.gguf  1.0 KB",
        "Downloads of infs  3.0 MB",
        f"└── {url}  3.0 MB",
        "LM Studio  8 bytes",
        "├── lmstudio:pub/one/a-Q4_0.gguf  4 bytes, Q4_0",
        "└── lmstudio:pub/one/a-Q8_0.gguf  4 bytes, Q8_0",
    ]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("--unused",), [SPLIT, "URL", "ollama:o:1b"]),
        (("--configured",), [SMALL]),
        (("small",), [SMALL]),
        (("org/repo",), [SMALL, SPLIT]),
        (("HF:ORG/*",), [SMALL, SPLIT]),
        (("hf:org/repo:q8_0",), [SPLIT]),
        (("*Q4_0*", "ollama:*"), [SMALL, "ollama:o:1b"]),
        (("http*", "small", "--unused"), ["URL"]),
        (("URL?token=secret",), ["URL"]),
    ],
)
def test_what_is_listed(folder: Path, pulled: None, url: str, args: tuple[str, ...], found: list[str]) -> None:
    put_ollama(folder / "home" / ".ollama" / "models", "registry.ollama.ai/library/o", "1b", {"model": b"GGUF"})
    wanted = [each.replace("URL", url) for each in found]
    assert references(*(each.replace("URL", url) for each in args)) == wanted


def test_names_with_brackets_and_backslashes_name_themselves() -> None:
    assert fits(["https://x/m[1].gguf"], "https://x/m[1].gguf")
    assert fits([r"C:\models\m.gguf"], r"c:\MODELS\m.gguf")
    assert not fits([""], "*")


def test_files_beside_a_model_count_as_used(pulled: None) -> None:
    assert call("pull", "hf:org/repo/mmproj-F16.gguf").exit_code == 0
    assert "hf:org/repo" in references("--unused")
    Path("infs.toml").write_text(CONFIG + 'models.small.options.projector = "hf:org/repo/mmproj-F16.gguf"')
    assert references("--unused") == [SPLIT, references("http*")[0]]


def test_trees_for_terminals_of_old() -> None:
    tree = [Node(text="a", below=[Node(text="b", said="c", below=[Node(text="d")]), Node(text="e")])]
    assert [*tree_lines(tree, drawn=PLAIN)][1:3] == ["+-- b  \x1b[2mc\x1b[0m", "|   `-- d"]


class Loaded(FakeServer):
    """A server that has loaded something."""

    async def status(self) -> Any:
        return ServerStatus(models={"small": ModelStatus(state="ready")})


def test_what_is_loaded_is_said_where_a_server_says_it(pulled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said("list")["models"][0]["state"] is None
    settings = ServerConfig(port=0)
    with http_running(create_app(Loaded(), settings), settings) as url:
        monkeypatch.setenv("INFS_URL", url)
        assert said("list")["models"][0]["state"] == "ready"
        assert "3.0 MB, ready" in call("list", "--view", "tree").stdout
    assert loaded_states(None, {"INFS_URL": "no"}, Path()) == {}


# --- show -----------------------------------------------------------------------------------------------------


def test_everything_about_a_model(pulled: None) -> None:
    data = said("show", "small")
    assert (data["here"], data["complete"], data["reference"]) == (True, True, SMALL)
    metadata = data["metadata"]
    assert (metadata["architecture"], metadata["quantisation"], metadata["layers"]) == ("llama", "Q8_0", 6)
    (file,) = data["files"]
    assert (file["bytes"], len(file["sha256"])) == (len(DEMO), 64)
    assert data["configured"] == {"small": {"url": "hf:org/repo:Q4_0", "context_size": 512}}
    assert data["memory"]["source"] == "engine"
    assert data["memory"]["use"]["host"] > len(DEMO)


def test_text_for_people(pulled: None, others: None) -> None:
    text = call("show", SMALL, "--quick").stdout
    for line in ("  parameters      2.8 M", "  chat template   yes", "Configuration of small", "  context_size = 512"):
        assert line in text.splitlines()
    assert "Memory, by the header of its file, in main memory" in text
    assert call("show", str(MODEL_FILE), "--quick").stdout.startswith(str(MODEL_FILE))
    assert "  architecture    llama" in call("show", "ollama:o:1b", "--quick").stdout
    assert [amount_text(count) for count in (12, 1234, 494_000_000, 7_000_000_000)] == [
        "12",
        "1.2 K",
        "494.0 M",
        "7.0 B",
    ]


def test_memory_without_the_library(pulled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = msgspec.structs.replace(find_engine("llama-cpp"), requires=("no_such_module",))
    monkeypatch.setattr(memory, "find_engine", lambda name: lacking)
    told = said("show", "small")["memory"]
    assert told["source"] == "header"
    assert "no_such_module, which is not installed" in told["note"]


def test_what_the_hub_has(url: str, hub: HubServer) -> None:
    offers = said("show", "hf:org/repo")["offers"]
    assert [(each["reference"], each["label"], len(each["files"])) for each in offers] == [
        (SMALL, "Q4_0", 1),
        (SPLIT, "Q8_0", 2),
    ]
    assert offers[0]["beside"][0]["name"] == "mmproj-F16.gguf"
    assert said("show", "small")["offers"][0]["reference"] == SMALL
    (offer,) = said("show", f"{url}?token=secret")["offers"]
    assert (offer["reference"], offer["bytes"]) == (url, len(DEMO))
    assert call("show", "hf:org/repo").stdout.startswith("hf:org/repo is not on this machine; 2 models to choose from:")
    assert not references()


@pytest.mark.parametrize(
    ("args", "status", "error"),
    [
        (("nothing",), 1, "nothing is neither a model of the configuration, nor a file, nor in the caches."),
        (("a/b",), 1, "A model of the hub is written hf:a/b."),
        (("pub/one",), 2, "pub/one may mean 2 models: lmstudio:pub/one/a-Q4_0.gguf, lmstudio:pub/one/a-Q8_0.gguf."),
        (("hf:org/none",), 1, "hf:org/none does not exist, or is private"),
        (("hf:org/repo:Q5_0",), 1, "holds 4 files, and no model that hf:org/repo:Q5_0 could mean."),
        (("hf:org",), 2, "hf:org"),
        (("small", "--set", "hub.offline=true"), 1, "offline mode"),
        (("ollama:no",), 1, "ollama:no:latest is not in"),
        (("lmstudio:pub/one/a-Q4_0.gguf",), 1, "a-Q4_0.gguf"),
        (("infs.toml",), 1, "infs.toml is no GGUF file"),
    ],
)
def test_what_cannot_be_shown(others: None, args: tuple[str, ...], status: int, error: str) -> None:
    done = call("show", *args)
    assert done.exit_code == status, done.output
    assert error in one_line(done.stderr)


# --- prepare and pull -----------------------------------------------------------------------------------------


def test_prepare_goes_on_where_one_fails() -> None:
    Path("infs.toml").write_text(
        CONFIG + "models.gone.url = 'hf:org/none'\nmodels.large.url = 'hf:org/repo:Q8_0'\n"
        f"models.here.file = {json.dumps(str(MODEL_FILE))}"
    )
    done = call("prepare", "--jobs", "2")
    assert done.exit_code == 1
    assert done.stdout == "4 models: 2 fetched (3.0 MB), 1 here already, 1 failed.\n"
    lines = done.stderr.splitlines()
    assert "small: fetched, 3.0 MB" in lines
    assert "here: here already, 3.0 MB" in lines
    assert "Downloading m-Q4_0.gguf: 0 bytes of 3.0 MB" in lines
    assert any(line.startswith("gone: hf:org/none does not exist") for line in lines)
    assert lines[-1] == "Error: 1 model of 4 could not be fetched."
    assert call("prepare", "LARGE", "sm*", "-q").stdout == "2 models: 0 fetched, 2 here already, 0 failed.\n"
    assert "No configured model fits to x; there are: small, " in one_line(call("prepare", "x").stderr)


def test_prepare_checks_what_is_there(pulled: None) -> None:
    Path("infs.toml").write_text(CONFIG + f'models.small.sha256 = "{"0" * 64}"')
    done = call("prepare")
    assert (done.exit_code, "0" * 64 in done.stderr) == (1, True)


def test_pull_says_where_it_is_and_how_to_use_it(url: str) -> None:
    done = call("pull", "hf:org/repo:Q4_0", f"{url}?token=secret")
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == ["m-Q4_0.gguf", "web.gguf"]
    assert all(path.read_bytes() == DEMO for path in paths)
    assert '[models.repo]\nurl = "hf:org/repo:Q4_0"\n' in done.stderr
    progress = done.stderr.partition("In a configuration:")[0]
    assert f"{url}: fetched, 3.0 MB" in progress
    assert "secret" not in progress


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pull_adds_to_the_configuration(end: str) -> None:
    path = Path("infs.toml")
    path.write_bytes(CONFIG.replace("\n", end).encode())
    assert call("pull", "--add", "hf:org/repo:Q8_0").exit_code == 0  # what follows is no id
    done = call("pull", "hf:org/repo:Q8_0", "--add", "a.b:1")
    assert done.stderr.splitlines()[-1] == "a.b:1 is added to infs.toml."
    added = '\n[models.repo]\nurl = "hf:org/repo:Q8_0"\n\n[models."a.b:1"]\nurl = "hf:org/repo:Q8_0"\n'
    assert path.read_bytes().decode() == (CONFIG + added).replace("\n", end)
    assert [each["id"] for each in said("list")["models"]] == ["small", "repo", "a.b:1"]
    done = call("pull", "hf:org/repo:Q4_0", "--add", "small")
    assert (done.exit_code, "has a model 'small' already" in one_line(done.stderr)) == (2, True)


def test_pull_begins_a_configuration(folder: Path) -> None:
    new = folder / "new.toml"
    assert call("pull", SMALL, "--add", "s", "--config", str(new)).exit_code == 0
    assert tomllib.loads(new.read_text()) == {"models": {"s": {"url": SMALL}}}


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("models = { a = { url = 'hf:a/b' } }", "b", "in a way that nothing can be appended to"),
        ("models = 1", "b", "in a way that nothing can be appended to"),
        ("models", "b", "is not valid TOML"),
        ("", "a b", "'a b' is no model id"),
    ],
)
def test_files_that_cannot_be_added_to(text: str, name: str, error: str) -> None:
    Path("x.toml").write_text(text)
    with pytest.raises(Exception, match=error):
        TomlFile(Path("x.toml")).check_free([name])
    assert Path("x.toml").read_text() == text


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), "Name what to fetch"),
        (("/a/b.gguf",), "is on this machine: write its path as `file` instead"),
        ((SMALL, SPLIT, "--add", "x"), "--add x is the id of one model, and there are 2."),
        (("hf:org/repo:Q4_0", "hf:org/repo:Q8_0", "--add"), "Two of these would have the same id (repo, repo)"),
        ((SMALL, "--add", "--config", "infs.yaml"), "only a TOML file can be added to"),
    ],
)
def test_wrong_pulls(args: tuple[str, ...], error: str) -> None:
    done = call("pull", *args)
    assert done.exit_code == 2, done.output
    assert error in done.stderr


def test_control_c_keeps_what_came(folder: Path, hub: HubServer) -> None:
    gate = threading.Event()
    digest = hub.put("org/slow", "slow.gguf", DEMO)
    hub.cdn.answers[f"/cdn/{digest}"] = [Answer(stop_after=2_000_000, gate=gate)]
    with running("models", "pull", "hf:org/slow", cwd=Path.cwd(), env=environment(**_own())) as program:
        program.err.until("Downloading slow.gguf: 0 bytes")
        _wait_for(folder / "cache" / "hub", "*.incomplete")
        program.interrupt()
        assert program.wait() == 130
        assert any("What came so far is kept" in line for line in program.err.rest())
    gate.set()
    (entry,) = said("list")["entries"]
    assert (entry["reference"], entry["complete"]) == ("hf:org/slow", False)
    assert "partial" in call("list").stdout
    assert call("remove", "--partial", "--yes").stdout.splitlines()[-1].startswith("1 model removed")
    assert not references()


def _own() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("INFS_")}


def _wait_for(folder: Path, pattern: str) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if any(path.stat().st_size for path in folder.rglob(pattern)):
            return
        pause.wait(0.005)
    raise AssertionError(f"There is no {pattern} in {folder}.")


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


def test_a_bar_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with BarViews() as bars:
        for name, done in (("one", 10), ("two", 1)):
            progress = Progress(
                stage="download",
                done=done * 10**6,
                total=10**8,
                unit="bytes",
                detail="m.gguf",
                rate=1e6,
                remaining=90.0,
            )
            bars.show(name, progress)
        bars._bars.refresh()
        shown = terminal.getvalue()
        bars.end("one", "fetched, 100.0 MB")
    assert "one: m.gguf" in shown
    assert "two: m.gguf" in shown
    assert "10.0 MB of 100.0 MB, 1.0 MB/s" in shown
    assert "1 min 30 s left" in shown
    assert "one: fetched, 100.0 MB" in terminal.getvalue()


# --- remove ---------------------------------------------------------------------------------------------------


def test_removing_asks_first(pulled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("remove", "small")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        2,
        "Error: Nobody can be asked here whether to delete that: give --yes.",
    )
    assert "This frees 3.0 MB." in done.stdout
    assert f"Warning: small of the configuration uses {SMALL}." in done.stderr
    monkeypatch.setattr(removing, "is_terminal", lambda: True)
    assert call("remove", "small", input="\n").exit_code == 1
    assert len(references()) == 3
    done = call("remove", "small", "org/repo", input="y\n")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "2 models removed, 3.0 MB freed.")
    assert len(references()) == 1


@pytest.mark.parametrize(
    ("args", "gone"),
    [
        (("--unused",), [SPLIT, "URL"]),
        (("http*",), ["URL"]),
        (("hf:*", "--unused"), [SPLIT]),
        (("--partial",), []),
        (("*", "--dry-run"), []),
    ],
)
def test_what_is_removed(pulled: None, others: None, url: str, args: tuple[str, ...], gone: list[str]) -> None:
    before = references()
    done = call("remove", *args, "--yes")
    assert done.exit_code == 0, done.output
    assert set(before) - set(references()) == {each.replace("URL", url) for each in gone}


def test_what_is_not_infs_own_stays(pulled: None, others: None) -> None:
    Path("infs.toml").write_text(CONFIG + f"models.mine.file = {json.dumps(str(MODEL_FILE))}")
    done = call("remove", "ollama:o:1b", "lmstudio:*", "mine", "hf:org/repo:Q8_0", "-y")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert "ollama:o:1b belongs to Ollama; remove it with ollama rm." in lines
    assert "lmstudio:pub/one/a-Q4_0.gguf belongs to LM Studio; remove it there." in lines
    assert f"mine is used in place, and infs did not put it there: delete {MODEL_FILE} yourself." in lines
    assert lines[-1] == "Error: Not all that was named can be removed."
    assert "1 model removed, 2.0 KB freed." in done.stdout
    assert MODEL_FILE.exists()
    assert len(references("ollama:*", "lmstudio:*")) == 3


@pytest.mark.parametrize(
    ("args", "status", "error"),
    [
        ((), 2, "Name what to remove, or give --unused or --partial."),
        (("nothing", "-y"), 1, "Nothing fits to nothing; infs models list shows what there is."),
        (("small", "-y"), 1, "Nothing of small is on this machine."),
        (("--unused", "-y"), 2, "There is no configuration here, so no model counts as used"),
        (
            ("--unused", "-y", "--set", "models.a.url=no"),
            2,
            "cannot be told while the configuration is wrong: models.a",
        ),
    ],
)
def test_wrong_removals(args: tuple[str, ...], status: int, error: str) -> None:
    if args == ("--unused", "-y"):
        Path("infs.toml").unlink()
    done = call("remove", *args)
    assert done.exit_code == status
    assert error in done.stderr


async def test_what_is_being_downloaded_stays(pulled: None, folder: Path) -> None:
    name = next((folder / "cache" / "downloads").iterdir())
    async with file_lock(name / "web.gguf.lock", lambda: None):
        thread_said: list[Result] = []
        thread = threading.Thread(target=lambda: thread_said.append(call("remove", "http*", "-y")))
        thread.start()
        thread.join()
    assert thread_said[0].exit_code == 1
    assert "is being downloaded: stop that, or wait for its end." in thread_said[0].stderr
    assert "0 models removed" in thread_said[0].stdout
