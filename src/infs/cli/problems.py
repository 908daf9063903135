"""Collects what is wrong, so that the first mistake hides no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from infs.errors import ConfigError, EngineNotFound, InfsError, MissingExtra

P = ParamSpec("P")
T = TypeVar("T")


class Problems:
    """Problems of a configuration, each once and in one line."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def trying(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `work` gives; ``None`` if it complains, which is one of the problems then."""
        try:
            return work(*args, **kwargs)
        except (ConfigError, EngineNotFound, MissingExtra) as error:
            self._add(error)
            return None

    def none_in(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether `work` does not complain; if it does, that is one of the problems."""
        return self.trying(lambda: (work(*args, **kwargs), True)) is not None

    def _add(self, error: InfsError) -> None:
        said = " ".join(error.message.split())
        if said not in self.found:
            self.found.append(said)
