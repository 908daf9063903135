"""An engine may be anybody's code: what it yields is checked before anybody relies on it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from inspect import iscoroutine
from typing import Any

from infs.engines.base import Engine
from infs.errors import GenerationFailed, InfsError
from infs.types import Event, Result


async def checked(run: Callable[[], AsyncGenerator[Event]], log: logging.Logger) -> AsyncGenerator[Event]:
    """The events of an engine's `run`. The result comes when the engine has ended, so that nothing can follow it.

    Raises:
        GenerationFailed: something is no event, comes after the result, or was raised and is no `InfsError`; or there
            is no result at all.
    """
    result = None
    try:
        async with aclosing(_generator(run())) as events:
            async for event in events:
                _check_event(event, result)
                if isinstance(event, Result):
                    result = event
                else:
                    yield event
    except InfsError:
        raise
    except Exception as error:
        log.exception("An engine raised something unexpected")
        raise GenerationFailed.of(error) from error
    if result is None:
        raise GenerationFailed("The engine ended without a result.")
    yield result


def status_of(engine: Engine, log: logging.Logger) -> dict[str, Any]:
    """What `engine` says of itself; one that fails there keeps nobody from hearing of the others."""
    try:
        return engine.status()
    except Exception as error:
        log.exception("An engine cannot tell its status")
        return {"error": f"{type(error).__name__}: {error}"}


def _generator(made: Any) -> AsyncGenerator[Event]:
    if hasattr(made, "__anext__") and hasattr(made, "aclose"):
        generator: AsyncGenerator[Event] = made
        return generator
    if iscoroutine(made):
        made.close()
    raise GenerationFailed(
        f"The engine's run gives a {type(made).__name__} and no async generator: it must be `async def`, and `yield`."
    )


def _check_event(event: object, result: Result | None) -> None:
    if not isinstance(event, Event):
        raise GenerationFailed(f"The engine yielded a {type(event).__name__}, which is no event.")
    if result is not None:
        raise GenerationFailed(f"The engine yielded a {type(event).__name__} after its result.")
