"""One run of the same work for all who want its result at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

from infs.errors import ServerClosed
from infs.store.progress import Report
from infs.types import Progress

Result = TypeVar("Result")


class Sharing(Generic[Result]):
    """Keeps track of the work that runs, by its key.

    Work goes on for as long as somebody waits for it: the last one to leave cancels it.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._joint: dict[Hashable, _Joint[Result]] = {}
        # All tasks that have not ended, also those that nobody waits for any more.
        self._tasks: set[asyncio.Task[Result]] = set()
        self._closed = False

    async def run(
        self, key: Hashable, work: Callable[[Report], Coroutine[None, None, Result]], progress: Report
    ) -> Result:
        """The result of `work`, which is started unless it runs already; `progress` gets its events.

        Raises:
            ServerClosed: when it is too late.
            Exception: whatever `work` raises.
        """
        if self._closed:
            raise ServerClosed("The server is shutting down; no files are fetched any more.")
        joint = self._joint.get(key)
        if joint is None:
            joint = self._joint[key] = self._start(work)
        joint.add(progress)
        try:
            return await asyncio.shield(joint.task)
        except asyncio.CancelledError:
            if joint.task.cancelled() and not _is_cancelled():
                raise ServerClosed("The server shut down while the files of the model were fetched.") from None
            raise
        finally:
            joint.reports.remove(progress)
            if (not joint.reports or joint.task.done()) and self._joint.get(key) is joint:
                del self._joint[key]
                joint.task.cancel()

    async def close(self) -> None:
        """Cancel what runs, and wait for its end. `run` is refused from now on."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _start(self, work: Callable[[Report], Coroutine[None, None, Result]]) -> _Joint[Result]:
        joint: _Joint[Result] = _Joint(self._log)
        joint.task = asyncio.create_task(work(joint.report))
        self._tasks.add(joint.task)
        joint.task.add_done_callback(self._ended)
        return joint

    def _ended(self, task: asyncio.Task[Result]) -> None:
        self._tasks.discard(task)
        # Looked at here because those who waited for it may all have left.
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()


def _is_cancelled() -> bool:
    """Whether somebody wants the current task, and not only what it waits for, to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Joint(Generic[Result]):
    """Work that runs, and those who follow it."""

    task: asyncio.Task[Result]

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: Progress | None = None
        self.reports: list[Report] = []

    def add(self, report: Report) -> None:
        """One more to follow it; who comes late learns at once how far it is."""
        self.reports.append(report)
        if self._last is not None:
            self._tell(report, self._last)

    def report(self, event: Progress) -> None:
        self._last = event
        for report in list(self.reports):
            self._tell(report, event)

    def _tell(self, report: Report, event: Progress) -> None:
        try:
            report(event)
        except Exception:
            # Others may wait for the same files, and their download is not to blame.
            self._log.exception("A progress callback failed")
