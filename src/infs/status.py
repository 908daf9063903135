"""How a server is, as data: what `InferenceServer.status` returns, and what ``GET /`` encodes.

Sizes are in bytes and times in seconds, unless a field says otherwise. All fields have defaults, so that data of an
older or newer server can be read as well.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ModelState = Literal["idle", "loading", "ready"]
InstanceState = Literal["starting", "ready", "closing", "closed"]

__all__ = [
    "DownloadStatus",
    "Exposition",
    "InstanceState",
    "InstanceStatus",
    "MemoryNeed",
    "MemoryStatus",
    "ModelState",
    "ModelStatus",
    "ProgressStatus",
    "SequenceStatus",
    "ServerStatus",
]


class MemoryNeed(Struct, frozen=True, kw_only=True):
    """Memory that a model takes, or would take.

    Attributes:
        host: of the machine's main memory, that of the process included.
        devices: of each device, by its name.
        spare: what its caches may take on top in main memory, and can do without.
        parts: where that goes, for people: ``weights``, ``context``, ``compute`` and the like.
    """

    host: int = 0
    devices: dict[str, int] = {}
    spare: int = 0
    parts: dict[str, int] = {}


class MemoryStatus(Struct, frozen=True, kw_only=True):
    """The memory of the machine, or of one device.

    Attributes:
        limit: what all models together may take; ``None`` where nothing limits them.
        reserved: what they have reserved of it.
        free: what nobody uses at the moment, as the system says; ``None`` where it does not say.
        total: all that there is.
        description: what the device is, for people.
    """

    limit: int | None = None
    reserved: int = 0
    free: int | None = None
    total: int | None = None
    description: str = ""


class ProgressStatus(Struct, frozen=True, kw_only=True):
    """How far a stage of loading has come; the fields are those of `Progress`."""

    stage: str
    done: int = 0
    total: int | None = None
    unit: str = "bytes"
    detail: str = ""
    rate: float | None = None
    remaining: float | None = None


class DownloadStatus(Struct, frozen=True, kw_only=True):
    """A download that is going on.

    Attributes:
        what: the file, for people.
        done, total: bytes that are there, and that there will be (``None`` when unknown).
        rate: bytes per second of late, where that is known.
        remaining: seconds that the rest will take at that rate.
    """

    what: str
    done: int = 0
    total: int | None = None
    rate: float | None = None
    remaining: float | None = None


class SequenceStatus(Struct, frozen=True, kw_only=True):
    """One choice of a request in an engine.

    Attributes:
        request: the request's number in its instance, as logs have it.
        index: which choice of the request.
        state: it waits for room in the cache, or something is computed for it.
        prompt_tokens, cached_tokens, generated_tokens: so far, as in `Usage`.
    """

    request: int = 0
    index: int = 0
    state: Literal["waiting", "running"] = "running"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class InstanceStatus(Struct, frozen=True, kw_only=True):
    """One loaded copy of a model.

    Attributes:
        number: unique in its server.
        pid: its process; ``None`` where it runs in the server's own.
        running: requests that have a place in it, of its `places`.
        served: requests that had one.
        idle_for: seconds since the last one ended; ``None`` while there are any, or were none.
        context_size: tokens of the longest sequence.
        details: facts about the model, as its engine calls them.
        notes: what its user should know about how it was loaded.
        memory: what it has reserved.
        sequences: what its engine works on.
        engine: what its engine counts, by its own names, the tiers of its cache under ``tiers``.
    """

    number: int = 0
    pid: int | None = None
    state: InstanceState = "ready"
    running: int = 0
    places: int = 0
    served: int = 0
    idle_for: float | None = None
    context_size: int | None = None
    details: dict[str, Any] = {}
    notes: list[str] = []
    memory: MemoryNeed = MemoryNeed()
    sequences: list[SequenceStatus] = []
    engine: dict[str, Any] = {}


class ModelStatus(Struct, frozen=True, kw_only=True):
    """A model of the configuration.

    Attributes:
        task: what the configuration says it is for.
        tasks: what it can do, once it has been loaded.
        state: ``ready`` as soon as one instance is.
        queued: requests that wait for a place.
        ttl: seconds that an idle instance stays loaded, where the configuration is known.
        progress: of loading, while nothing is ready.
        last_error: why it could not be loaded the last time; ``None`` once it could.
        deaths: processes that ended without having been asked to.
        replays: requests that went on in another process, counted each time.
        evictions: instances that were unloaded to make room for other models.
        loads, load_seconds: how often it was loaded, and how long that took together, downloads left out.
        quarantined: requests that were given up, since they ended several processes.
        estimate: what loading would take, once somebody had to know.
    """

    task: str | None = None
    tasks: list[str] = []
    engine: str | None = None
    state: ModelState = "idle"
    queued: int = 0
    ttl: float | None = None
    instances: list[InstanceStatus] = []
    progress: ProgressStatus | None = None
    last_error: str | None = None
    deaths: int = 0
    replays: int = 0
    evictions: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    quarantined: int = 0
    estimate: MemoryNeed | None = None


class ServerStatus(Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        created: Unix time of the start.
        closing: new requests are refused.
        requests: requests that have not ended, whatever they wait for.
        running: places in instances that are taken.
        queued: requests that wait for one.
        models: by id.
        memory: of the machine under ``host``, and of each device by its name.
        downloads: those that are going on.
        downloaded: bytes that downloads have brought since the start.
    """

    version: str = ""
    created: int = 0
    closing: bool = False
    requests: int = 0
    running: int = 0
    queued: int = 0
    models: dict[str, ModelStatus] = {}
    memory: dict[str, MemoryStatus] = {}
    downloads: list[DownloadStatus] = []
    downloaded: int = 0


class Exposition(Struct, frozen=True, kw_only=True):
    """Metrics in a text format that Prometheus reads, and the content type that says which one."""

    body: bytes
    content_type: str
