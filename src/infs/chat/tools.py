"""Which tools a request offers, and which it insists on."""

from __future__ import annotations

from infs.errors import InvalidRequest
from infs.types import ChatCompletionRequest, NamedTool, Tool


def check_tools(request: ChatCompletionRequest) -> None:
    """Raise `InvalidRequest` when `tool_choice` asks for what `tools` does not have, or names repeat."""
    names = [tool.name for tool in request.tools]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"Two tools are called {name!r}; names must differ.", param="tools")
        seen.add(name)
    choice = request.tool_choice
    if not names and choice not in ("auto", "none"):
        raise InvalidRequest("tool_choice asks for a call, but the request has no tools.", param="tool_choice")
    for name in choice.names if isinstance(choice, NamedTool) else ():
        if name not in names:
            raise InvalidRequest(
                f"tool_choice names {name!r}, which is not among the tools: {', '.join(names)}.", param="tool_choice"
            )


def offered_tools(request: ChatCompletionRequest) -> list[Tool]:
    """The tools that the model is told about: none, those it may call, or all."""
    choice = request.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, NamedTool) and not choice.required:
        return [tool for tool in request.tools if tool.name in choice.names]
    return list(request.tools)


def required_tools(request: ChatCompletionRequest) -> list[Tool]:
    """The tools of which one must be called; empty when the model is free to answer."""
    choice = request.tool_choice
    if choice == "required":
        return list(request.tools)
    if isinstance(choice, NamedTool) and choice.required:
        return [tool for tool in request.tools if tool.name in choice.names]
    return []
