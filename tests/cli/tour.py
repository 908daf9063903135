"""Writes docs/cli-tour.md by running what it shows: ``python -m tests.cli.tour > docs/cli-tour.md``.

Paths, ports and versions of the machine are replaced, so that the page says the same wherever it is written.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from msgspec import Struct

from infs.demo import MODEL_FILE
from infs.version import VERSION
from tests.cli.programs import environment, run, serving
from tests.store.servers import hub_serving
from tests.store.servers import serving as web_serving

HEAD = """\
# A tour of the command line

Everything here was run as it stands: `python -m tests.cli.tour > docs/cli-tour.md` writes this page anew. Figures are
those of the machine that did. [cli.md](cli.md) has all commands with all of their options.
"""

SERVE = "serve"


class Step(Struct, frozen=True):
    """Something to say, and a command. What a `varying` one prints depends on the machine."""

    text: str
    command: str = ""
    varying: bool = False


STEPS = (
    Step("## Ask\n\nThe demo model comes with infs, so nothing has to be set up.", "--version"),
    Step(
        "Progress goes to standard error, and the answer to standard output.",
        'run "What is the capital of France?"',
    ),
    Step("In a terminal, `infs chat` is a conversation. As data, an answer has all that is known of it.", ""),
    Step("", 'run "Count from 1 to 5." --json --quiet --max-tokens 12'),
    Step("## Configure\n\nA first configuration explains itself.", "config init --model small=models/small.gguf"),
    Step("What is wrong with it, or what it was understood as:", "config check"),
    Step("Which values hold, and where they come from:", "config show --changed --set models.small.ttl=60"),
    Step(
        "## Look after the files\n\nModels are fetched by the server when somebody asks for them, or before.",
        "models pull hf:org/tiny:Q8_0 --quiet",
    ),
    Step("What is there, of the configuration and in the caches of all tools:", "models list --view tree"),
    Step("What the header of a file says, and the memory that the model would take:", "models show small --quick"),
    Step("What no model of the configuration uses can go.", "models remove --unused --yes"),
    Step("## Serve\n\nThe server says where it is, and how to ask it.", SERVE),
    Step("In another terminal, once somebody has asked the model:", "ps"),
    Step("`infs ps --watch` goes on showing that. A model is unloaded by hand, or when nobody needs it.", "stop small"),
    Step("## Measure", "bench --prompt-tokens 64,256 --streams 1,4 --tokens 32 --rounds 2 --quiet", varying=True),
    Step("## Look for what is wrong", "doctor --offline", varying=True),
)


class Shown(Struct, frozen=True, kw_only=True):
    """A command as it was run: its exit status, and what it printed."""

    step: Step
    status: int
    output: str


def take() -> Iterator[Shown]:
    """Run all commands, one after the other, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        project = Path(folder).resolve()
        (project / "models").mkdir()
        shutil.copy(MODEL_FILE, project / "models" / "small.gguf")
        env = _environment(project)
        for_models = env | {"HOME": str(project), "HF_ENDPOINT": stack.enter_context(_hub())}
        for step in STEPS:
            if step.command == SERVE:
                program, url = stack.enter_context(serving(cwd=project, env=env))
                program.out.until("Ctrl-C stops it.")
                env["INFS_URL"] = url
                yield Shown(step=step, status=0, output=_plain("\n".join(program.out.all), project))
                _ask(url)
            elif step.command:
                words = shlex.split(step.command)
                done = run(*words, cwd=project, env=for_models if words[0] == "models" else env)
                yield Shown(step=step, status=done.returncode, output=_plain(done.stderr + done.stdout, project))
            else:
                yield Shown(step=step, status=0, output="")


def _environment(project: Path) -> dict[str, str]:
    """An environment in which all caches are in the folder too, and nothing of the machine's user counts."""
    dropped = ("HF_", "CUDA_", "OMP_", "SSL_", "OTEL_", "LLAMA_", "GGML_")
    env = {name: value for name, value in environment().items() if not name.upper().startswith(dropped)}
    return env | {"XDG_CACHE_HOME": str(project / ".cache"), "HF_HOME": str(project / ".cache" / "huggingface")}


@contextmanager
def _hub() -> Iterator[str]:
    """Where a hub is that has the demo model under another name."""
    with web_serving() as web, hub_serving(web) as hub:
        hub.put("org/tiny", "tiny-Q8_0.gguf", MODEL_FILE.read_bytes())
        yield hub.url


def _ask(url: str) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status()


# --- the page -------------------------------------------------------------------------------------------------


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(shown) for shown in take())])


def _section(shown: Shown) -> str:
    parts = [f"{shown.step.text}\n"] if shown.step.text else []
    if shown.step.command:
        parts.append(f"```console\n$ infs {shown.step.command}\n{shown.output}\n```\n")
    return "\n".join(parts)


def commands_of(text: str) -> list[str]:
    """The commands that a page shows."""
    return re.findall(r"^\$ infs (.*)$", text, re.MULTILINE)


def outputs_of(text: str) -> list[str]:
    """What they print."""
    return re.findall(r"^```console\n\$ infs .*\n((?:.*\n)*?)```$", text, re.MULTILINE)


def shape(output: str) -> str:
    """`output` without what changes from run to run: figures, and the widths of columns that follow from them."""
    return re.sub(r"[ -]+", " ", re.sub(r"\d+(?:\.\d+)*", "0", output)).strip()


def _plain(output: str, project: Path) -> str:
    """`output` without what is only true of this machine."""
    for found, shown in (
        (str(MODEL_FILE), "~/venv/lib/infs/demo/demo.gguf"),
        (str(project), "~/project"),
        (sys.executable, "~/venv/bin/python"),
        (os.sep, "/") if os.sep != "/" else ("", ""),
    ):
        output = _replaced(output, found, shown) if found else output
    output = re.sub(r"(http://127\.0\.0\.1):\d+", r"\1:3000", output)
    output = re.sub(r"\b(Linux|Darwin|Windows) [\w.+-]+", r"\1", output)
    output = re.sub(r"~/project/\.cache", "~/.cache", output)
    output = re.sub(r'"id":"[\w-]+"', '"id":"..."', output)
    return "\n".join(line.rstrip() for line in output.replace(VERSION, "0.1.0").splitlines()).strip()


def _replaced(output: str, found: str, shown: str) -> str:
    """`output` with `shown` in the place of `found`; columns behind it stay where they are."""
    spare = " " * max(0, len(found) - len(shown))
    return re.sub(
        rf"{re.escape(found)}(\S*)(  +(?=\S))?",
        lambda match: f"{shown}{match[1]}{match[2] + spare if match[2] else ''}",
        output,
    )


if __name__ == "__main__":
    print(page(), end="")
