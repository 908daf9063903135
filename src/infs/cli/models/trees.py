"""Trees as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

LINES = ("├── ", "│   ", "└── ", "    ")
PLAIN = ("+-- ", "|   ", "`-- ", "    ")


class Node(msgspec.Struct, kw_only=True):
    """A text, what is said of it, and what is below."""

    text: str
    said: str = ""
    below: list[Node] = []


def tree_lines(nodes: list[Node], *, drawn: tuple[str, str, str, str] = LINES) -> Iterator[str]:
    """The lines of `nodes`, those at the top without any branch."""
    for node in nodes:
        yield _line(node, "", top=True)
        yield from _below(node.below, "", drawn)


def _below(nodes: list[Node], before: str, drawn: tuple[str, str, str, str]) -> Iterator[str]:
    fork, bar, last, gap = drawn
    for node in nodes:
        ends = node is nodes[-1]
        yield _line(node, before + (last if ends else fork))
        yield from _below(node.below, before + (gap if ends else bar), drawn)


def _line(node: Node, before: str, *, top: bool = False) -> str:
    said = f"  {click.style(node.said, dim=True)}" if node.said else ""
    return f"{before}{click.style(node.text, bold=True) if top else node.text}{said}"


def print_tree(nodes: list[Node]) -> None:
    """Write `nodes` to standard output, with the lines that it can show."""
    for line in tree_lines(nodes, drawn=LINES if _can_show("".join(LINES)) else PLAIN):
        click.echo(line)


def _can_show(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
