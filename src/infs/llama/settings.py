"""Requests made of the arguments of a call: keyword arguments, plain data or vocabulary classes, checked alike."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from infs.config import with_defaults
from infs.errors import InvalidRequest, Unsupported
from infs.types import (
    UNSET,
    ChatCompletionRequest,
    GenerationRequest,
    Message,
    NamedConstraint,
    Request,
    TextCompletionRequest,
    explain,
    validate,
)

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A conversation: messages, or dictionaries with their fields; a text is one message of the user."""

Prompt = str | Sequence[int]
"""A text, or its tokens."""

Generation = TextCompletionRequest | ChatCompletionRequest
Made = TypeVar("Made", bound=Request[Any])
MODEL = "llama"  # requests name a model, and here there is one


def make(kind: type[Made], **fields: Any) -> Made:
    """A request of `kind`, checked. Fields that are `UNSET` are left out.

    Raises:
        InvalidRequest: a field is not known, of a wrong type or out of range.
    """
    given = {name: value for name, value in fields.items() if value is not UNSET}
    for name in given:
        if name not in kind.__struct_fields__:
            raise _unknown(name, kind.__struct_fields__)
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        plain = msgspec.to_builtins({"model": MODEL, **given}, builtin_types=(bytes,))
        request = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        message, param = explain(error)
        raise InvalidRequest(message, param=param) from error
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(f"The request holds something that is not data: {error}") from error
    checked: Made = validate(request)
    return checked


def text_request(prompt: Prompt, settings: Mapping[str, Any]) -> TextCompletionRequest:
    """A text completion."""
    return make(TextCompletionRequest, prompt=prompt if isinstance(prompt, str) else tokens_of(prompt), **settings)


def chat_request(messages: Messages, settings: Mapping[str, Any]) -> ChatCompletionRequest:
    """A chat completion."""
    told: Any = [Message(role="user", content=messages)] if isinstance(messages, str) else messages
    return make(ChatCompletionRequest, messages=list(told) if isinstance(told, Iterable) else told, **settings)


def any_request(what: Generation | Prompt | Messages, settings: Mapping[str, Any]) -> Generation:
    """The request that `what` is, or stands for: messages make a chat, a text and tokens a text completion."""
    if isinstance(what, Request):
        if not isinstance(what, Generation):
            raise Unsupported(f"A {what.task} is no generation; use embed or rerank.")
        if settings:
            raise InvalidRequest(f"{next(iter(settings))} belongs into the request, which has all settings.")
        return validate(what)
    several = isinstance(what, Sequence) and not isinstance(what, str)
    if several and any(isinstance(part, Message | Mapping) for part in what):
        return chat_request(what, settings)  # type: ignore[arg-type]
    return text_request(what, settings)  # type: ignore[arg-type]


def complete_settings(request: Generation, defaults: Mapping[str, Any]) -> Generation:
    """`request` with the settings of `defaults` in the places that it leaves open.

    Raises:
        InvalidRequest: it names something that only a server has.
        Unsupported: it sets what its task has no use for.
    """
    request = with_defaults(request, defaults)
    if isinstance(request.constraint, NamedConstraint):
        raise InvalidRequest(
            f"constraint names the grammar {request.constraint.name!r}; give the grammar itself.", param="constraint"
        )
    if isinstance(request, ChatCompletionRequest) and request.max_tool_rounds is not None:
        raise Unsupported("Tools are not called here, so max_tool_rounds has no use.", param="max_tool_rounds")
    return request


def tokens_of(tokens: Iterable[Any], param: str = "prompt") -> list[int]:
    """`tokens` as plain integers, those of NumPy included."""
    try:
        return [operator.index(token) for token in tokens]
    except TypeError as error:
        raise InvalidRequest(f"{param} must be tokens, which are integers: {error}.", param=param) from error


def check_text(text: Any, param: str) -> str:
    """`text`, if it is one that can be encoded."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{param} must be a text, not {type(text).__name__}.", param=param)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{param} is not valid Unicode: half of a surrogate pair at character {error.start}.", param=param
        ) from error
    return text


def sampling_options(settings: Mapping[str, Any], defaults: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Checked sampling settings, which are those called `names`, with `defaults` below."""
    for name in settings:
        if name not in names:
            raise _unknown(name, names)
    request: GenerationRequest[Any] = text_request("", settings)
    return {name: value for name, value in {**defaults, **request.set_options()}.items() if name in names}


def _unknown(name: str, known: Sequence[str]) -> InvalidRequest:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known))}."
    return InvalidRequest(f"There is no setting {name!r} here. {hint}", param=name)
