"""``infs bench``: how fast a model is on this machine."""

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
  infs bench
  infs bench model.gguf --streams 1,8,32 --max-sequences 32
  infs bench hf:org/repo:Q4_K_M --prompt-tokens 512,4096 --rounds 5 --json

\b
Exit status: 0 it was measured, 1 something failed, 2 the call is wrong, 130 Ctrl-C.
"""

HELP = f"""
Measure a model on this machine: load time, memory, and tokens per second of prompts and answers.

{options.MODEL}

Everything is measured through the server, as requests see it. No prompt has a beginning that is cached. Nothing else
should run on the machine meanwhile; where medians are far behind the best rounds, something did.
"""


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """``"1,4,8"`` as a tuple, each once and in order."""
    try:
        found = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 1,4,8.") from error
    if found[0] < 1:
        raise click.BadParameter(f"{found[0]} is below 1.")
    return found


@click.command(cls=Command, help=HELP, epilog=EPILOG)
@click.argument("target", required=False, metavar="[MODEL|CONFIG]", shell_complete=complete_target)
@click.option(
    "--streams",
    callback=numbers,
    default="1,4,8",
    metavar="N,N,...",
    help="How many answers are generated side by side. [default: 1,4,8]",
)
@click.option(
    "--prompt-tokens",
    callback=numbers,
    default="128,512,2048",
    metavar="N,N,...",
    help="Lengths of prompts. [default: 128,512,2048]",
)
@click.option(
    "--tokens",
    type=options.positive,
    default=128,
    metavar="N",
    help="Length of each answer. [default: 128]",
)
@click.option(
    "--rounds", type=options.positive, default=3, metavar="N", help="How often each is measured. [default: 3]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@options.model_settings()
@options.max_sequences()
@options.configuration(level="warning")
def bench(
    target: str | None,
    streams: tuple[int, ...],
    prompt_tokens: tuple[int, ...],
    tokens: int,
    rounds: int,
    as_json: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **flags: Any,
) -> None:
    """Read the command line, then measure."""
    from infs.cli.benching import Plan, bench_model
    from infs.cli.settings import CommandLine, read_settings

    line = CommandLine(
        target=target,
        config_file=config_file,
        assignments=assignments,
        flags=flags,
        below=options.QUIET,
    )
    plan = Plan(streams=streams, prompts=prompt_tokens, tokens=tokens, rounds=rounds)
    bench_model(read_settings(line, os.environ, Path.cwd()), plan, as_json=as_json, quiet=quiet)
