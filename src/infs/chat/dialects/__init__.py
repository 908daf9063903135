"""Tool-call dialects, one module each. A module here that has a `DIALECT` is one; nothing else needs to know it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from infs.chat.dialects.base import Dialect

__all__ = ["Dialect", "choose", "dialects"]


def dialects() -> Iterator[Dialect]:
    """All dialects, by the names of their modules."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        dialect = getattr(importlib.import_module(f"{__name__}.{module.name}"), "DIALECT", None)
        if isinstance(dialect, Dialect):
            yield dialect


def choose(template_source: str | None) -> Dialect:
    """The dialect of a chat template: the one with the most marks that are all in it."""
    source = template_source or ""
    fitting = [dialect for dialect in dialects() if all(mark in source for mark in dialect.marks)]
    return max(fitting, key=lambda dialect: len(dialect.marks))
