"""A histogram that takes many values at once: the client library's own would cost too much for each token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Intervals(Collector):
    """A histogram by ``model_name``, in the registry under `name`.

    Args:
        bounds: upper bounds of its buckets, rising, without the infinite one.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(bounds)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, model: str, values: Iterable[float]) -> None:
        """Add `values` of `model`."""
        counts, bounds, total = self._counts.get(model), self._bounds, 0.0
        if counts is None:
            counts = self._counts[model] = [0] * (len(bounds) + 1)
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._sums[model] = self._sums.get(model, 0.0) + total

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The histogram without values."""
        yield HistogramMetricFamily(self._name, self._text, labels=["model_name"])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as it is."""
        for family in self.describe():
            for model, counts in self._counts.items():
                family.add_metric([model], self._buckets(counts), self._sums[model])
            yield family

    def _buckets(self, counts: list[int]) -> list[tuple[str, float]]:
        """The counts up to each bound, with the bound as the format writes it."""
        buckets, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            so_far += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(so_far)))
        return buckets
