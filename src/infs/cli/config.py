"""``infs config``: the configuration, checked, described, begun and shown."""

from __future__ import annotations

import os
from pathlib import Path

import click

from infs.cli import options
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs config init
  infs config check
  infs config show --changed
  infs config schema > infs.schema.json
"""

CHECK_EPILOG = """
\b
Examples:
  infs config check
  infs config check models.yaml
  infs config check --set models.small.ttl=60

\b
Exit status: 0 all is well, 2 something is wrong.
"""

SCHEMA_EPILOG = """
\b
Examples:
  infs config schema > infs.schema.json

\b
First lines by which editors find it, in TOML and in YAML:
  #:schema ./infs.schema.json
  # yaml-language-server: $schema=./infs.schema.json
"""

INIT_EPILOG = """
\b
Examples:
  infs config init
  infs config init --model hf:org/repo:Q4_K_M
  infs config init /etc/infs.toml --model small=/models/small.gguf --model hf:org/large
"""

SHOW_EPILOG = """
\b
Examples:
  infs config show
  infs config show models.yaml --set server.port=8080
  infs config show --changed --json
"""

FILE = "FILE is a configuration file (.toml, .yaml, .yml or .json); by default infs.toml in the working directory."
file_argument = click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
def config() -> None:
    """Check, describe, begin and show the configuration."""


@config.command(
    cls=Command,
    epilog=CHECK_EPILOG,
    help=f"Say everything that is wrong with the configuration, or what it was understood as.\n\n{FILE} The "
    "environment (INFS_SERVER__PORT) and --set are checked with it. Nothing is loaded or downloaded.",
)
@file_argument
@options.assignments()
@click.pass_context
def check(ctx: click.Context, file: Path | None, assignments: tuple[str, ...]) -> None:
    """Read the command line, then check."""
    from infs.cli.checking import check_config
    from infs.cli.reports import print_report

    report = check_config(options.named_file(file, os.environ), os.environ, assignments, Path.cwd())
    print_report(report)
    if report.problems:
        ctx.exit(2)


@config.command(cls=Command, epilog=SCHEMA_EPILOG)
def schema() -> None:
    """Print the JSON Schema of the configuration, which editors complete and check files by."""
    import json

    from infs.cli.schemas import config_schema

    click.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@config.command(
    cls=Command,
    epilog=INIT_EPILOG,
    help="Write a configuration file in which every key is explained.\n\nFILE ends in .toml; by default it is "
    "infs.toml in the working directory. On a terminal, what is not said is asked for.",
)
@file_argument
@click.option(
    "--model",
    "-m",
    "models",
    multiple=True,
    metavar="[ID=]MODEL",
    help="A model to write down: a path or URL, or one with an id in front. May be given many times.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path | None, models: tuple[str, ...], force: bool) -> None:
    """Read the command line, then write."""
    from infs.cli.starting import write_first

    write_first(file or Path("infs.toml"), models, force=force)


@config.command(
    cls=Command,
    epilog=SHOW_EPILOG,
    help=f"Show what holds, and where each value comes from: default, file, environment or flag.\n\n{FILE} Keys, "
    "tokens and passwords are not shown.",
)
@file_argument
@options.assignments()
@click.option("--changed", is_flag=True, help="Leave out what is as by default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the value and the source of each key.")
def show(file: Path | None, assignments: tuple[str, ...], changed: bool, as_json: bool) -> None:
    """Read the command line, then show."""
    from infs.cli.effective import print_effective

    named = options.named_file(file, os.environ)
    print_effective(named, os.environ, assignments, Path.cwd(), changed=changed, as_json=as_json)
