"""SIGHUP: the server reads its configuration again, or learns that its terminal is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any

from infs.http.errors import as_infs_error
from infs.http.service import Service

log = logging.getLogger("infs.http")


class Hangups:
    """While it is entered, SIGHUP means: read the configuration again.

    It is also what a terminal sends when it is closed. A server that was started in one would then go on without
    anybody to stop it, so that ends it, unless SIGHUP was to be ignored from the start, as ``nohup`` has it.
    """

    def __init__(self, services: list[Service], stop: asyncio.Event) -> None:
        self._services = services
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = getattr(signal, "SIGHUP", None)  # Windows has none
        self._before: Any = None
        self._in_terminal = False

    def __enter__(self) -> None:
        if self._number is None or threading.current_thread() is not threading.main_thread():
            self._number = None
            return
        self._loop = asyncio.get_running_loop()
        self._before = signal.signal(self._number, lambda *_: self._later())
        self._in_terminal = self._before is not signal.SIG_IGN and has_terminal()

    def __exit__(self, *exception: object) -> None:
        if self._number is not None:
            signal.signal(self._number, self._before or signal.SIG_DFL)
        for task in self._tasks:
            task.cancel()

    def _later(self) -> None:
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        if self._in_terminal and not has_terminal():
            self._stop.set()
            return
        for service in self._services:
            task = asyncio.ensure_future(_reload(service))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


async def _reload(service: Service) -> None:
    try:
        await service.reload()
    except Exception as error:
        said = as_infs_error(error).message
        log.error("The configuration was not read again, and nothing has changed: %s", said)
