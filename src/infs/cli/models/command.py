"""``infs models``: the files of models, listed, described, fetched and removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from infs.cli import options
from infs.cli.completing import complete_models, complete_target, silent
from infs.cli.failures import Command

if TYPE_CHECKING:
    from infs.cli.models.here import Here

EPILOG = """
\b
Examples:
  infs models list
  infs models show hf:org/repo:Q4_K_M
  infs models pull hf:org/repo:Q4_K_M --add small
  infs models prepare
  infs models remove --unused
"""

LIST_EPILOG = """
\b
Examples:
  infs models list
  infs models list 'hf:org/*' --view tree
  infs models list --view flat | grep Q4_K_M
  infs models list --unused
  infs models list --configured --json

\b
Exit status: 0 it was listed, 1 nothing fits to a pattern, 2 the call or the configuration is wrong.
"""

SHOW_EPILOG = """
\b
Examples:
  infs models show small
  infs models show ~/models/model.gguf --quick
  infs models show hf:org/repo:Q4_K_M --json
  infs models show hf:org/repo

\b
Exit status: 0 it is described, 1 there is no such model, or it is damaged, 2 the call is wrong, or means several.
"""

PREPARE_EPILOG = """
\b
Examples:
  infs models prepare
  infs models prepare small 'embed*' --jobs 2
  infs models prepare --config models.yaml

\b
Exit status: 0 all are here, 1 one could not be had (the others are here), 2 the call or the configuration is wrong,
130 Ctrl-C.
"""

PULL_EPILOG = """
\b
Examples:
  infs models pull hf:org/repo:Q4_K_M
  infs models pull hf:org/repo/file.gguf https://example.org/other.gguf
  infs models pull hf:org/repo:Q4_K_M --add
  infs models pull hf:org/repo:Q4_K_M --add small

\b
Exit status: 0 all are here, 1 one could not be had (the others are here), 2 the call is wrong, or the id is taken,
130 Ctrl-C.
"""

REMOVE_EPILOG = """
\b
Examples:
  infs models remove hf:org/repo:Q4_K_M
  infs models remove 'hf:org/*' --dry-run
  infs models remove --unused --yes
  infs models remove --partial

\b
Exit status: 0 it is removed, 1 nothing fits, something belongs to another tool, is being downloaded or cannot be
deleted, or the answer was no, 2 the call is wrong, or there is nobody to ask and no --yes.
"""

PATTERN = (
    "PATTERN is the id of a configured model, a reference as it is written in a configuration (hf: in front may be "
    "left out), or a repository; * stands for anything, ? for one character, [ab] for one of these."
)

settings = options.configuration(level="warning")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
jobs_option = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 64),
    default=4,
    metavar="N",
    help="How many models are fetched at the same time. [default: 4]",
)


@silent
def complete_known(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """References of what is in the caches, and ids."""
    from infs.store import Store

    references = [entry.reference for entry in Store().catalogue()]
    known = [CompletionItem(name) for name in references if name.startswith(incomplete)]
    return complete_models(ctx, param, incomplete) + known


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
def models() -> None:
    """List, describe, fetch and remove the files of models."""


@models.command(
    "list",
    cls=Command,
    epilog=LIST_EPILOG,
    help="List the models of the configuration, and what lies in the caches: of the Hugging Face hub, of infs, of "
    f"Ollama and of LM Studio.\n\n{PATTERN}",
)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_known)
@click.option(
    "--view",
    type=click.Choice(["tree", "flat"]),
    help="By sources, repositories, revisions and files; or a line for each file. [default: tree on a terminal]",
)
@click.option("--unused", is_flag=True, help="Only what no configured model uses.")
@click.option("--configured", is_flag=True, help="Only what configured models use.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all that is known of each.")
@settings
def list_(
    patterns: tuple[str, ...], view: str | None, unused: bool, configured: bool, as_json: bool, **said: Any
) -> None:
    """Read the command line, then list."""
    if unused and configured:
        raise click.UsageError("Give --unused or --configured, not both.")
    from infs.cli.models.listing import list_models

    list_models(_here(said), patterns, view=view, as_json=as_json, unused=unused, configured=configured)


@models.command(
    cls=Command,
    epilog=SHOW_EPILOG,
    help="Describe a model without loading it: what its files say, what the configuration says, and the memory that "
    "it would take. Of one that is not on this machine, say what the hub has.\n\nMODEL is the id of a configured "
    "model, a path, a URL, or a reference such as hf:org/repo:Q4_K_M.",
)
@click.argument("model", metavar="MODEL", shell_complete=complete_target)
@click.option(
    "--quick", is_flag=True, help="Estimate the memory by the file alone, without starting the engine for it."
)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as a JSON object.")
@settings
def show(model: str, quick: bool, as_json: bool, **said: Any) -> None:
    """Read the command line, then show."""
    from infs.cli.logs import logging_to_stderr
    from infs.cli.models.showing import show_model

    here = _here(said)
    with logging_to_stderr(here.config.log, quiet_failures=True):
        show_model(here, model, as_json=as_json, quick=quick)


@models.command(
    cls=Command,
    epilog=PREPARE_EPILOG,
    help="Download and check the files of configured models, so that nothing has to be fetched later.\n\nPATTERN is "
    "the id of a model, or what it has as url; * stands for anything. Without one, all models are prepared. A model "
    "that fails keeps no other from being fetched, and Ctrl-C keeps what came.",
)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_models)
@jobs_option
@quiet_option
@settings
def prepare(patterns: tuple[str, ...], jobs: int, quiet: bool, **said: Any) -> None:
    """Read the command line, then prepare."""
    from infs.cli.models.fetching import prepare_models

    prepare_models(_here(said), patterns, jobs=jobs, quiet=quiet)


@models.command(
    cls=Command,
    epilog=PULL_EPILOG,
    help="Download models that no configuration needs to know, and print where they are.\n\nREF is hf:org/repo:Q4_K_M, "
    "hf:org/repo/file.gguf or a URL. Ctrl-C keeps what came.",
)
@click.argument("references", nargs=-1, metavar="REF...")
@click.option(
    "--add",
    is_flag=False,
    flag_value="",
    metavar="[ID]",
    help="Add it to the configuration file (infs.toml, or that of --config) under this id, by default after its name.",
)
@jobs_option
@quiet_option
@settings
def pull(references: tuple[str, ...], add: str | None, jobs: int, quiet: bool, **said: Any) -> None:
    """Read the command line, then pull."""
    from infs.cli.models.fetching import pull_models
    from infs.config import DEFAULT_FILE
    from infs.store.source import is_url

    if add and is_url(add):  # what follows --add was no id
        references, add = (add, *references), ""
    if not references:
        raise click.UsageError("Name what to fetch, such as hf:org/repo:Q4_K_M.")
    file = options.named_file(said["config_file"], os.environ) or Path(DEFAULT_FILE)
    missing = add is not None and not file.exists()
    here = _here({**said, "config_file": None} if missing else said)
    pull_models(here, references, add=add, config_file=file, jobs=jobs, quiet=quiet)


@models.command(
    cls=Command,
    epilog=REMOVE_EPILOG,
    help="Delete models from the caches of the hub and of infs.\n\n"
    f"{PATTERN} With several conditions, what fits to all of them is removed. What belongs to Ollama or LM Studio, "
    "and files that are used in place, are never touched.",
)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_known)
@click.option("--unused", is_flag=True, help="What no configured model uses.")
@click.option("--partial", is_flag=True, help="What is left of downloads that have not ended.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@settings
def remove(patterns: tuple[str, ...], unused: bool, partial: bool, dry_run: bool, yes: bool, **said: Any) -> None:
    """Read the command line, then remove."""
    if not (patterns or unused or partial):
        raise click.UsageError("Name what to remove, or give --unused or --partial.")
    from infs.cli.models.removing import remove_models

    remove_models(_here(said), patterns, unused=unused, partial=partial, dry_run=dry_run, yes=yes)


def _here(said: dict[str, Any]) -> Here:
    """What there is on this machine, with the configuration that the options `said` name."""
    from infs.cli.models.here import Here
    from infs.cli.settings import CommandLine

    flags = {name: value for name, value in said.items() if name not in ("config_file", "assignments")}
    line = CommandLine(
        config_file=said["config_file"],
        assignments=said["assignments"],
        flags=flags,
        below=options.QUIET,
    )
    return Here(line, os.environ, Path.cwd())
