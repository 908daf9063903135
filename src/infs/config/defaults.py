"""`completion_defaults`: generation settings for requests that do not give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from infs.config.converting import check_names
from infs.errors import ConfigError, Unsupported
from infs.types import GENERATION_OPTIONS, UNSET, GenerationRequest, TextCompletionRequest, explain


def check_defaults(data: dict[str, Any], where: str, key: str) -> dict[str, Any]:
    """`completion_defaults` as plain data, with every setting known, of its type and in its range."""
    check_names(data, GENERATION_OPTIONS, where, key)
    if "stop" in data and isinstance(data["stop"], str):
        data = {**data, "stop": [data["stop"]]}
    try:
        plain: dict[str, Any] = msgspec.to_builtins(typed_defaults(data))
    except msgspec.ValidationError as error:
        what, param = explain(error)
        raise ConfigError(f"{where}: {key}.{what}.", param=f"{key}.{param}") from error
    return plain


def typed_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`completion_defaults` with the types that requests have; raises `msgspec.ValidationError`."""
    return msgspec.convert({"model": "-", **data}, _Defaults, strict=False).set_options()


class _Defaults(GenerationRequest[Any], frozen=True, kw_only=True, tag="defaults"):
    """Only there to check `completion_defaults` by the types that requests have."""


Generation = TypeVar("Generation", bound=GenerationRequest[Any])


def with_defaults(request: Generation, defaults: Mapping[str, Any]) -> Generation:
    """`request` with the settings of `defaults` in the places that it leaves open, where its task has a use for them.

    Raises:
        Unsupported: it sets what its task has no use for.
    """
    missing = {name: value for name, value in defaults.items() if getattr(request, name) is UNSET}
    if isinstance(request, TextCompletionRequest):
        missing.pop("reasoning_budget", None)
        if request.reasoning_budget is not UNSET and request.reasoning_budget is not None:
            raise Unsupported(
                "reasoning_budget limits the reasoning of a chat, and a text completion has none; leave it out.",
                param="reasoning_budget",
            )
    return msgspec.structs.replace(request, **missing) if missing else request
