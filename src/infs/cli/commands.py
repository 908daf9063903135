"""The command and what belongs to all of its subcommands."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr, suppress
from typing import NoReturn

import click

from infs.cli.bench import bench
from infs.cli.chat import chat
from infs.cli.completion import completion
from infs.cli.config import config
from infs.cli.doctor import doctor
from infs.cli.models.command import models
from infs.cli.ps import ps
from infs.cli.run import run
from infs.cli.serve import serve
from infs.cli.stop import stop
from infs.version import VERSION

EPILOG = """
\b
Examples:
  infs serve                              the demo model, on http://127.0.0.1:3000
  infs serve model.gguf --port 8080       a model of yours
  infs run "What is the capital of France?"
  infs chat hf:org/repo/file.gguf         downloaded once, then kept

\b
INFS_SERVER__PORT=8080 in the environment is server.port in the configuration; see docs/configuration.md.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="infs", message="%(prog)s %(version)s")
def infs() -> None:
    """Run AI models on your own machine: serve them over HTTP, ask once, or chat.

    Without a model, everything uses the small demo model that comes with infs. It needs no download.
    """


for command in (serve, run, chat, ps, stop, models, config, bench, doctor, completion):
    infs.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A model may say what an old terminal cannot show.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)  # Ctrl+Break is like Ctrl-C
    if "_INFS_COMPLETE" in os.environ:
        complete()
    infs(prog_name="infs")


def complete() -> NoReturn:
    """Answer a shell that completes a command; whatever goes wrong, it hears nothing."""
    with suppress(Exception), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        from click.shell_completion import add_completion_class

        from infs.cli.shells import PowerShellComplete

        add_completion_class(PowerShellComplete)
        infs(prog_name="infs")
    sys.exit(0)
