"""``infs ps``: what a running server has loaded."""

from __future__ import annotations

import os
from pathlib import Path

import click

from infs.cli import options
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs ps
  infs ps --watch
  infs ps --url http://192.168.1.5:3000 --api-key secret
  infs ps --json

\b
Exit status: 0 the server said it, 1 no server answers, 2 the call is wrong.
"""


@click.command(cls=Command, epilog=EPILOG)
@options.running_server()
@click.option("--json", "as_json", is_flag=True, help="Print all that the server says of itself, as JSON.")
@click.option("--watch", "-w", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    metavar="SECONDS",
    help="How often to look, with --watch. [default: 1]",
)
def ps(
    url: str | None, api_key: str | None, config_file: Path | None, as_json: bool, watch: bool, interval: float
) -> None:
    """Show what a running server has loaded: instances, requests, memory, and how loading and downloads go on."""
    from infs.cli.listing import list_once, watch_list
    from infs.cli.remote import find_place

    place = find_place(url, api_key, config_file, os.environ, Path.cwd())
    if watch:
        watch_list(place, interval, as_json=as_json)
    else:
        list_once(place, as_json=as_json)
