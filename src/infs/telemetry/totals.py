"""Totals of what engines count, which go on when an instance, and its counters with it, is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from infs.status import InstanceStatus, ModelStatus

ENGINE = ("steps", "preemptions", "guessed_tokens", "accepted_tokens")
TIER = ("hits", "misses", "stored", "evicted", "dropped", "restored", "corrupt", "errors")

Key = tuple[str, ...]


class Totals:
    """Adds up what all instances that a model ever had have counted, as far as was seen.

    What an instance counted between the last look at it and its end is not known.
    """

    def __init__(self) -> None:
        self._gone: dict[str, Counter[Key]] = {}
        self._there: dict[str, dict[int, dict[Key, float]]] = {}

    def update(self, models: Mapping[str, ModelStatus]) -> None:
        """Look at the instances that there are. Models that are not among `models` are forgotten."""
        self._gone = {name: self._gone.get(name, Counter()) for name in models}
        self._there = {name: self._seen(name, model) for name, model in models.items()}

    def _seen(self, name: str, model: ModelStatus) -> dict[int, dict[Key, float]]:
        before = self._there.get(name, {})
        # An instance that is busy or about to end says nothing: what it said last holds.
        now = {one.number: {**before.get(one.number, {}), **dict(_counted(one))} for one in model.instances}
        for number in before.keys() - now.keys():
            self._gone[name].update(before[number])
        return now

    def of(self, model: str) -> dict[Key, float]:
        """What was counted for `model`: ``(name,)`` of an engine's counter, ``(tier, name)`` of a tier's."""
        total: Counter[Key] = Counter(self._gone.get(model, {}))
        for counted in self._there.get(model, {}).values():
            total.update(counted)
        return dict(total)


def tiers(instance: InstanceStatus) -> dict[str, dict[str, Any]]:
    """What the tiers of an instance's cache say, by their names."""
    found = instance.engine.get("tiers")
    return (
        {str(name): tier for name, tier in found.items() if isinstance(tier, dict)} if isinstance(found, dict) else {}
    )


def number(data: Mapping[str, Any], name: str) -> float | None:
    """A number under `name`, if there is one."""
    value = data.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _counted(instance: InstanceStatus) -> Iterator[tuple[Key, float]]:
    for name in ENGINE:
        if (value := number(instance.engine, name)) is not None:
            yield (name,), value
    for tier, said in tiers(instance).items():
        for name in TIER:
            if (value := number(said, name)) is not None:
                yield (tier, name), value
