"""What the pool may use of the machine's memory, what it has reserved, and what is left."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from infs.config import Size
from infs.engines.base import DeviceMemory
from infs.errors import ConfigError, InsufficientMemory
from infs.pool.machine import Machine
from infs.pool.reservations import Reservation, Reservations
from infs.sizes import parse_size
from infs.status import MemoryStatus
from infs.store.progress import size_text

HOST = "host"
MARGIN = 0.03  # of main memory that is left to others in any case
DEVICE_MARGIN = 0.02

Use = Mapping[str, int]
"""Bytes by device; `HOST` is the main memory."""


class Known(Struct):
    """A device, and what was not ours of it when it was last asked."""

    memory: DeviceMemory
    outside: int


class Grant(Struct, frozen=True):
    """A reservation was made. `spare`: bytes of main memory for caches. `cuts`: what others may keep of theirs."""

    spare: int
    cuts: dict[int, int]


class Ledger:
    """Reservations by owner (the number of an instance).

    What is reserved for caches (`spare`) goes before anything else has to.

    Args:
        limits: `max_memory` of the configuration, by device.
        folder: where servers on this machine tell each other; ``None`` tells nobody.
    """

    def __init__(self, limits: Mapping[str, Size], folder: Path | None, machine: Machine, log: logging.Logger) -> None:
        self._limits = limits
        self._machine = machine
        self._shared = Reservations(folder, machine, log)
        self._own: dict[int, Reservation] = {}
        self._spare: dict[int, int] = {}
        self._devices: dict[str, Known] = {}

    def limit_to(self, limits: Mapping[str, Size]) -> None:
        """From now on these limits hold; what is reserved stays."""
        self._limits = limits

    # --- learning

    def learn(self, devices: Iterable[DeviceMemory]) -> None:
        """What an engine says of the devices now."""
        for device in devices:
            ours = self._reserved(device.name)
            self._devices[device.name] = Known(device, max(0, device.total - device.free - ours))

    def whole(self, device: DeviceMemory) -> int:
        """All of a device that one model can have."""
        room = device.total - int(device.total * DEVICE_MARGIN) - self._devices[device.name].outside
        limit = self._limit(device.name)
        return room if limit is None else min(room, limit)

    # --- reserving

    def short(self, use: Use, owner: int | None = None) -> dict[str, int]:
        """How many bytes are missing on which devices for `use`, with all caches given up; empty if it fits.

        Args:
            owner: whose own reservation does not count: it will be replaced.
        """
        missing = {place: need - self._free(place, owner) for place, need in use.items() if need > 0}
        return {place: count for place, count in missing.items() if count > 0}

    def take(self, owner: int, model: str, use: Use, *, spare: int = 0, pid: int | None = None) -> Grant | None:
        """Reserve `use` for `owner`, in the place of what it has, and as much of `spare` as is left; or nothing."""
        with self._shared.locked():
            if self.short(use, owner):
                return None
            self._own.pop(owner, None)
            self._spare.pop(owner, None)
            cuts = self._cut(use.get(HOST, 0))
            left = self._free(HOST, None, spares=True) - use.get(HOST, 0)
            granted = max(0, min(spare, left // 2))  # others will want some too
            self._own[owner] = Reservation(model=model, pid=pid or 0, use=dict(use))
            self._spare[owner] = granted
            self._write()
            return Grant(granted, cuts)

    def lives_in(self, owner: int, pid: int | None) -> None:
        """What `owner` has reserved is used by process `pid`."""
        if pid is not None and owner in self._own:
            self._own[owner] = replace(self._own[owner], pid=pid)
            with self._shared.locked():
                self._write()

    def give(self, owner: int) -> None:
        """Give back what `owner` has."""
        if self._own.pop(owner, None) is None:
            return
        self._spare.pop(owner, None)
        with self._shared.locked():
            self._write()

    def used_by(self, owner: int) -> tuple[Use, int]:
        """What `owner` has reserved, and for its caches."""
        found = self._own.get(owner)
        return (found.use if found else {}), self._spare.get(owner, 0)

    def _write(self) -> None:
        self._shared.write(
            {
                owner: Reservation(
                    model=r.model, pid=r.pid, use={**r.use, HOST: r.use.get(HOST, 0) + self._spare.get(owner, 0)}
                )
                for owner, r in self._own.items()
            }
        )

    def _cut(self, need: int) -> dict[int, int]:
        """Take from caches what is missing for `need` bytes, from the largest first; what is left to each of these."""
        cuts: dict[int, int] = {}
        while (missing := need - self._free(HOST, None, spares=True)) > 0:
            owner = max(self._spare, key=lambda number: self._spare[number], default=None)
            if owner is None or not self._spare[owner]:
                break
            self._spare[owner] = cuts[owner] = max(0, self._spare[owner] - missing)
        return cuts

    # --- what is left

    def _reserved(self, place: str, owner: int | None = None, *, spares: bool = False) -> int:
        reserved = sum(r.use.get(place, 0) for number, r in self._own.items() if number != owner)
        return reserved + (sum(self._spare.values()) if spares and place == HOST else 0)

    def _free(self, place: str, owner: int | None, *, spares: bool = False) -> int:
        reserved = self._reserved(place, owner, spares=spares)
        if place == HOST:
            room = self._host_free(owner, spares=spares)
        else:
            known = self._devices.get(place)
            if known is None:
                return 0
            others = sum(r.use.get(place, 0) for r in self._shared.others)
            margin = int(known.memory.total * DEVICE_MARGIN)
            room = known.memory.total - margin - max(known.outside, others) - reserved
        limit = self._limit(place)
        return room if limit is None else min(room, limit - reserved)

    def _host_free(self, owner: int | None, *, spares: bool) -> int:
        """What is available, less what was promised and is not used yet. (Mapped weights do not count as used.)"""
        memory = self._machine.host()
        mine = [
            (r.pid, r.use.get(HOST, 0) + (self._spare.get(number, 0) if spares else 0))
            for number, r in self._own.items()
            if number != owner
        ]
        theirs = [(r.pid, r.use.get(HOST, 0)) for r in self._shared.others]
        promised = sum(max(0, size - self._machine.private(pid)) for pid, size in [*mine, *theirs] if size)
        return memory.available - int(memory.total * MARGIN) - promised

    def _total(self, place: str) -> int | None:
        if place == HOST:
            return self._machine.host().total
        known = self._devices.get(place)
        return known.memory.total if known is not None else None

    def _limit(self, place: str) -> int | None:
        """What the configuration allows. ``gpu`` stands for all devices that it does not name."""
        size = self._limits.get(place, self._limits.get("gpu") if place != HOST else None)
        total = self._total(place)
        if size is None or total is None:
            return None
        try:
            return parse_size(size, total)
        except ValueError as error:
            raise ConfigError(f"max_memory.{place}: {error}.", param="max_memory") from error

    # --- for people

    def check(self, model: str, use: Use) -> None:
        """Raise `InsufficientMemory`, with the numbers, for a `use` that would not fit if nothing else were there."""
        for place, need in use.items():
            total, limit = self._total(place), self._limit(place)
            most = min(size for size in (total, limit, need) if size is not None)
            if most < need:
                why = f"max_memory allows {size_text(most)}" if most == limit else f"there are {size_text(most)}"
                raise InsufficientMemory(
                    f"{model!r} needs {size_text(need)} of {_called(place)}, and {why}. Lower its context_size or "
                    "max_sequences, take a smaller quantisation"
                    f"{', or raise max_memory' if most == limit else ''}.",
                    param="max_memory" if most == limit else None,
                )

    def refusal(self, model: str, use: Use, holders: Iterable[str]) -> InsufficientMemory:
        """That `use` does not fit beside what stays, with the numbers."""
        short = self.short(use)
        lacking = "; ".join(
            f"{size_text(use[place])} of {_called(place)}, of which {size_text(max(0, use[place] - missing))} are free"
            for place, missing in short.items()
        )
        held = ", ".join(sorted(holders))
        who = f"What stays loaded: {held}. " if held else "Other programs use the rest. "
        return InsufficientMemory(
            f"{model!r} needs {lacking or 'more memory than there is'}. {who}"
            "Free some memory, lower the model's context_size or max_sequences, or take a smaller quantisation."
        )

    @property
    def seen_others(self) -> bool:
        """Whether other servers on this machine have reserved anything."""
        return bool(self._shared.others)

    def status(self) -> dict[str, MemoryStatus]:
        """All places, by their names."""
        host = self._machine.host()
        found = {
            HOST: MemoryStatus(
                limit=self._limit(HOST),
                reserved=self._reserved(HOST, spares=True),
                free=host.available,
                total=host.total,
                description="main memory",
            )
        }
        for name, known in self._devices.items():
            reserved = self._reserved(name)
            found[name] = MemoryStatus(
                limit=self._limit(name),
                reserved=reserved,
                free=max(0, known.memory.total - known.outside - reserved),
                total=known.memory.total,
                description=known.memory.description,
            )
        return found


def _called(place: str) -> str:
    return "main memory" if place == HOST else f"the memory of {place}"
