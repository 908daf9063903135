"""Memory for instances that are about to be loaded: reserved at once, or waited for while others make room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from infs.engines.base import MemoryUse
from infs.errors import CapacityError
from infs.pool.eviction import Resident, Verdict, make_room
from infs.pool.instance import Instance
from infs.pool.ledger import HOST, Ledger
from infs.pool.model import ModelPool
from infs.store.progress import size_text
from infs.types import Progress

PATIENCE = 600.0  # seconds that memory is waited for which other servers have
Making = Literal["nothing", "waiting", "freeing"]
"""What is done for somebody: memory becomes free, or will when others have ended what they do, or neither."""

ABOUT = 0.02  # by which an estimate may be higher than the one before without being another
POLL = 0.5  # seconds between two looks at what other servers and programs leave


class NoRoom(CapacityError):
    """There is no room for an instance that can be done without."""


@dataclass(eq=False, slots=True)
class Want:
    """An instance that waits for memory. `extra`: its model has another one, so nobody makes room for it."""

    model: ModelPool
    instance: Instance
    use: dict[str, int]
    spare: int
    extra: bool
    since: float
    future: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def turn(self) -> tuple[int, float]:
        """Who comes first: by priority, then by how long they have waited."""
        waiters = self.model.waiters
        return (waiters.first.priority if waiters else 0, self.since)


class Room:
    """Decides who is loaded when not all fit.

    Args:
        models: all models, also those that are about to go.
        evict: unloads an idle instance.
    """

    def __init__(
        self,
        ledger: Ledger,
        models: Callable[[], list[ModelPool]],
        *,
        evict: Callable[[Instance], None],
        changed: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self.ledger = ledger
        self._models = models
        self._evict = evict
        self._changed = changed
        self._log = log
        self._wants: list[Want] = []
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, model: ModelPool, instance: Instance, use: MemoryUse) -> None:
        """Reserve what `instance` takes, in the place of what it may have reserved before.

        Raises:
            InsufficientMemory: it can never fit, or not beside what stays.
            NoRoom: it can be done without.
        """
        wanted = self._wanted(model, use)
        self.ledger.check(model.name, wanted)
        held = instance.holds
        if held and all(need <= held.get(place, 0) * (1 + ABOUT) for place, need in wanted.items()):
            return
        extra = any(other is not instance for other in model.current)
        now = asyncio.get_running_loop().time()
        want = Want(model, instance, wanted, use.spare, extra, now)
        self._wants.append(want)
        self._changed()
        if not want.future.done():
            short = self.ledger.short(wanted, instance.number)
            self._log.info("%s waits for memory: %s missing", model.name, _amounts(short))
            need = sum(wanted.values())
            model.tell(Progress(stage="memory", done=max(0, need - sum(short.values())), total=need))
        try:
            await want.future
        finally:
            if want in self._wants:
                self._wants.remove(want)

    def _wanted(self, model: ModelPool, use: MemoryUse) -> dict[str, int]:
        devices = dict(use.devices)
        if model.config.device.exclusive:
            for device in use.machine:
                if device.name in devices:
                    devices[device.name] = max(devices[device.name], self.ledger.whole(device))
        return {HOST: use.host, **devices}

    def leave(self, instance: Instance) -> None:
        """`instance` is gone, and what it had is free."""
        instance.holds = {}
        self.ledger.give(instance.number)

    # --- called whenever anything changed

    def arrange(self) -> None:
        """Let in those for whom there is room, and have others make room for the first that has none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._wants:
            return self._open_again()
        drained: set[int] = set()
        first: Making = "nothing"  # what is done for the first that has no room
        for want in sorted(self._wants, key=lambda want: want.turn):
            if want.future.done():
                continue
            if not want.model.wanted:
                want.future.set_exception(NoRoom("Nobody waits for it any more."))
            elif first != "freeing" and self._let_in(want):
                continue  # also before the first: that one is not to be had for now
            elif want.extra:
                want.future.set_exception(NoRoom("There is no room for another instance."))
            elif first == "nothing":
                first = self._make_room(want, drained)
        self._open_again(drained)
        return None

    def _open_again(self, drained: Iterable[int] = ()) -> None:
        for _, instance in self._instances():
            instance.draining = instance.number in drained

    def _instances(self) -> list[tuple[ModelPool, Instance]]:
        return [(model, instance) for model in self._models() for instance in model.instances]

    def _let_in(self, want: Want) -> bool:
        number, instance = want.instance.number, want.instance
        pid = instance.engine.pid if instance.alive else None
        grant = self.ledger.take(number, want.model.name, want.use, spare=want.spare, pid=pid)
        if grant is None:
            return False
        instance.holds, instance.spare = dict(want.use), grant.spare
        for _, other in self._instances():
            if other.number in grant.cuts:
                other.spare = grant.cuts[other.number]
                if other.alive:
                    other.engine.shrink(other.spare)
        want.future.set_result(None)
        return True

    def _make_room(self, want: Want, drained: set[int]) -> Making:
        """Have others make room for `want`."""
        now = asyncio.get_running_loop().time()
        short = self.ledger.short(want.use, want.instance.number)
        for _, instance in self._instances():
            if instance.state == "closing":
                short = {place: count - instance.holds.get(place, 0) for place, count in short.items()}
        short = {place: count for place, count in short.items() if count > 0}
        if not short:
            return "freeing"
        verdict = make_room(short, self._residents(want, now), now)
        if verdict.blocked:
            self._blocked(want, now)
            return "nothing"
        for model, instance in self._instances():
            if instance.number in verdict.evict:
                model.counters.evictions += 1
                self._evict(instance)
        drained.update(verdict.drain)
        self._look_again(verdict, now)
        return "freeing" if verdict.evict else "waiting"

    def _residents(self, want: Want, now: float) -> list[Resident]:
        return [
            _resident(model, instance, now)
            for model, instance in self._instances()
            if instance.holds and instance is not want.instance and instance.state in ("starting", "ready")
        ]

    def _blocked(self, want: Want, now: float) -> None:
        """Nothing of ours would make enough room: other servers may, other programs are not waited for."""
        if self.ledger.seen_others and now - want.since < PATIENCE:
            self._look_again(Verdict(again=now + POLL), now)
            return
        stays = {model.name for model, i in self._instances() if i.holds and i is not want.instance}
        want.future.set_exception(self.ledger.refusal(want.model.name, want.use, stays))

    def _look_again(self, verdict: Verdict, now: float) -> None:
        if verdict.again is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, verdict.again - now) + 0.005, self._changed)

    def close(self) -> None:
        """Nobody is let in any more."""
        if self._timer is not None:
            self._timer.cancel()


def _resident(model: ModelPool, instance: Instance, now: float) -> Resident:
    loading = instance.state == "starting"
    least = len(model.ready) <= model.config.min_instances and not instance.retired
    return Resident(
        number=instance.number,
        use=instance.holds,
        since=now if loading else instance.ready_at,
        used=now if loading else instance.used_at,
        load=instance.load_seconds,
        busy=loading or instance.taken > 0,
        kept=not loading and (model.config.pinned or least),
    )


def _amounts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size_text(size)} on {place}" for place, size in sizes.items())
