"""Rows and columns: aligned text anywhere, with some style on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from rich.table import Table as RichTable

GAP = "  "
STYLES = {"ready": "green", "loading": "yellow", "problem": "red", "note": "yellow", "ok": "green"}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Texts in rows below a header. Columns whose name is in `right` are aligned there."""

    header: list[str]
    rows: list[list[str]]
    right: Sequence[str] = ()


def plain_lines(table: Table) -> list[str]:
    """The lines of `table` without any style, none of them cut."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [name in table.right for name in table.header]
    return [
        GAP.join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def rich_table(table: Table) -> RichTable:
    """`table` for a terminal: what does not fit is wrapped, and words that say a state have its colour."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in table.header:
        shown.add_column(name, justify="right" if name in table.right else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
    return shown


def show(table: Table) -> None:
    """Write `table` to standard output."""
    if not sys.stdout.isatty():
        click.echo("\n".join(plain_lines(table)))
        return
    from rich.console import Console

    Console().print(rich_table(table))
