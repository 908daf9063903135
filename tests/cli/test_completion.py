"""What shells are told, by the same command that they call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class
from click.testing import CliRunner

from infs.cli.commands import infs
from infs.cli.completing import silent
from infs.cli.completion import SHELLS
from infs.cli.shells import PROGRAM, VARIABLE, PowerShellComplete
from tests.cli.programs import environment, run

CONFIG = "[models.small]\nurl = 'hf:o/small'\n[models.'org/large']\nfile = '/x'\n[server]\nprot = 1\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a configuration that is not all right."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INFS_CONFIG", raising=False)
    (tmp_path / "infs.toml").write_text(CONFIG)
    return tmp_path


def completed(*words: str) -> list[str]:
    """What bash would offer for the last of `words`; ``<file>`` stands for files."""
    *before, incomplete = words
    completions = BashComplete(infs, {}, PROGRAM, VARIABLE).get_completions(before, incomplete)
    return ["<file>" if item.type == "file" else str(item.value) for item in completions]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("s",), ["serve", "stop"]),
        (("config", ""), ["check", "init", "schema", "show"]),
        (("serve", "--max"), ["--max-sequences", "--max-memory"]),
        (("serve", "sm"), ["<file>", "small"]),
        (("serve", ""), ["<file>", "demo", "small", "org/large"]),
        (("bench", "org"), ["<file>", "org/large"]),
        (("run", "--model", "s"), ["<file>", "small"]),
        (("chat", "./x"), ["<file>"]),
        (("stop", ""), ["small", "org/large"]),
        (("stop", "small", ""), ["org/large"]),
        (("stop", "--config", "none.toml", ""), []),
        (("serve", "--config", ""), ["<file>"]),
        (("serve", "--engine", ""), ["llama-cpp"]),
        (("serve", "--log-level", "w"), ["warning"]),
        (("serve", "--set", "server.p"), ["server.port="]),
        (("serve", "--set", "models.small.device.gpu_"), ["models.small.device.gpu_layers="]),
        (("run", "--set", "models.org/large.options.mm"), ["models.org/large.options.mmap="]),
        (
            ("run", "--set", "models.small.completion_defaults.top_"),
            [f"models.small.completion_defaults.top_{name}=" for name in ("k", "p", "n_sigma")],
        ),
        (("serve", "--set", "log.format="), ["log.format=text", "log.format=json"]),
        (("serve", "--set", "models.a.b.prepare=b"), ["models.a.b.prepare=blocking"]),
        (("serve", "--set", "models.small.pinned="), ["models.small.pinned=true", "models.small.pinned=false"]),
        (("serve", "--set", "models.small.engine="), ["models.small.engine=llama-cpp"]),
        (("serve", "--set", "nothing.like.it="), []),
        (("completion", "p"), ["powershell"]),
    ],
)
def test_offers(words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(*words) == offered


@pytest.mark.parametrize("content", [b"models = 1", b"broken", b"\xff\xfe", b"models.a = 1"])
def test_broken_configurations_offer_what_they_can(folder: Path, content: bytes) -> None:
    (folder / "infs.toml").write_bytes(content)
    assert completed("stop", "") == (["a"] if content == b"models.a = 1" else [])
    assert completed("serve", "--set", "server.po") in (["server.port="], [])


def test_what_fails_offers_nothing() -> None:
    @silent
    def fails(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        raise RuntimeError("oops")

    ctx = click.Context(infs)
    assert fails(ctx, infs.params[0], "") == []


def test_powershell_has_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    add_completion_class(PowerShellComplete)
    assert get_completion_class("powershell") is PowerShellComplete
    shell = PowerShellComplete(infs, {}, PROGRAM, VARIABLE)
    monkeypatch.setenv("COMP_WORDS", "infs stop sm")
    monkeypatch.setenv("COMP_CWORD", "sm")
    assert shell.get_completion_args() == (["stop"], "sm")
    assert shell.complete() == "plain\tsmall\thf:o/small"
    monkeypatch.setenv("COMP_WORDS", "infs config ")
    monkeypatch.setenv("COMP_CWORD", "")
    assert shell.complete().splitlines()[0].startswith("plain\tcheck\tSay everything")


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_call_the_command(shell: str) -> None:
    done = CliRunner().invoke(infs, ["completion", shell])
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{VARIABLE}" in done.stdout
    assert f"{shell}_complete" in done.stdout
    program = {"bash": "bash", "zsh": "zsh", "fish": "fish"}.get(shell)
    if program and shutil.which(program):  # whoever has that shell reads it
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_bash_completes_in_earnest(folder: Path) -> None:
    """As the script calls it: answers on standard output, and never a word of anything that goes wrong."""
    asked = {"COMP_WORDS": "infs stop s", "COMP_CWORD": "2", VARIABLE: "bash_complete"}
    done = run(cwd=folder, env=environment(**asked))
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,small\n", "")
    (folder / "infs.toml").write_text("broken")
    for odd in ({**asked, "COMP_CWORD": "x"}, {**asked, "COMP_WORDS": "infs stop 's"}):
        done = run(cwd=folder, env=environment(**odd))
        assert (done.stdout.strip(), done.stderr) == ("", "")


def test_completion_loads_nothing_heavy(folder: Path) -> None:
    from tests.cli.test_commands import HEAVY

    code = (
        "import atexit, sys\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print('loaded:', [name for name in heavy if name in sys.modules]))\n"
        "from infs.cli import main\n"
        "sys.argv = ['infs']\n"
        "main()\n"
    )
    asked = {"COMP_WORDS": "infs serve --set models.small.tt", "COMP_CWORD": "3", VARIABLE: "bash_complete"}
    done = run(
        cwd=folder, program=[sys.executable, "-c", code], env=environment(**asked) | {"PATH": os.environ["PATH"]}
    )
    assert done.stdout.splitlines() == ["plain,models.small.ttl=", "loaded: []"]
