"""The page about monitoring is what the metrics say of themselves."""

from __future__ import annotations

from pathlib import Path

from infs.server import InferenceServer
from infs.telemetry.document import page
from infs.testing import FakeEngine

DOCS = Path(__file__).parent.parent.parent / "docs" / "monitoring.md"


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == page(), "python -m infs.telemetry.document > docs/monitoring.md"


async def test_all_that_is_exposed_is_described() -> None:
    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": FakeEngine}) as server:
        await server.text_completion(model="m", prompt="x y")
        described = {metric.name: metric for metric in server.telemetry.described}
        for family in server.telemetry.registry.collect():
            metric = described.pop(family.name)
            assert (metric.kind, metric.text) == (family.type, family.documentation)
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels), sample.name
    assert described == {}
