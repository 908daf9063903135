"""What a check finds, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

Level = Literal["ok", "note", "problem"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found.

    Attributes:
        level: it is as it should be; it could be better; or something does not work.
        area: what it is about, in a word or two.
        what: in one sentence.
        todo: what would make it better; empty where nothing needs to be done.
        facts: the same as data.
    """

    level: Level
    area: str
    what: str
    todo: str = ""
    facts: dict[str, Any] = {}


class Patient(msgspec.Struct, frozen=True, kw_only=True):
    """What checks look at.

    Attributes:
        offline: ask nothing of the network.
        timeout: seconds that each engine may take to start.
        url, api_key: of a running server, where they are said.
    """

    environ: Mapping[str, str]
    directory: Path
    config_file: Path | None = None
    url: str | None = None
    api_key: str | None = None
    offline: bool = False
    timeout: float = 60.0


Check = Callable[[Patient], list[Finding]]


def ok(area: str, what: str, **facts: Any) -> Finding:
    """It is as it should be."""
    return Finding(level="ok", area=area, what=what, facts=facts)


def note(area: str, what: str, todo: str, **facts: Any) -> Finding:
    """It could be better."""
    return Finding(level="note", area=area, what=what, todo=todo, facts=facts)


def problem(area: str, what: str, todo: str, **facts: Any) -> Finding:
    """Something does not work."""
    return Finding(level="problem", area=area, what=what, todo=todo, facts=facts)
