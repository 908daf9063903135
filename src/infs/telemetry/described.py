"""A metric in words, for the page that lists them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Described(NamedTuple):
    """A metric: `name` is the family's, to which a counter's samples add ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    labels: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The name that queries use; of a histogram that to which ``_bucket``, ``_sum`` and ``_count`` are added."""
        return f"{self.name}_total" if self.kind == "counter" else self.name
