"""Typed functions as tools."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, cast

import pytest
from msgspec import Meta

from infs import ServerTool, ToolContext, tool
from infs.errors import ConfigError
from infs.types import (
    Tool,
)
from tests.toolbox.scripted import Place, add


def test_a_typed_function_becomes_a_tool() -> None:
    @tool(timeout=5, strict=True)
    async def find(
        where: Annotated[str, Meta(description="The city")],
        context: ToolContext,
        unit: Literal["c", "f"] = "c",
        *,
        near: list[Place] | None = None,
    ) -> str:
        """Find it.

        And more.
        """
        return where

    assert (find.name, find.description, find.timeout, find.strict) == ("find", "Find it.\n\nAnd more.", 5, True)
    assert find.parameters is not None
    place = {
        "title": "Place",
        "description": "A town.",
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    assert find.parameters == {
        "type": "object",
        "properties": {
            "where": {"type": "string", "description": "The city"},
            "unit": {"enum": ["c", "f"]},
            "near": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Place"}}, {"type": "null"}]},
        },
        "required": ["where"],
        "additionalProperties": False,
        "$defs": {"Place": place},
    }
    assert type(find.plain()) is Tool


def test_names_and_descriptions_can_be_given_and_the_function_stays_one() -> None:
    renamed = tool(lambda: 3, name="three", description="Gives 3")
    assert (renamed.name, renamed.description) == ("three", "Gives 3")
    assert renamed.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert renamed() == 3
    assert add(1, b=2) == 3


def untyped(a) -> None:  # type: ignore[no-untyped-def]
    """Not typed."""


def many(*names: str) -> None:
    """Any number."""


def positional(a: int, /) -> None:
    """Not by name."""


def strange(a: threading.Thread) -> None:
    """No schema."""


def unknown(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Not there."""


def generating(a: int) -> Any:
    """Not a result."""
    yield a


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(tool, untyped), "'untyped': the parameter 'a' has no type"),
        (partial(tool, many), r"\*names: str cannot be given by name"),
        (partial(tool, positional), "cannot be given by name"),
        (partial(tool, strange), "without JSON Schema"),
        (partial(tool, unknown), "cannot be read: name 'Nowhere'"),
        (partial(tool, generating), "is a generator"),
        (partial(tool, add.handler, timeout=0), "the timeout is 0"),
        (partial(tool, add.handler, timeout=float("nan")), "the timeout is nan"),
        (partial(ServerTool, name="x", handler=cast("Any", "add")), "'add', which cannot be called"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
