"""How a command ends when something goes wrong: one line on standard error, and a status that programs can use.

2 says that the call or the configuration is wrong, 1 that something failed, 130 that Ctrl-C ended it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from infs.errors import ConfigError, EngineNotFound, InfsError, RequestError

INTERRUPTED = 130


class Failed(click.ClickException):
    """Something failed: the one line that a person reads."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class WrongCall(Failed):
    """The call or the configuration is wrong, in one line."""

    exit_code = 2


class Command(click.Command):
    """A command whose errors never show a traceback; ``--log-level debug`` logs it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)
        except InfsError as error:
            raise failure_of(error) from error
        except Exception as error:
            if _nobody_reads(error):
                _drop_output()
                ctx.exit(0)
            raise Failed(_unexpected(error)) from error


def failure_of(error: InfsError) -> Failed:
    """How a command ends with `error`."""
    wrong = isinstance(error, ConfigError | EngineNotFound | RequestError)
    return WrongCall(error.message) if wrong else Failed(error.message)


def _unexpected(error: Exception) -> str:
    said = str(error) or "no details"
    return f"Unexpected {type(error).__name__}: {said} (--log-level debug logs where it comes from)"


def _nobody_reads(error: Exception) -> bool:
    """Whether the reader of standard output went away, as ``| head`` does. Windows says so with EINVAL."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and getattr(error, "errno", None) == 22)


def _drop_output() -> None:
    """Let the interpreter flush what is left at its end without another error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
