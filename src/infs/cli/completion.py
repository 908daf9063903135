"""``infs completion``: the script with which a shell completes ``infs``."""

from __future__ import annotations

import click

from infs.cli.failures import Command

SHELLS = ("bash", "zsh", "fish", "powershell")

EPILOG = """
\b
Examples:
  infs completion bash > ~/.local/share/bash-completion/completions/infs
  infs completion zsh > ~/.zfunc/_infs          with fpath+=~/.zfunc before compinit in ~/.zshrc
  infs completion fish > ~/.config/fish/completions/infs.fish
  infs completion powershell >> $PROFILE

\b
Bash must be 4.4 or newer; that of macOS is older.
"""


@click.command(cls=Command, epilog=EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, models and keys of the configuration.

    A new shell then knows it.
    """
    from infs.cli.shells import script_for

    click.echo(script_for(shell, ctx.find_root().command))
