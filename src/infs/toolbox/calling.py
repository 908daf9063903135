"""One call of one tool: arguments read, handler run, result or error as the text that the model is told."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET

from infs.errors import InfsError
from infs.toolbox.functions import ServerTool, ToolContext, context_parameter
from infs.types import explain


class BadArguments(ValueError):
    """What the model wrote does not fit the tool."""


async def call_tool(tool: ServerTool, context: ToolContext, log: logging.Logger) -> tuple[str, bool]:
    """The result of the call in `context` as text, and whether it failed.

    What a handler raises is the model's to read: it may try again, or say what went wrong. An `InfsError` is not, and
    ends the request.
    """
    try:
        async with asyncio.timeout(tool.timeout) as limit:
            return _text(await _invoke(tool, context)), False
    except InfsError:
        raise
    except BadArguments as error:
        log.info("The model %s called %s with wrong arguments: %s", context.model, tool.name, error)
        return f"Error: {error}", True
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return "Error: the call was cancelled.", True  # by the handler itself
    except (Exception, SystemExit) as error:
        if isinstance(error, TimeoutError) and limit.expired():
            log.warning("The tool %s took longer than its timeout of %g seconds", tool.name, tool.timeout)
            return f"Error: no result within {tool.timeout:g} seconds.", True
        log.warning("The tool %s failed", tool.name, exc_info=error)
        return f"Error: {type(error).__name__}: {error}", True


async def _invoke(tool: ServerTool, context: ToolContext) -> Any:
    positional, named = _arguments(tool, context.call.arguments)
    parameter = context_parameter(tool.name, tool.handler)
    if parameter is not None:
        named[parameter] = context

    def run() -> Any:
        return tool.handler(*positional, **named)

    value = run() if _is_async(tool.handler) else await in_thread(run)
    return await value if inspect.isawaitable(value) else value


def _is_async(handler: Any) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _arguments(tool: ServerTool, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for the handler; raises `BadArguments`."""
    try:
        read = msgspec.json.decode(text or "{}", type=tool.arguments or dict[str, Any], strict=False)
    except msgspec.ValidationError as error:
        raise BadArguments(f"the arguments do not fit: {explain(error)[0]}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadArguments(f"the arguments are not JSON: {error}") from error
    if tool.arguments is None:
        return [read], {}
    given = {name: getattr(read, name) for name in tool.arguments.__struct_fields__}
    return [], {name: value for name, value in given.items() if value is not UNSET}


def _text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    value.encode()  # half of a surrogate pair would not survive the way to the model
    return value


async def in_thread(function: Callable[[], Any]) -> Any:
    """The result of `function`, run in a daemon thread of its own.

    A pool's threads are waited for at the end of the program, and a handler that hangs would keep one for ever.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    variables = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if not done.done():  # nobody waits any more
            done.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = variables.run(function)
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name="infs-tool", daemon=True).start()
    value, error = await done
    if error is not None:
        raise error
    return value
