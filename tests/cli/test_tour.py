"""The tour in the docs: what it shows is there, and still comes out that way."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from infs.cli.commands import infs
from tests.cli.tour import STEPS, commands_of, outputs_of, shape, take

PAGE = Path(__file__).parents[2] / "docs" / "cli-tour.md"
COMMANDS = [step.command for step in STEPS if step.command]


def test_page_shows_these_commands() -> None:
    assert commands_of(PAGE.read_text(encoding="utf-8")) == COMMANDS, "python -m tests.cli.tour > docs/cli-tour.md"


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("--")])
def test_commands_are_understood(command: str) -> None:
    """Each by the command that it names, options and arguments included."""
    found: click.Command | None = infs
    words = shlex.split(command)
    context = click.Context(infs)
    while isinstance(found, click.Group):
        name, found, words = found.resolve_command(context, words)
    assert found is not None
    assert found.make_context(name, words, parent=context).command is found


@pytest.mark.slow
def test_commands_run_and_say_what_the_page_says() -> None:
    shown = [one for one in take() if one.step.command]
    assert [(one.step.command, one.output) for one in shown if one.status != 0] == []
    said = outputs_of(PAGE.read_text(encoding="utf-8"))
    for one, output in zip(shown, said, strict=True):
        if not one.step.varying:
            assert shape(one.output) == shape(output), one.step.command
