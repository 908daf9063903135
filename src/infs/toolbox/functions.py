"""Tools with the Python functions that carry them out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Union, get_args, overload

import msgspec
from msgspec import UNSET, Struct, UnsetType

from infs.errors import ConfigError
from infs.types import Message, Tool, ToolCall


class ToolContext(Struct, frozen=True, kw_only=True):
    """What a handler is told beside its arguments, if a parameter of it has this type.

    Attributes:
        model: the id of the model that calls.
        index: the number of the choice, which is 0 unless the request wants several.
        call: the call, with its id and the arguments as the model wrote them.
        text: what the model said in this turn beside its calls; empty when it only called.
        messages: the conversation before this turn.
    """

    model: str
    index: int
    call: ToolCall
    text: str
    messages: list[Message]


class ServerTool(Tool, frozen=True, kw_only=True):
    """A tool whose calls the server carries out, anywhere that a `Tool` is offered; see `tool` for the short way.

    Attributes:
        handler: sync (run in a thread of its own) or async. It gets the arguments as one dictionary; as keyword
            arguments, if `arguments` is there. Nothing checks the dictionary against `parameters`.
        parallel: it may run at the same time as the other calls of the same message.
        timeout: seconds that a call may take.
        arguments: the struct that the arguments are read as, a field for each parameter.

    Raises:
        ConfigError: the handler cannot be called, or the timeout is no positive number of seconds.
    """

    handler: Callable[..., Any]
    parallel: bool = True
    timeout: float | None = None
    arguments: type[Struct] | None = None

    def __post_init__(self) -> None:
        check_timeout(self.name, self.timeout)
        context_parameter(self.name, self.handler)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, so that decorating it takes nothing away."""
        return self.handler(*args, **kwargs)

    def plain(self) -> Tool:
        """The tool without the handler: what a model is told."""
        return Tool(**{name: getattr(self, name) for name in Tool.__struct_fields__})


@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    parallel: bool = True,
    timeout: float | None = None,
) -> ServerTool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    parallel: bool = True,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], ServerTool]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A tool made of a typed function: its name, its docstring, and its parameters as JSON Schema.

    As a decorator (``@tool`` or ``@tool(timeout=5)``) or a plain call (``tool(get_weather)``). The types are those of
    msgspec: `Annotated` with ``msgspec.Meta(description=...)`` describes a parameter or limits it. A parameter with a
    default may be left out by the model; one of type `ToolContext` is not the model's.

    Args:
        name, description: instead of the function's own.
        strict: make the model's arguments fit the schema while they are written.
        parallel, timeout: as in `ServerTool`.

    Raises:
        ConfigError: a parameter has no type, or one that has no JSON Schema.
    """
    if function is None:
        return lambda function: _of(function, **options)
    return _of(function, **options)


def _of(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None, **options: Any
) -> ServerTool:
    name = name or str(getattr(function, "__name__", type(function).__name__))
    kind = _struct(name, function)
    return ServerTool(
        name=name,
        description=description if description is not None else inspect.getdoc(function),
        parameters=_schema(name, kind),
        handler=function,
        arguments=kind,
        **options,
    )


def _struct(name: str, function: Callable[..., Any]) -> type[Struct]:
    """A struct with a field for each parameter. One with a default is left unset, so that the default stays its own."""
    fields: list[Any] = []
    for parameter in _signature(name, function).parameters.values():
        if _is_context(parameter):
            continue
        _check(name, parameter)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, parameter.annotation))
        else:
            fields.append((parameter.name, Union[parameter.annotation, UnsetType], UNSET))  # noqa: UP007 - any type
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)


def _check(name: str, parameter: inspect.Parameter) -> None:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigError(f"The tool {name!r}: {parameter} cannot be given by name; use plain parameters.")
    if parameter.annotation is parameter.empty:
        raise ConfigError(f"The tool {name!r}: the parameter {parameter.name!r} has no type; annotate it.")


def _schema(name: str, kind: type[Struct]) -> dict[str, Any]:
    try:
        whole = msgspec.json.schema(kind)
    except TypeError as error:
        raise ConfigError(f"The tool {name!r}: a parameter has a type without JSON Schema: {error}") from error
    definitions = whole["$defs"]
    schema: dict[str, Any] = definitions.pop(whole["$ref"].rpartition("/")[2])
    del schema["title"]
    if not schema["required"]:
        del schema["required"]
    return {**schema, "$defs": definitions} if definitions else schema


def check_timeout(name: str, timeout: float | None) -> None:
    """Raise `ConfigError` unless `timeout` is none, or a positive number of seconds."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ConfigError(f"The tool {name!r}: the timeout is {timeout}; it is a positive number of seconds.")


def context_parameter(name: str, handler: Any) -> str | None:
    """The parameter of `handler` that wants a `ToolContext`, if any.

    Raises:
        ConfigError: the handler cannot be called, or is a generator.
    """
    if not callable(handler):
        raise ConfigError(f"The tool {name!r}: its handler is {handler!r}, which cannot be called.")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigError(f"The tool {name!r}: its handler is a generator; it must return the result.")
    parameters = _signature(name, handler).parameters.values()
    return next((parameter.name for parameter in parameters if _is_context(parameter)), None)


def _is_context(parameter: inspect.Parameter) -> bool:
    return ToolContext in (parameter.annotation, *get_args(parameter.annotation))


def _signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception as error:  # annotations are code: anything may go wrong
        raise ConfigError(f"The tool {name!r}: the types of its handler cannot be read: {error}") from error
