"""``infs stop``: unloads models on a running server."""

from __future__ import annotations

import os
from pathlib import Path

import click

from infs.cli import options
from infs.cli.completing import complete_models
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs stop small
  infs stop small large --now
  infs stop --all

\b
Exit status: 0 they are unloaded, 1 no server answers, 2 the call is wrong.
"""


@click.command(cls=Command, epilog=EPILOG)
@click.argument("models", nargs=-1, metavar="MODEL...", shell_complete=complete_models)
@click.option("--all", "everything", is_flag=True, help="Unload all that is loaded.")
@click.option("--now", is_flag=True, help="End their running requests, instead of waiting for them.")
@options.running_server()
def stop(
    models: tuple[str, ...],
    everything: bool,
    now: bool,
    url: str | None,
    api_key: str | None,
    config_file: Path | None,
) -> None:
    """Unload models on a running server, once their running requests have ended.

    Requests that come later load them again.
    """
    from infs.cli.remote import find_place
    from infs.cli.stopping import stop_models

    if everything == bool(models):
        raise click.UsageError("Name the models to unload, or give --all.")
    stop_models(find_place(url, api_key, config_file, os.environ, Path.cwd()), models, now=now)
