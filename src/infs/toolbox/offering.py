"""Which tools a request has: its own, and those of the model's configuration."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from functools import reduce
from typing import Any

from msgspec.structs import replace

from infs.config import ModelConfig, ToolConfig
from infs.errors import ConfigError, InfsError
from infs.toolbox.functions import ServerTool, tool
from infs.toolbox.rounds import Toolbox
from infs.types import ChatCompletionRequest, Tool, validate


def equip(
    request: ChatCompletionRequest, configured: Sequence[ServerTool], rounds: int, log: logging.Logger
) -> tuple[ChatCompletionRequest, Toolbox | None]:
    """`request` as an engine takes it, with all tools, and those that the server carries out, if there are any.

    The tools of the configuration come first, since they are the same in all requests, and what prompts begin with is
    cached. A tool of the request replaces one of the configuration that has its name.
    """
    if not isinstance(request.tools, Sequence):  # refused, with all that is wrong, by `validate`
        return request, None
    own = {asked.name for asked in request.tools if isinstance(asked, Tool)}
    more = [] if request.tool_choice == "none" else [t for t in configured if t.name not in own]
    offered: list[Tool] = [*more, *request.tools]
    ours = {t.name: t for t in offered if isinstance(t, ServerTool)}
    if not ours:
        return request, None
    plain = replace(request, tools=[t.plain() if isinstance(t, ServerTool) else t for t in offered])
    theirs = frozenset(t.name for t in plain.tools if isinstance(t, Tool) and t.name not in ours)
    return plain, Toolbox(tools=ours, theirs=theirs, rounds=request.max_tool_rounds or rounds, log=log)


def load_tools(model: str, config: ModelConfig) -> list[ServerTool]:
    """The tools of a model's configuration, imported.

    Modules are found where installed packages are, and in the working directory.

    Raises:
        ConfigError: naming the key.
    """
    tools: list[ServerTool] = []
    if config.tools and config.task in ("embedding", "rerank"):
        raise ConfigError(
            f"models.{model} has tools, which a model for {config.task} cannot call; remove them or the task.",
            param=f"models.{model}.tools",
        )
    for number, described in enumerate(config.tools):
        key = f"models.{model}.tools[{number}]"
        made = _load(described, key)
        if made.name in [before.name for before in tools]:
            raise ConfigError(f"{key}: another tool of this model is called {made.name!r} too.", param=key)
        tools.append(made)
    return tools


def _load(described: ToolConfig, key: str) -> ServerTool:
    handler = _import(described.handler, f"{key}.handler")
    try:
        made = _made(handler, described)
        validate(made.plain())
    except InfsError as error:
        raise ConfigError(f"{key}: {error.message}", param=key) from error
    return made


def _made(handler: Any, described: ToolConfig) -> ServerTool:
    names = ("name", "description", "strict", "parallel", "timeout")
    given = {name: value for name in names if (value := getattr(described, name)) is not None}
    if described.parameters is not None:
        handler = handler.handler if isinstance(handler, ServerTool) else handler
        plain = {"name": getattr(handler, "__name__", described.handler), **given}
        return ServerTool(handler=handler, parameters=described.parameters, **plain)
    if isinstance(handler, ServerTool):
        return replace(handler, **given)
    if not callable(handler):
        raise ConfigError(f"{described.handler!r} is {handler!r}, which cannot be called.")
    return tool(handler, **given)


def _import(name: str, key: str) -> Any:
    """What ``module:name`` names."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise ConfigError(f'{key} is {name!r}; write "module:function".', param=key)
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # the command `infs` does not have it there; last, so that it hides nothing
    try:
        return reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:  # it is the user's code that runs
        raise ConfigError(f"{key}: {name!r} cannot be imported: {type(error).__name__}: {error}", param=key) from error
