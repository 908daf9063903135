"""The command and what belongs to all of its subcommands."""

from __future__ import annotations

import signal
import sys

import click

from infs.cli.chat import chat
from infs.cli.run import run
from infs.cli.serve import serve
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


for command in (serve, run, chat):
    infs.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A model may say what an old terminal cannot show.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.default_int_handler)  # Ctrl+Break is like Ctrl-C
    infs(prog_name="infs")
