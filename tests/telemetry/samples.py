"""Reads what a server exposes."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from infs.server import InferenceServer
from infs.status import Exposition


class Samples:
    """The samples of an exposition, by name and labels."""

    def __init__(self, shown: Exposition) -> None:
        families = text_string_to_metric_families(shown.body.decode())
        self.all = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of one sample; ``None`` where there is none."""
        return self.all.get((name, tuple(sorted(labels.items()))))

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for (found, _), value in self.all.items() if found == name)

    def values(self, name: str, label: str) -> set[str]:
        """The values of a label of the samples with that name."""
        return {dict(labels)[label] for found, labels in self.all if found == name}


async def scrape(server: InferenceServer) -> Samples:
    """What `server` exposes now."""
    return Samples(await server.metrics())
