"""What a tool-call dialect is: how a model was trained to write its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from infs.chat.constraints import literal
from infs.chat.parser import OutputParser, ReadContent, new_call_id, read_plain
from infs.chat.schema import enforceable
from infs.errors import InvalidRequest, RequestError
from infs.types import Tool

Freedom = Literal["one", "some", "free"]
"""What a grammar allows: exactly one call, one or more, or text with calls in it."""


@dataclass(frozen=True)
class Dialect:
    """One way to write tool calls.

    Attributes:
        name: what it is called.
        marks: texts that a chat template of this dialect has in it, all of them.
        triggers: texts with which a call begins.
        reader: makes the reader of an answer, given the names of the tools.
        rules: the Lark rule ``calls`` for tools, given the rule for each tool's arguments in their order, and what
            is allowed. May use those rules, and what it defines itself.
        tells_from_json: a call cannot be confused with an answer that is JSON.
    """

    name: str
    marks: tuple[str, ...]
    triggers: tuple[str, ...]
    reader: Callable[[Collection[str]], ReadContent]
    rules: Callable[[Sequence[Tool], Freedom], str]
    tells_from_json: bool = True

    def parser(
        self,
        tools: Sequence[Tool],
        *,
        thinking: bool = False,
        parallel: bool = True,
        make_id: Callable[[], str] = new_call_id,
    ) -> OutputParser:
        """A parser of one output; see `OutputParser`. Without tools, nothing in the output is a call."""
        read = self.reader({tool.name for tool in tools}) if tools else read_plain
        return OutputParser(read, thinking=thinking, parallel=parallel, make_id=make_id)

    def grammar(self, tools: Sequence[Tool], freedom: Freedom) -> str:
        """A Lark grammar with the rule ``calls``: calls of `tools` with arguments that fit their schemas.

        Raises:
            Unsupported: a schema with ``strict`` cannot be enforced.
            InvalidRequest: a schema is wrong.
        """
        arguments = [f"{arguments_rule(index)}: %json {_schema(tool)}" for index, tool in enumerate(tools)]
        return "\n".join([self.rules(tools, freedom), *arguments, ""])


def arguments_rule(index: int) -> str:
    """The name of the rule for the arguments of tool number `index`."""
    return f"arguments_{index}"


def call_rules(tools: Sequence[Tool]) -> str:
    """Lark rules for ``call``, one call as a JSON object, the way most templates show it."""
    lines = ["call: " + " | ".join(f"call_{index}" for index in range(len(tools)))]
    for index, tool in enumerate(tools):
        head = literal(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
        lines.append(f'call_{index}: {head} {arguments_rule(index)} "}}"')
    return "\n".join(lines)


def _schema(tool: Tool) -> str:
    schema = {"type": "object", "properties": {}, **(tool.parameters or {})}
    if schema["type"] != "object":
        raise InvalidRequest(f"The parameters of the tool {tool.name!r} are not of type object.", param="tools")
    if not any(key in schema for key in ("allOf", "anyOf", "oneOf", "$ref", "patternProperties")):
        # A function has no use for arguments that it does not name.
        schema.setdefault("additionalProperties", False)
    try:
        return json.dumps(enforceable(schema, param="tools", lenient=not tool.strict))
    except RequestError as error:
        raise type(error)(f"The tool {tool.name!r}: {error.message}", param="tools") from error
