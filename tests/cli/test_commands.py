"""What the commands say of themselves, and how they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infs.cli.commands import infs
from infs.cli.document import page
from infs.cli.failures import Command, failure_of
from infs.errors import ConfigError, EngineNotFound, InfsError, InvalidRequest, LoadFailed, MissingExtra
from infs.version import VERSION
from tests.cli.programs import environment, one_line, run


def commands(group: click.Command, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """`group` and all that is below it, by the words that call them."""
    below = group.commands if isinstance(group, click.Group) else {}
    inner = [commands(command, (*words, name)) for name, command in below.items()]
    return {words: group} | {key: value for one in inner for key, value in one.items()}


DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = ("serve", "run", "chat")
ALL = tuple(commands(infs))
HEAVY = ("rich", "httpx", "uvicorn", "starlette", "yaml", "huggingface_hub", "llama_cpp", "numpy", "jinja2")


@pytest.mark.parametrize("args", ALL)
def test_help_teaches(args: tuple[str, ...]) -> None:
    result = CliRunner().invoke(infs, [*args, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"infs {' '.join(args)}" in result.output


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded:', [name for name in {HEAVY!r} if name in sys.modules]))\n"
        "from infs.cli import main\n"
        "sys.argv = ['infs', 'serve', '--help']\n"
        "main()\n"
    )
    done = run(cwd=tmp_path, program=[sys.executable, "-c", code])
    assert done.returncode == 0
    assert "loaded: []" in done.stdout


def test_version(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"infs {VERSION}\n")


def test_installed_command_is_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("infs.exe" if sys.platform == "win32" else "infs")
    done = subprocess.run([script, "--version"], cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"infs {VERSION}"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("serv",), "No such command 'serv'"),
        (("serve", "--prot", "1"), "No such option"),
        (("serve", "--port", "65536"), "65536 is not in the range"),
        (("serve", "--max-sequences", "0"), "0 is not in the range"),
        (("serve", "--log-level", "loud"), "'loud' is not one of"),
        (("serve", "a", "b"), "Got unexpected extra argument (b)"),
        (("run", "--temperature", "-1", "x"), "-1.0 is not in the range"),
        (("run", "--system", "x", "--raw", "y"), "--system is for chats; --raw continues a text."),
        (("run", " "), "The prompt is empty."),
        (("run",), "The prompt is empty."),
        (("run", "-"), "The prompt is empty."),
    ],
)
def test_wrong_calls(args: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(infs, args)
    assert result.exit_code == 2
    assert said in result.output


def test_prompt_must_be_text() -> None:
    result = CliRunner().invoke(infs, ["run"], input=b"\xff\xfe\x00")
    assert result.exit_code == 2
    assert "Standard input is not UTF-8 text" in result.output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server.prot = 1", "unknown key 'server.prot'; did you mean 'port'?"),
        ("models.a.ttl = 1", "models.a needs a url or a file."),
        ("models.a = { file = '/x', engine = 'lama-cpp' }", "There is no engine 'lama-cpp'; there are: "),
        ("models.a = { file = '/x.gguf', options.batch = 1 }", "models.a.options.batch"),
        ("models.a.file = '../x'", "models.a.file = '../x' leads out of the cache"),
        ("models.a.url = 'nothing'", "models.a.url = 'nothing' is not a URL that infs can fetch"),
    ],
)
def test_wrong_configuration_ends_every_command(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    args = [name, *(["x"] if name == "run" else []), "--config", str(tmp_path / "c.toml")]
    result = CliRunner().invoke(infs, args)
    assert result.exit_code == 2
    assert said in one_line(result.stderr)


@pytest.mark.parametrize("name", ["run", "chat"])
def test_several_models_ask_for_a_choice(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.toml").write_text("models.a.file = '/a'\nmodels.b.file = '/b'")
    args = [name, *(["x"] if name == "run" else []), "--config", str(tmp_path / "c.toml")]
    result = CliRunner().invoke(infs, args)
    assert result.exit_code == 2
    assert "several models; name one of: a, b." in one_line(result.stderr)


@pytest.mark.parametrize("name", ["serve", "run", "chat"])
def test_missing_extra_is_said_at_the_start(tmp_path: Path, name: str) -> None:
    code = (
        "import sys\n"
        "sys.modules['llama_cpp'] = None\n"
        "from infs.cli import main\n"
        f"sys.argv = ['infs', {name!r}, {'x' if name == 'run' else 'demo'!r}]\n"
        "main()\n"
    )
    done = run(cwd=tmp_path, program=[sys.executable, "-c", code])
    assert done.returncode == 1
    assert 'llama_cpp, which is not installed: pip install "infs[llama-cpp]"' in one_line(done.stderr)


# --- how errors end a command


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 2),
        (EngineNotFound("x"), 2),
        (InvalidRequest("x"), 2),
        (MissingExtra("x"), 1),
        (LoadFailed("x"), 1),
        (InfsError("x"), 1),
    ],
)
def test_status_tells_wrong_calls_from_failures(error: InfsError, status: int) -> None:
    assert failure_of(error).exit_code == status


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (LoadFailed("line one\n  line two"), 1, "Error: line one line two\n"),
        (ZeroDivisionError("by zero"), 1, "Error: Unexpected ZeroDivisionError: by zero (--log-level debug logs"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_errors_never_show_a_traceback(error: BaseException, status: int, said: str) -> None:
    @click.command(cls=Command)
    def fails() -> None:
        raise error

    result = CliRunner().invoke(fails)
    assert result.exit_code == status
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.output


# --- the page


def test_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(infs, "infs"), "python -m infs.cli.document > docs/cli.md"


def test_every_option_has_help() -> None:
    for words, command in commands(infs).items():
        for param in command.params:
            assert not isinstance(param, click.Option) or param.help, (words, param.name)
