"""``infs run``: one prompt, one answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from infs.cli import options
from infs.cli.completing import complete_target
from infs.cli.failures import Command

EPILOG = """
\b
Examples:
  infs run "What is the capital of France?"
  infs run "Tell me a story." --model model.gguf --temperature 0.8 --seed 1
  infs run --model hf:org/repo/file.gguf --system "Answer in French." < question.txt
  infs run --raw "The quick brown" --max-tokens 20
  infs run "Count from 1 to 5." --json

\b
Exit status: 0 an answer came, 1 something failed, 2 the call is wrong, 130 Ctrl-C.
"""


@click.command(cls=Command, epilog=EPILOG)
@click.argument("prompt", required=False)
@click.option("--model", "-m", "target", metavar="MODEL|CONFIG", shell_complete=complete_target, help=options.MODEL)
@options.generation_settings()
@click.option("--raw", is_flag=True, help="Continue the prompt as text, instead of answering it as a chat.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON, at its end.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@options.model_settings()
@options.configuration(level="warning")
def run(
    prompt: str | None,
    target: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    raw: bool,
    as_json: bool,
    quiet: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **flags: Any,
) -> None:
    """Answer PROMPT, and write the answer to standard output as it comes.

    Without PROMPT, or with - in its place, the prompt is read from standard input.
    """
    from infs.cli.settings import CommandLine, read_settings

    if raw and system is not None:
        raise click.UsageError("--system is for chats; --raw continues a text.")
    text = _read_prompt(prompt)
    line = CommandLine(
        target=target,
        config_file=config_file,
        assignments=assignments,
        flags=flags,
        below=options.QUIET,
    )
    config = read_settings(line, os.environ, Path.cwd())
    settings = options.given(max_tokens=max_tokens, temperature=temperature, seed=seed)
    from infs.cli.running import answer_once

    answer_once(config, text, system=system, raw=raw, as_json=as_json, quiet=quiet, settings=settings)


def _read_prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError('There is no prompt: infs run "What is the capital of France?"')
    if prompt is None or prompt == "-":
        prompt = _read_stdin()
    if not prompt.strip():
        raise click.UsageError("The prompt is empty.")
    return prompt


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"Standard input is not UTF-8 text: {error}.") from error
