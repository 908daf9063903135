"""Tool-call dialects. A module here that has `DIALECTS` adds them; nothing else needs to know it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

from infs.chat.dialects.base import Dialect, Trigger
from infs.chat.parser import THINK, Thinking

__all__ = ["Dialect", "Trigger", "choose", "dialects"]

THOUGHTS = (
    THINK,
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<reasoning>", "</reasoning>"),
)
"""Marks of reasoning that templates of any dialect may have."""


def dialects() -> Iterator[Dialect]:
    """All dialects, by the names of their modules."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        yield from getattr(importlib.import_module(f"{__name__}.{module.name}"), "DIALECTS", ())


def choose(template_source: str | None) -> Dialect:
    """The dialect of a chat template: the one with the most marks that are all in it, if its calls have marks of
    their own, and else one whose calls are bare JSON.

    Its marks of reasoning are those of the template, where that has other known ones.
    """
    source = template_source or ""
    fitting = [dialect for dialect in dialects() if all(mark in source for mark in dialect.marks)]
    chosen = max(fitting, key=lambda dialect: (dialect.tells_from_json, len(dialect.marks)))
    if chosen.thinking.open in source:
        return chosen
    others = (marks for marks in THOUGHTS if marks.open in source and marks.close in source)
    return replace(chosen, thinking=next(others, chosen.thinking))
