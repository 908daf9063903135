"""Calls of FunctionGemma and Gemma 4: ``call:name{key:value}`` between tokens of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infs.chat.dialects.base import Calls, Dialect, always
from infs.chat.dialects.key_values import as_object, read_object, written
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.dialects.schemas import Arguments, Schema
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink, Thinking
from infs.chat.reader import Flow, Reader
from infs.types import Tool


@dataclass(frozen=True)
class Tokens:
    """The tokens around a call, and around a string in it."""

    open: str
    close: str
    quote: str

    def reader(self, tools: Sequence[Tool]) -> ReadContent:
        """Reads an answer with calls of `tools`."""
        heads = {f"call:{tool.name}{{": tool.name for tool in tools}

        def read(reader: Reader, sink: Sink) -> Flow[bool]:
            yield from reader.accept(self.open)
            yield from reader.skip_space()
            head = yield from reader.accept_any(heads)
            if not head:
                return False
            reader.since_mark()
            sink.call(heads[head])
            yield from read_object(reader, sink.arguments, self.quote)
            yield from reader.skip_space()
            yield from reader.accept(self.close, cut=True)
            return True

        return tagged([self.open], read)

    def rules(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
        """What calls of `tools` look like."""
        calls = [
            f"{lark.text('call:' + tool.name)} {Values(lark, Arguments(tool), self.quote).arguments()}"
            for tool in tools
        ]
        return Calls(self.open, lark.rule(f"{any_of(calls)} {lark.text(self.close)}"), again="")

    def write(self, name: str, arguments: str) -> str:
        """One call; `arguments` are JSON text."""
        return f"{self.open}call:{name}{written(as_object(arguments), self.quote)}{self.close}"


class Values:
    """Rules for the values of the arguments of one tool."""

    def __init__(self, lark: Lark, arguments: Arguments, quote: str) -> None:
        self._lark = lark
        self._arguments = arguments
        self._quote = quote
        self._known: dict[str, str] = {}

    def arguments(self) -> str:
        """All of them, with their braces."""
        shape = {"properties": self._arguments.properties, "required": list(self._arguments.required)}
        return self._object({**shape, "additionalProperties": self._arguments.open}, "#")

    def _value(self, schema: Any, place: str) -> str:
        """The name of a rule for a value that fits `schema`; the same for the same schema, which may hold itself."""
        if not isinstance(schema, dict):
            return self._any()
        key = json.dumps(schema, sort_keys=True)
        if key not in self._known:
            name = self._known[key] = self._lark.declare()
            self._lark.define(name, self._alternatives(self._arguments.resolve(schema), place))
        return self._known[key]

    def _alternatives(self, schema: Schema, place: str) -> str:
        values = self._arguments.values(schema)
        if values is not None:
            return any_of([self._lark.text(written(value, self._quote)) for value in values])
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return any_of([self._value(part, f"{place}/{key}") for part in schema[key]])
        self._arguments.refuse_if_strict(schema, ("allOf", "not", "if", "patternProperties"), place)
        named = schema.get("type")
        types = named if isinstance(named, list) else [named]
        return any_of([self._typed(kind, schema, place) for kind in types])

    def _typed(self, kind: Any, schema: Schema, place: str) -> str:
        match kind:
            case "string":
                self._arguments.check_text(schema, place)
                return self._string()
            case "array":
                return self._array(schema, place)
            case "object":
                return self._object(schema, place)
            case "integer" | "number" | "boolean" | "null":
                return self._lark.json(self._arguments.standalone({**schema, "type": kind}))
        return self._any()

    def _string(self) -> str:
        return f"{self._lark.text(self._quote)} {self._lark.until(self._quote)}"

    def _array(self, schema: Schema, place: str) -> str:
        self._arguments.refuse_if_strict(schema, ("prefixItems", "contains", "minItems", "maxItems"), place)
        item = self._value(schema.get("items"), f"{place}/items")
        return f'"[" ({item} ("," {item})*)? "]"'

    def _object(self, schema: Schema, place: str) -> str:
        """Named values in the order of their names, which is that of the templates."""
        self._arguments.refuse_if_strict(schema, ("minProperties", "maxProperties"), place)
        properties = schema.get("properties", {})
        required = set(schema.get("required", []))
        names = sorted(properties, key=lambda name: (name.lower(), name))
        # From the end: what may follow when something stands before, and when nothing does.
        other = f"{_KEY} {self._any()}" if schema.get("additionalProperties", True) is not False else ""
        later, first = (f'("," {other})*', f'({other} ("," {other})*)?') if other else ("", "")
        for name in reversed(names):
            pair = f"{self._lark.text(name + ':')} {self._value(properties[name], f'{place}/properties/{name}')}"
            rest = self._lark.rule(later) if later else ""
            if name in required:
                first, later = f"{pair} {rest}", f'"," {pair} {rest}'
            else:
                first = f"({pair} {rest} | {first})" if first else f"({pair} {rest})?"
                later = f'("," {pair})? {rest}'
        return f'"{{" {first} "}}"'

    def _any(self) -> str:
        """The name of a rule for any value."""
        if "any" not in self._known:
            name = self._known["any"] = self._lark.declare()
            plain = r"/-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?/ | \"true\" | \"false\" | \"null\"".replace('\\"', '"')
            inside = f'"{{" ({_KEY} {name} ("," {_KEY} {name})*)? "}}"'
            self._lark.define(name, f'{self._string()} | {plain} | "[" ({name} ("," {name})*)? "]" | {inside}')
        return self._known["any"]


_KEY = '/[^:,{}\\[\\]<>"]+/ ":"'

_FUNCTION_GEMMA = Tokens("<start_function_call>", "<end_function_call>", "<escape>")
_GEMMA_4 = Tokens("<|tool_call>", "<tool_call|>", '<|"|>')


def _dialect(name: str, tokens: Tokens, thinking: Thinking, ends: tuple[str, ...]) -> Dialect:
    return Dialect(
        name=name,
        marks=(tokens.open, tokens.close, tokens.quote),
        triggers=always(tokens.open),
        reader=tokens.reader,
        rules=tokens.rules,
        write=tokens.write,
        thinking=thinking,
        call_tokens=(tokens.open, tokens.close, tokens.quote),
        ends=ends,
    )


DIALECTS = (
    _dialect(
        "function-gemma",
        _FUNCTION_GEMMA,
        Thinking("<think>", "</think>", end="\n</think>\n\n"),
        ("<start_function_response>", "<end_of_turn>"),
    ),
    _dialect(
        "gemma-4",
        _GEMMA_4,
        Thinking("<|channel>thought", "<channel|>", end="\n<channel|>", specials=("<|channel>", "<channel|>")),
        ("<|tool_response>", "<turn|>"),
    ),
)
