"""Metrics of the server and its models, read from its status when somebody asks, so that nothing is kept twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from infs.status import InstanceState, MemoryStatus, ModelStatus, ServerStatus
from infs.telemetry.described import Described
from infs.telemetry.totals import TIER, Totals, number, tiers

Family = CounterMetricFamily | GaugeMetricFamily
Values = Iterable[tuple[tuple[str, ...], float]]

MODEL = ("model_name",)
TIERED = (*MODEL, "tier")
SHARED_TIERS = ("disk",)  # all instances see the same files

TIER_TEXTS = {
    "hits": "Blocks that were read from a tier of the context cache.",
    "misses": "Blocks that a tier was asked for and did not have any more.",
    "stored": "Blocks that were put into a tier.",
    "evicted": "Blocks that left a tier to make room for others.",
    "dropped": "Blocks that were not stored for want of room, or of time to write them.",
    "restored": "Tokens that did not have to be computed, because a tier had them.",
    "corrupt": "Files of a tier that were damaged, and were deleted.",
    "errors": "Failures of the file system in a tier.",
}


class Seen(NamedTuple):
    """What metrics are read from."""

    status: ServerStatus
    totals: Totals


class Reading(NamedTuple):
    """A metric, and how its values are read."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[Seen], Values]

    def described(self) -> Described:
        """The metric in words."""
        return Described(self.kind, self.name, self.text, self.labels)

    def family(self) -> Family:
        """The metric without values."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(self.name, self.text, labels=self.labels)


class ServerCollector(Collector):
    """All metrics that a status holds."""

    def __init__(self) -> None:
        self._seen = Seen(ServerStatus(), Totals())

    def update(self, status: ServerStatus) -> None:
        """Take over a new status."""
        self._seen.totals.update(status.models)
        self._seen = Seen(status, self._seen.totals)

    def describe(self) -> Iterator[Family]:
        """The metrics without values."""
        return (reading.family() for reading in READINGS)

    def collect(self) -> Iterator[Family]:
        """The metrics as the last status has them."""
        for reading in READINGS:
            family = reading.family()
            for labels, value in reading.read(self._seen):
                family.add_metric(labels, value)
            yield family


# --- how values are read --------------------------------------------------------------------------------------


def _server(read: Callable[[ServerStatus], float]) -> Callable[[Seen], Values]:
    return lambda seen: [((), read(seen.status))]


def _models(read: Callable[[ModelStatus], float | None]) -> Callable[[Seen], Values]:
    """One value for each model that has one."""

    def values(seen: Seen) -> Values:
        for name, model in seen.status.models.items():
            if (value := read(model)) is not None:
                yield (name,), value

    return values


def _devices(read: Callable[[MemoryStatus], int | None]) -> Callable[[Seen], Values]:
    """One value for each device that has one."""

    def values(seen: Seen) -> Values:
        for name, memory in seen.status.memory.items():
            if (value := read(memory)) is not None:
                yield (name,), value

    return values


def _counted(name: str) -> Callable[[Seen], Values]:
    """What engines count under `name`."""

    def values(seen: Seen) -> Values:
        for model in seen.status.models:
            counted = seen.totals.of(model)
            if (name,) in counted:
                yield (model,), counted[name,]

    return values


def _tier_counted(name: str) -> Callable[[Seen], Values]:
    """What tiers count under `name`."""

    def values(seen: Seen) -> Values:
        for model in seen.status.models:
            for key, value in seen.totals.of(model).items():
                if len(key) == 2 and key[1] == name:
                    yield (model, key[0]), value

    return values


def _tier_level(name: str) -> Callable[[Seen], Values]:
    """What tiers hold now, under `name`."""

    def values(seen: Seen) -> Values:
        for model, status in seen.status.models.items():
            held: dict[str, list[float]] = {}
            for instance in status.instances:
                for tier, said in tiers(instance).items():
                    held.setdefault(tier, []).append(number(said, name) or 0.0)
            for tier, sizes in held.items():
                yield (model, tier), max(sizes) if tier in SHARED_TIERS else sum(sizes)

    return values


def _instances(seen: Seen) -> Values:
    for name, model in seen.status.models.items():
        states = [instance.state for instance in model.instances]
        for state in get_args(InstanceState)[:-1]:  # what is closed is not there any more
            yield (name, state), states.count(state)


def _reserved(seen: Seen) -> Values:
    for name, model in seen.status.models.items():
        total: dict[str, int] = {}
        for instance in model.instances:
            for device, size in {"host": instance.memory.host, **instance.memory.devices}.items():
                total[device] = total.get(device, 0) + size
        for device, size in total.items():
            yield (name, device), size


def _cells_used(model: ModelStatus) -> float | None:
    """The share of cells of the context caches that are in use."""
    cells = sum(number(instance.engine, "cells") or 0 for instance in model.instances)
    used = sum(number(instance.engine, "cells_used") or 0 for instance in model.instances)
    return used / cells if cells else None


def _running(model: ModelStatus) -> float:
    return sum(instance.running for instance in model.instances)


def _build(seen: Seen) -> Values:
    return [((seen.status.version,), 1)]


def _tier_readings() -> Iterator[Reading]:
    yield Reading(
        "gauge", "infs_cache_tier_bytes", "What a tier of the context cache holds.", TIERED, _tier_level("bytes")
    )
    yield Reading("gauge", "infs_cache_tier_blocks", "Blocks in a tier.", TIERED, _tier_level("entries"))
    for name in TIER:
        label = "restored_tokens" if name == "restored" else name
        yield Reading("counter", f"infs_cache_tier_{label}", TIER_TEXTS[name], TIERED, _tier_counted(name))


READINGS: tuple[Reading, ...] = (
    Reading(
        "gauge", "vllm:num_requests_running", "Requests that have a place in an instance.", MODEL, _models(_running)
    ),
    Reading(
        "gauge",
        "vllm:num_requests_waiting",
        "Requests that wait for a place.",
        MODEL,
        _models(lambda model: model.queued),
    ),
    Reading(
        "gauge",
        "vllm:kv_cache_usage_perc",
        "Share of the context cache that is in use, from 0 to 1.",
        MODEL,
        _models(_cells_used),
    ),
    Reading(
        "counter", "vllm:num_preemptions", "Running requests that had to wait again.", MODEL, _counted("preemptions")
    ),
    Reading(
        "counter",
        "vllm:spec_decode_num_draft_tokens",
        "Tokens that were guessed.",
        MODEL,
        _counted("guessed_tokens"),
    ),
    Reading(
        "counter",
        "vllm:spec_decode_num_accepted_tokens",
        "Guessed tokens that were right.",
        MODEL,
        _counted("accepted_tokens"),
    ),
    Reading("gauge", "infs_build_info", "Always 1; the version is its label.", ("version",), _build),
    Reading(
        "gauge",
        "infs_requests",
        "Requests that have not ended, whatever they wait for.",
        (),
        _server(lambda s: s.requests),
    ),
    Reading("gauge", "infs_instances", "Loaded copies of a model, by state.", (*MODEL, "state"), _instances),
    Reading(
        "gauge",
        "infs_places",
        "Requests that the instances of a model can run at a time.",
        MODEL,
        _models(lambda model: sum(instance.places for instance in model.instances)),
    ),
    Reading("counter", "infs_loads", "Instances that were loaded.", MODEL, _models(lambda model: model.loads)),
    Reading(
        "counter",
        "infs_load_seconds",
        "How long loading took, downloads left out.",
        MODEL,
        _models(lambda model: model.load_seconds),
    ),
    Reading(
        "counter",
        "infs_evictions",
        "Instances that were unloaded to make room for other models.",
        MODEL,
        _models(lambda model: model.evictions),
    ),
    Reading(
        "counter",
        "infs_worker_deaths",
        "Processes that ended without having been asked to.",
        MODEL,
        _models(lambda model: model.deaths),
    ),
    Reading(
        "counter",
        "infs_replays",
        "Requests that went on in another process, counted each time.",
        MODEL,
        _models(lambda model: model.replays),
    ),
    Reading(
        "counter",
        "infs_quarantined_requests",
        "Requests that were given up, since they ended several processes.",
        MODEL,
        _models(lambda model: model.quarantined),
    ),
    Reading("counter", "infs_engine_steps", "Batches that were computed.", MODEL, _counted("steps")),
    Reading(
        "gauge",
        "infs_instance_memory_bytes",
        "Memory that the instances of a model have reserved; device is host or the name of a GPU.",
        (*MODEL, "device"),
        _reserved,
    ),
    Reading(
        "gauge",
        "infs_memory_limit_bytes",
        "Memory that all models together may take.",
        ("device",),
        _devices(lambda memory: memory.limit),
    ),
    Reading(
        "gauge",
        "infs_memory_reserved_bytes",
        "Memory that they have reserved.",
        ("device",),
        _devices(lambda memory: memory.reserved),
    ),
    Reading(
        "gauge",
        "infs_memory_free_bytes",
        "Memory that nobody uses, as the system says.",
        ("device",),
        _devices(lambda memory: memory.free),
    ),
    Reading(
        "gauge",
        "infs_memory_total_bytes",
        "Memory that there is.",
        ("device",),
        _devices(lambda memory: memory.total),
    ),
    *_tier_readings(),
    Reading("gauge", "infs_downloads", "Downloads that are going on.", (), _server(lambda s: len(s.downloads))),
    Reading(
        "gauge",
        "infs_download_bytes_per_second",
        "Their speed together.",
        (),
        _server(lambda s: sum(download.rate or 0.0 for download in s.downloads)),
    ),
    Reading("counter", "infs_download_bytes", "What downloads have brought.", (), _server(lambda s: s.downloaded)),
)
