"""A request from its place in the queue to its result, through as many workers as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from infs.errors import RequestCancelled, RequestQuarantined, ServerClosed, Unsupported, WorkerDied, WorkerGone
from infs.pool.instance import Instance
from infs.pool.model import ModelPool
from infs.pool.pool import Pool
from infs.pool.quarantine import Quarantine
from infs.pool.story import Story
from infs.types import Event, Progress, Request, Trail

ALONE = 2  # workers that a request may have ended before it runs alone, so that it takes no others with it
MOST_GONE = 20  # places in a row whose worker had ended before the request came


class Attempts:
    """Runs requests in the instances of a pool, and goes on elsewhere when a worker dies.

    Whatever the client was told of stays true: the next worker starts behind it (see `Story`). A request that gets no
    further, worker after worker, is probably why they die: it runs alone then, and at last not at all.
    """

    def __init__(self, pool: Pool, log: logging.Logger) -> None:
        self._pool = pool
        self._log = log
        self.quarantine = Quarantine()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """End what runs: in a failure, also where an engine would not notice that it is over."""
        self._closed = True
        for task in self._waiting:
            task.cancel()

    async def events(self, request: Request[Any], placed: Callable[[], None]) -> AsyncGenerator[Event]:
        """The events of `request`; the last one is its result.

        Args:
            placed: called when the request has a place in an instance, each time.
        """
        self.quarantine.check(request)
        story = Story()
        gone = 0
        while True:
            try:
                async with contextlib.aclosing(self._attempt(request, story, placed)) as events:
                    async for event in events:
                        yield event
                return
            except WorkerGone as error:
                gone += 1
                if gone == MOST_GONE:
                    raise WorkerDied(f"{gone} workers in a row had ended before the request reached them.") from error
            except WorkerDied as error:
                gone = 0
                self._survive(request, story, error)

    async def _attempt(self, request: Request[Any], story: Story, placed: Callable[[], None]) -> AsyncGenerator[Event]:
        waiting = Waiting(self._pool, request, again=story.worked > 0, alone=story.deaths >= ALONE)
        try:
            async for progress in waiting.progress():
                yield progress
            instance = waiting.instance()
            placed()
            story.begin(instance.config)
            async with contextlib.aclosing(self._run(instance, request, story)) as events:
                async for event in events:
                    yield event
        finally:
            await waiting.end()

    async def _run(self, instance: Instance, request: Request[Any], story: Story) -> AsyncGenerator[Event]:
        if request.task not in instance.info.tasks:
            able = ", ".join(instance.info.tasks)
            raise Unsupported(
                f"The model {request.model!r} cannot do {request.task}; it can do: {able}.", param="model"
            )
        try:
            async with contextlib.aclosing(instance.run(request, story.nonce, story.trail)) as events:
                while (event := await self._next(events)) is not None:
                    news = story.news(event)
                    if instance.alone and isinstance(event, Trail) and not story.deaths:
                        self._pool.share(instance)  # it got past what ended the others
                    if news is not None:
                        yield news
        except RequestCancelled as error:
            if instance.state in ("closing", "closed"):
                raise ServerClosed(f"{request.model!r} was unloaded while the request ran.") from error
            raise

    async def _next(self, events: AsyncGenerator[Event]) -> Event | None:
        """The next one of `events`; ``None`` after the last."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            if self._closed:
                raise asyncio.CancelledError
            return await anext(events, None)
        except asyncio.CancelledError:
            if not self._closed:
                raise
            task.uncancel()
            raise ServerClosed("The server was closed while the request ran.", retry_after=5.0) from None
        finally:
            self._waiting.discard(task)

    def _survive(self, request: Request[Any], story: Story, error: WorkerDied) -> None:
        """Decide whether to try once more.

        Raises:
            WorkerDied: it cannot be taken up again.
            RequestQuarantined: it was taken up often enough.
        """
        model = self._pool.find(request.model)
        if not story.resumable:
            raise WorkerDied(
                f"{error.message} Its engine cannot go on with what another worker began.",
                retry_after=error.retry_after,
            ) from error
        story.deaths += 1
        if story.deaths > model.config.max_replays:
            self._give_up(request, model, story, error)
        model.counters.replays += 1
        self._log.warning(
            "A request for %s goes on in another worker, behind %d tokens (%s)",
            request.model,
            sum(map(len, story.trail)),
            error.message,
        )

    def _give_up(self, request: Request[Any], model: ModelPool, story: Story, error: WorkerDied) -> None:
        if story.deaths <= ALONE:
            raise error  # others may have ended these workers
        name = self.quarantine.add(request)
        model.counters.quarantined += 1
        self._log.error(
            "The request %s for %s (%s) is quarantined: %d workers died while they ran it, the last one alone. %s",
            name,
            request.model,
            request.task,
            story.deaths,
            error.message,
        )
        raise RequestQuarantined(
            f"{story.deaths} workers of {request.model!r} died while they ran this request, so it is given up "
            f"(its name in the log: {name}). {error.message}"
        ) from error


class Waiting:
    """A lease that is waited for in a task, so that progress can be told meanwhile."""

    def __init__(self, pool: Pool, request: Request[Any], *, again: bool, alone: bool) -> None:
        self._news: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._lease = pool.lease(request, self._news.put_nowait, again=again, alone=alone)
        self._task = asyncio.ensure_future(self._lease.__aenter__())
        self._task.add_done_callback(lambda _: self._news.put_nowait(None))

    async def progress(self) -> AsyncGenerator[Progress]:
        """How loading goes on, until the place is there (or not to be had)."""
        while (news := await self._news.get()) is not None:
            yield news

    def instance(self) -> Instance:
        """The instance; raises what kept the request from getting one."""
        return self._task.result()

    async def end(self) -> None:
        """Give the place back, or stop waiting for it."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._task.cancelled() and self._task.exception() is None:
            await self._lease.__aexit__(None, None, None)
