"""What the pool knows of one model: who waits for it, and its instances."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field

from infs.config import ModelConfig
from infs.engines.base import EngineSpec, MemoryUse
from infs.pool.instance import Instance
from infs.pool.queue import Queue, Waiter
from infs.status import MemoryNeed, ModelStatus, ProgressStatus
from infs.types import Progress


@dataclass(slots=True)
class Counters:
    """What happened to a model since the server was started."""

    deaths: int = 0
    replays: int = 0
    evictions: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    quarantined: int = 0


@dataclass(eq=False, slots=True)
class ModelPool:
    """One model's instances and queue.

    Attributes:
        spec: its engine; ``None`` as long as only its files can tell.
        use: what loading it takes, once that is known.
        interrupted: processes that ended while they loaded it, in a row.
        no_room_until: when another instance than the first may be tried again.
    """

    name: str
    config: ModelConfig
    spec: EngineSpec | None
    waiters: Queue = field(default_factory=Queue)
    instances: list[Instance] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    last_progress: Progress | None = None
    last_error: str | None = None
    use: MemoryUse | None = None
    interrupted: int = 0
    no_room_until: float = 0.0

    @property
    def current(self) -> list[Instance]:
        """Instances of the present configuration that are not on their way out."""
        return [i for i in self.instances if not i.retired and i.state in ("starting", "ready")]

    @property
    def ready(self) -> list[Instance]:
        """Instances that take requests."""
        return [instance for instance in self.current if instance.state == "ready"]

    @property
    def starting(self) -> int:
        """Instances that will take requests."""
        return sum(instance.state == "starting" for instance in self.current)

    def place_for(self, waiter: Waiter) -> Instance | None:
        """Where `waiter` can have a place: where most of the request is known, then where the least is to do."""
        able = [i for i in self.instances if i.free > 0 and not (waiter.alone and i.taken)]
        return max(able, key=lambda i: (i.memory.depth(waiter.chain), -i.taken), default=None)

    @property
    def full(self) -> bool:
        """Whether another request would be one too many. Those that will have a place at once do not wait."""
        free = sum(instance.free for instance in self.instances)
        coming = (self.config.max_instances - len(self.ready)) * self.config.max_sequences
        return len(self.waiters) >= self.config.max_queue + free + coming

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it, or it is to be there in any case."""
        return bool(self.waiters) or len(self.ready) < self.config.min_instances

    def tell(self, progress: Progress) -> None:
        """Progress of loading, to everybody who waits for it."""
        self.last_progress = progress
        for waiter in self.waiters:
            waiter.progress(progress)

    async def status(self) -> ModelStatus:
        """What there is to know."""
        progress = self.last_progress if self.starting and not self.ready else None
        ready = self.ready
        return ModelStatus(
            task=self.config.task,
            tasks=ready[0].info.tasks if ready else [],
            engine=self.spec.name if self.spec is not None else self.config.engine,
            state="ready" if ready else "loading" if self.starting else "idle",
            ttl=self.config.ttl,
            queued=len(self.waiters),
            instances=[await instance.status(time.monotonic()) for instance in list(self.instances)],
            progress=None if progress is None else progress_status(progress),
            last_error=self.last_error,
            **dataclasses.asdict(self.counters),
            estimate=None if self.use is None else need_of(self.use),
        )


def need_of(use: MemoryUse) -> MemoryNeed:
    """An estimate, for people."""
    return MemoryNeed(host=use.host, devices=use.devices, spare=use.spare, parts=use.parts)


def progress_status(progress: Progress) -> ProgressStatus:
    """An event of progress, as data."""
    return ProgressStatus(**{name: getattr(progress, name) for name in ProgressStatus.__struct_fields__})
