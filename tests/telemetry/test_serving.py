"""Metrics that are read from a status, whatever it holds and lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from infs.server import InferenceServer
from infs.status import InstanceStatus, MemoryNeed, ModelStatus, ServerStatus
from infs.telemetry import Telemetry
from infs.testing import FakeEngine
from tests.telemetry.samples import Samples, scrape

HOST = {"hits": 2, "misses": 1, "stored": 5, "bytes": 1000, "entries": 3, "restored": 64}
DISK = {"hits": 1, "bytes": 7000, "entries": 9}
COUNTERS = {"deaths": 2, "replays": 5, "evictions": 1, "loads": 3, "load_seconds": 4.5}


def instance(number: int, **engine: Any) -> dict[str, Any]:
    return {
        "number": number,
        "state": "ready",
        "running": 2,
        "places": 8,
        "memory": {"host": 100, "devices": {"cuda:0": 50}, "spare": 10},
        "engine": {"pid": 4, "cells": 100, "cells_used": 25, "preemptions": 3, **engine},
    }


def status(*instances: dict[str, Any], **server: Any) -> dict[str, Any]:
    model = {
        "state": "ready",
        "queued": 4,
        "instances": list(instances),
        "quarantined": 1,
        **COUNTERS,
    }
    return {"version": "1.2", "requests": 6, "models": {"m": model}, **server}


def show(data: dict[str, Any], telemetry: Telemetry | None = None) -> Samples:
    return Samples((telemetry or Telemetry()).expose(data))


def test_all_that_a_status_holds() -> None:
    memory = {"host": {"limit": 900, "reserved": 200, "free": 300, "total": 1000}, "cuda:0": {"reserved": 100}}
    downloads = [{"what": "a", "done": 5, "rate": 2.5}, {"what": "b"}]
    busy = instance(1, tiers={"host": HOST, "disk": DISK})
    starting = {"number": 2, "state": "starting"}
    shown = show(status(busy, instance(3), starting, memory=memory, downloads=downloads, downloaded=77))
    model = {"model_name": "m"}
    assert shown("vllm:num_requests_running", **model) == 4
    assert shown("vllm:num_requests_waiting", **model) == 4
    assert shown("vllm:kv_cache_usage_perc", **model) == 0.25
    assert shown("vllm:num_preemptions_total", **model) == 6
    assert shown("infs_build_info", version="1.2") == 1
    assert shown("infs_requests") == 6
    assert [shown("infs_instances", state=s, **model) for s in ("starting", "ready", "closing")] == [1, 2, 0]
    assert shown("infs_places", **model) == 16
    names = {"deaths": "worker_deaths"}
    counted = {name: shown(f"infs_{names.get(name, name)}_total", **model) for name in COUNTERS}
    assert counted == COUNTERS
    assert shown("infs_quarantined_requests_total", **model) == 1
    assert shown("infs_instance_memory_bytes", device="cuda:0", **model) == 100
    assert shown("infs_memory_limit_bytes", device="host") == 900
    assert shown("infs_memory_limit_bytes", device="cuda:0") is None, "nothing limits it"
    assert shown("infs_memory_reserved_bytes", device="cuda:0") == 100
    assert shown("infs_cache_tier_bytes", tier="host", **model) == 1000
    assert shown("infs_cache_tier_hits_total", tier="disk", **model) == 1
    assert shown("infs_cache_tier_restored_tokens_total", tier="host", **model) == 64
    assert (shown("infs_downloads"), shown("infs_download_bytes_per_second")) == (2, 2.5)
    assert shown("infs_download_bytes_total") == 77


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"models": {"m": {}}},
        {"models": {"m": {"instances": [{}, {"engine": {"tiers": {"host": None}, "cells": "many"}}]}}},
        {"models": {"m": {"instances": [{"engine": {"tiers": 5, "preemptions": True, "cells": 0}}]}}, "more": 1},
    ],
)
def test_what_is_missing_is_left_out(data: dict[str, Any]) -> None:
    shown = show(data)
    assert shown.total("vllm:num_preemptions_total") == shown.total("infs_cache_tier_bytes") == 0
    assert shown("vllm:kv_cache_usage_perc", model_name="m") is None
    assert shown("infs_downloads") == 0


def test_instances_share_a_disk_but_not_their_memory() -> None:
    two = [instance(number, tiers={"host": HOST, "disk": DISK}) for number in (1, 2)]
    shown = show(status(*two))
    assert shown("infs_cache_tier_bytes", tier="host", model_name="m") == 2000
    assert shown("infs_cache_tier_bytes", tier="disk", model_name="m") == 7000
    assert shown("infs_cache_tier_hits_total", tier="disk", model_name="m") == 2


def test_totals_outlive_instances() -> None:
    telemetry = Telemetry()

    def totals(*instances: dict[str, Any], **server: Any) -> tuple[float | None, ...]:
        shown = show(status(*instances, **server), telemetry)
        hits = shown("infs_cache_tier_hits_total", tier="host", model_name="m")
        return shown("vllm:num_preemptions_total", model_name="m"), hits

    tiers = {"host": HOST}
    assert totals(instance(1, tiers=tiers)) == (3, 2)
    assert totals(instance(1, preemptions=4, tiers=tiers), instance(2)) == (7, 2)
    assert totals(instance(2), {"number": 1, "state": "closing"}) == (7, 2), "it says nothing any more"
    assert totals(instance(2)) == (7, 2)
    assert totals() == (7, 2)
    assert totals(instance(3, tiers=tiers)) == (10, 4)
    assert totals(models={}) == (None, None), "the model is not configured any more"
    assert totals(instance(4)) == (3, None)


def test_the_status_may_be_made_of_structs() -> None:
    one = InstanceStatus(number=1, running=2, engine={"steps": 5}, memory=MemoryNeed(host=9))
    shown = Samples(Telemetry().expose(ServerStatus(version="1", models={"m": ModelStatus(instances=[one])})))
    assert shown("vllm:num_requests_running", model_name="m") == 2
    assert shown("infs_engine_steps_total", model_name="m") == 5
    assert shown("infs_instance_memory_bytes", model_name="m", device="host") == 9


async def test_the_status_of_a_server_is_read() -> None:
    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": FakeEngine}) as server:
        before = await scrape(server)
        assert before("infs_instances", model_name="m", state="ready") == 0
        await server.text_completion(model="m", prompt="x")
        after = await scrape(server)
        assert after("infs_instances", model_name="m", state="ready") == 1
        assert after("infs_places", model_name="m") == 8
        assert server.telemetry.registry.get_sample_value("infs_requests") == 0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8, text/plain;q=0.5",
            "application/openmetrics-text",
        ),
        ("application/openmetrics-text; version=nine", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
    ],
)
async def test_the_format_is_the_one_that_is_asked_for(accept: str, kind: str) -> None:
    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": FakeEngine}) as server:
        await server.text_completion(model="m", prompt="x y")
        shown = await server.metrics(accept)
    assert shown.content_type.startswith(kind)
    text = shown.body.decode()
    assert text.endswith("# EOF\n") == ("openmetrics" in kind)
    if "openmetrics" in kind:
        families: Iterable[Metric] = parse_openmetrics(text)  # type: ignore[no-untyped-call]
        names = {family.name for family in families}
        assert {"vllm:time_to_first_token_seconds", "vllm:num_requests_running", "infs_instances"} <= names


def test_two_servers_have_nothing_in_common() -> None:
    first, second = Telemetry(), Telemetry()
    first.expose(status(instance(1)))
    assert first.registry.get_sample_value("infs_requests") == 6
    assert second.registry.get_sample_value("infs_requests") == 0
