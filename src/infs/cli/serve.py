"""``infs serve``: the HTTP server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from infs.cli import options
from infs.cli.completing import complete_target
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs serve                                        the demo model, or what infs.toml says
  infs serve model.gguf --port 8080 --context-size 4096
  infs serve hf:org/repo/file.gguf --model-id small
  infs serve models.yaml --api-key secret --host 0.0.0.0
  infs serve --set models.demo.ttl=60 --log-format json

\b
Ctrl-C, or SIGTERM, lets running requests finish; once more ends them. SIGHUP reads the configuration again, as
POST /admin/reload does: models are added, changed and removed, and the others do not notice.
Exit status: 0 it was stopped, 1 something failed, 2 the call or the configuration is wrong.
"""


HELP = f"""
Serve models over HTTP, with the API of OpenAI.

{options.MODEL}

Flags beat the environment (INFS_SERVER__PORT=8080), which beats the configuration file.
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG)
@click.argument("target", required=False, metavar="[MODEL|CONFIG]", shell_complete=complete_target)
@click.option("--host", "server__host", metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
@click.option(
    "--port",
    "server__port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Where to listen; 0 takes a free port. [default: 3000]",
)
@click.option(
    "--api-key",
    "server__api_keys",
    multiple=True,
    metavar="KEY",
    help="Want this key of every request. May be given many times. Others on this machine can read it here; "
    "a configuration file or INFS_SERVER__API_KEYS keeps it to itself.",
)
@click.option("--model-id", metavar="ID", help="What requests call the model. [default: by the name of its file]")
@options.model_settings()
@options.max_sequences()
@click.option(
    "--ttl",
    "model__ttl",
    type=click.FloatRange(min=0.0),
    metavar="SECONDS",
    help="How long an idle model stays loaded. [default: 300]",
)
@click.option(
    "--max-memory",
    "max_memory",
    metavar="SIZE",
    help="Main memory that all loaded models together may take, such as 8GB or 80%. "
    "[default: what the machine has free]",
)
@options.configuration(level="info")
def serve(
    target: str | None,
    model_id: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **flags: Any,
) -> None:
    """Read the command line, then serve."""
    from infs.cli.serving import serve_config
    from infs.cli.settings import CommandLine, read_settings

    line = CommandLine(target=target, config_file=config_file, assignments=assignments, flags=flags, model_id=model_id)
    serve_config(lambda: read_settings(line, os.environ, Path.cwd()))
