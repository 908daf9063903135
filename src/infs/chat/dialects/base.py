"""What a tool-call dialect is: how a model was trained to write its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infs.chat.dialects.lark import Lark
from infs.chat.parser import THINK, OutputParser, ReadContent, Thinking, new_call_id, read_plain
from infs.chat.schema import Whitespace, enforceable
from infs.errors import InvalidRequest, RequestError
from infs.types import Tool


@dataclass(frozen=True)
class Trigger:
    """A text from which on a call is certain.

    Attributes:
        text: what the output has come to end in.
        anchored: it counts at the beginning of the answer only, behind white space and reasoning.
        lead: what the grammar for the rest of the call begins with, of what the trigger has said already.
    """

    text: str
    anchored: bool = False
    lead: str = ""


@dataclass(frozen=True)
class Calls:
    """Lark expressions for calls, the parts of which a grammar is made.

    Attributes:
        opening: text (no expression) before `block`; may be empty.
        block: a call and all that closes it, or several of them where one opening is for all.
        again: what stands between two blocks, each with its opening; ``None`` where there can be only one.
        tail: what may follow a block where the model is free; by default text with further blocks, or nothing where
            there can be only one.
    """

    opening: str
    block: str
    again: str | None = None
    tail: str | None = None


@dataclass(frozen=True)
class Dialect:
    """One way to write tool calls.

    Attributes:
        name: what it is called.
        marks: texts that a chat template of this dialect has in it, all of them.
        triggers: what calls of these tools begin with.
        reader: makes the reader of an answer, given the tools.
        rules: what calls of these tools look like; the last argument says whether there may be several.
        write: the text of one call, of a name and arguments as JSON.
        tells_from_json: a call cannot be confused with an answer that is JSON.
        framed: an answer has marks around it whether or not there are tools.
        answer: text before an answer that is no call.
        thinking: the marks of the reasoning.
        call_tokens: texts in calls that may be control tokens of a vocabulary.
        ends: texts of tokens that end a turn, whatever the vocabulary says of them.
        not_ends: texts of tokens that do not.
    """

    name: str
    marks: tuple[str, ...]
    triggers: Callable[[Sequence[Tool]], tuple[Trigger, ...]]
    reader: Callable[[Sequence[Tool]], ReadContent]
    rules: Callable[[Lark, Sequence[Tool], bool], Calls]
    write: Callable[[str, str], str]
    tells_from_json: bool = True
    framed: bool = False
    answer: str = ""
    thinking: Thinking = THINK
    call_tokens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    not_ends: tuple[str, ...] = ()

    @property
    def specials(self) -> tuple[str, ...]:
        """Texts that the parser must be shown, and the grammar written with, where they are control tokens."""
        return tuple(dict.fromkeys((*self.call_tokens, *self.thinking.specials)))

    def parser(
        self,
        tools: Sequence[Tool],
        *,
        thinking: bool = False,
        parallel: bool = True,
        make_id: Callable[[], str] = new_call_id,
    ) -> OutputParser:
        """A parser of one output; see `OutputParser`. Without tools, nothing in the output is a call."""
        read = self.reader(tools) if tools or self.framed else read_plain
        return OutputParser(read, thinking=thinking, parallel=parallel, make_id=make_id, marks=self.thinking)

    def required(self, tools: Sequence[Tool], *, parallel: bool, controls: Mapping[str, int] | None = None) -> str:
        """A Lark grammar for calls of `tools`, and nothing else; their arguments fit their schemas.

        Args:
            parallel: there may be several.
            controls: ids of control tokens by their texts.

        Raises:
            Unsupported: a schema with ``strict`` cannot be enforced.
            InvalidRequest: a schema is wrong.
        """
        lark = Lark(controls)
        calls = self.rules(lark, tools, parallel)
        block = f"{lark.text(calls.opening)} {calls.block}" if calls.opening else calls.block
        more = f" ({calls.again} {block})*" if parallel and calls.again is not None else ""
        return lark.grammar(block + more)

    def rest(self, tools: Sequence[Tool], *, parallel: bool, controls: Mapping[str, int] | None = None) -> str:
        """A Lark grammar for what follows a trigger: the rest of its call and, if `parallel`, all after that.

        Raises:
            Unsupported, InvalidRequest: as `required`.
        """
        lark = Lark(controls)
        calls = self.rules(lark, tools, parallel)
        if not parallel:
            return lark.grammar(calls.block)
        tail = calls.tail or ""
        if calls.tail is None and calls.again is not None:
            tail = f"({self._thoughts(lark)} {lark.until(calls.opening)} {calls.block})* {self._thoughts(lark)} TEXT"
        return lark.grammar(f"{calls.block} {tail}")

    def _thoughts(self, lark: Lark) -> str:
        """Text in which control tokens of the reasoning may stand."""
        tokens = [mark for mark in map(lark.text, self.thinking.specials) if mark.startswith("<[")]
        return f"(TEXT ({' | '.join(tokens)}))*" if tokens else ""


def call_object(name: str, arguments: str, *, key: str = "arguments") -> str:
    """One call as a JSON object; `arguments` are JSON text."""
    return f'{{"name": {json.dumps(name)}, "{key}": {arguments or "{}"}}}'


def call_objects(lark: Lark, tools: Sequence[Tool], *, key: str = "arguments", end: str = '"}"') -> str:
    """One call as a JSON object, the way most templates show it.

    Args:
        key: of the arguments.
        end: an expression for what follows them.
    """
    calls = []
    for tool in tools:
        head = lark.text(f'{{"name": {json.dumps(tool.name)}')
        calls.append(f'{head} /, ?"{key}": ?/ {arguments(lark, tool)} {end}')
    return lark.rule(" | ".join(calls))


def arguments(lark: Lark, tool: Tool, whitespace: Whitespace = "compact") -> str:
    """The arguments of `tool` as a JSON object."""
    return lark.json(parameters(tool, whitespace))


def parameters(tool: Tool, whitespace: Whitespace = "compact") -> dict[str, Any]:
    """The schema of the arguments of `tool`, ready for llguidance.

    Raises:
        Unsupported: it is to be enforced strictly, and cannot be.
        InvalidRequest: it is wrong.
    """
    schema = {"type": "object", "properties": {}, **(tool.parameters or {})}
    if schema["type"] != "object":
        raise InvalidRequest(f"The parameters of the tool {tool.name!r} are not of type object.", param="tools")
    if not any(key in schema for key in ("allOf", "anyOf", "oneOf", "$ref", "patternProperties")):
        # A function has no use for arguments that it does not name.
        schema.setdefault("additionalProperties", False)
    try:
        return enforceable(schema, param="tools", lenient=not tool.strict, whitespace=whitespace)
    except RequestError as error:
        raise type(error)(f"The tool {tool.name!r}: {error.message}", param="tools") from error


def always(*texts: str) -> Callable[[Sequence[Tool]], tuple[Trigger, ...]]:
    """Triggers that are the same for all tools, and count anywhere."""
    triggers = tuple(Trigger(text) for text in texts)
    return lambda tools: triggers
