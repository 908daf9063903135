"""Writes an answer while it comes, and keeps what was written."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from contextlib import closing

import click

from infs.cli.progress import View
from infs.types import Delta, Event, Progress, Result

# What would move the cursor, or do worse: a model's output is no program for the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Answer:
    """The text of one answer on standard output.

    On a terminal, control characters are left out, and the model's reasoning is shown, dimmed, before the answer.
    Elsewhere there is the answer and nothing else.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.text = ""
        self._silent = silent
        self._terminal = sys.stdout.isatty()
        self._open = False  # there is something on the current line
        self._reasoning = False

    def follow(self, events: Generator[Event], view: View) -> Result | None:
        """Write what comes out of `events`; gives the result. Leaving early cancels the request."""
        result = None
        try:
            with closing(events):
                for event in events:
                    if isinstance(event, Progress):
                        view.show(event)
                    elif isinstance(event, Delta):
                        view.close()
                        self._take(event)
                    elif isinstance(event, Result):
                        result = event
        finally:
            view.close()
        return result

    def end(self) -> None:
        """End the last line, if it is not ended."""
        if self._open:
            self._write("\n")

    def _take(self, delta: Delta) -> None:
        if delta.reasoning and self._terminal:
            self._reasoning = True
            self._write(delta.reasoning, dim=True)
        if delta.text:
            if self._reasoning:
                self._reasoning = False
                self._write("\n\n")
            self.text += delta.text
            self._write(delta.text)

    def _write(self, text: str, *, dim: bool = False) -> None:
        if self._silent:
            return
        shown = _CONTROL.sub("", text) if self._terminal else text
        if not shown:
            return
        self._open = not shown.endswith("\n")
        if dim:
            click.secho(shown, dim=True, nl=False)
        else:  # click would change it, where it looks like a style
            sys.stdout.write(shown)
            sys.stdout.flush()
