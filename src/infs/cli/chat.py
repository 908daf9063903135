"""``infs chat``: a conversation in the terminal."""

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
  infs chat
  infs chat model.gguf --system "You are a pirate."
  infs chat hf:org/repo/file.gguf --temperature 0.7

\b
While you chat:
  /reset           forget the conversation
  /system TEXT     tell the model TEXT before everything else, and start anew
  /help            show this
  /exit            leave, as Ctrl-D does
  Ctrl-C           stop the answer; once more, leave
"""


HELP = f"""
Chat with a model in the terminal.

{options.MODEL}
"""


@click.command(cls=Command, help=HELP, epilog=EPILOG)
@click.argument("target", required=False, metavar="[MODEL|CONFIG]", shell_complete=complete_target)
@options.generation_settings()
@options.model_settings()
@options.configuration(level="warning")
def chat(
    target: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **flags: Any,
) -> None:
    """Read the command line, then chat."""
    from infs.cli.chatting import Chat
    from infs.cli.settings import CommandLine, read_settings

    line = CommandLine(
        target=target,
        config_file=config_file,
        assignments=assignments,
        flags=flags,
        below=options.QUIET,
    )
    config = read_settings(line, os.environ, Path.cwd())
    settings = options.given(max_tokens=max_tokens, temperature=temperature, seed=seed)
    Chat(config, system=system, settings=settings).run()
