"""Completion in shells: click knows bash, zsh and fish; PowerShell is added here."""

from __future__ import annotations

import os

from click import Command
from click.shell_completion import BashComplete, CompletionItem, ShellComplete, get_completion_class, split_arg_string

PROGRAM = "infs"
VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $env:%(complete_var)s = "powershell_complete"
    $env:COMP_WORDS = $commandAst.ToString()
    $env:COMP_CWORD = $wordToComplete
    %(prog_name)s | ForEach-Object {
        $type, $value, $help = $_ -split "`t", 3
        if ($type -eq "plain") {
            [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
        }
    }
    Remove-Item Env:%(complete_var)s, Env:COMP_WORDS, Env:COMP_CWORD
}
"""


class PowerShellComplete(ShellComplete):
    """A line for each completion: type, value and help with tabs between them. Without a line, it offers files."""

    name = "powershell"
    source_template = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is being typed, and that one."""
        words = split_arg_string(os.environ["COMP_WORDS"])[1:]
        incomplete = os.environ.get("COMP_CWORD", "")
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """One line; PowerShell wants a help text that is not empty."""
        said = " ".join((item.help or item.value or "-").split())
        return f"{item.type}\t{item.value}\t{said}"


class QuietBash(BashComplete):
    """Without a look at which bash is installed here: the script may be for another machine."""

    @staticmethod
    def _check_version() -> None:
        return


def script_for(shell: str, command: Command) -> str:
    """The script that has `shell` complete `command`, which is the program."""
    known = {"bash": QuietBash, "powershell": PowerShellComplete}.get(shell) or get_completion_class(shell)
    assert known is not None
    return known(command, {}, PROGRAM, VARIABLE).source()
