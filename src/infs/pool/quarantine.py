"""Requests that ended several workers, so that they are not run again when their clients try once more."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from infs.errors import RequestQuarantined
from infs.types import Request

KEPT = 3600.0  # seconds that a request is refused
MOST = 1000  # requests that are remembered
PLAIN = {"timeout": None, "priority": 0, "client": ""}  # what has no part in what a request does to a worker


class Quarantine:
    """The requests that are refused.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        self._forget()
        return len(self._until)

    def add(self, request: Request[Any]) -> str:
        """Refuse `request` from now on; returns the name by which it can be found in the log."""
        name = name_of(request)
        self._until[name] = self._clock() + KEPT
        self._until.move_to_end(name)
        self._forget()
        return name

    def check(self, request: Request[Any]) -> None:
        """Raise `RequestQuarantined` for a request that was added."""
        if not self._until:
            return
        self._forget()
        name = name_of(request)
        if name in self._until:
            raise RequestQuarantined(
                f"This request ended several workers of {request.model!r}, and is not run again for "
                f"{self._until[name] - self._clock():.0f} seconds (its name in the log: {name}). "
                "Change it, or use another model.",
                retry_after=self._until[name] - self._clock(),
            )

    def _forget(self) -> None:
        now = self._clock()
        while self._until:
            name, until = next(iter(self._until.items()))
            if until > now and len(self._until) <= MOST:
                return
            del self._until[name]


def name_of(request: Request[Any]) -> str:
    """A hash of what is asked."""
    plain = msgspec.structs.replace(request, **PLAIN)
    return hashlib.sha256(msgspec.msgpack.encode(plain)).hexdigest()[:16]
