"""Calls of Qwen3-Coder and others: tags for the function and for each of its parameters, with plain text between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from infs.chat.dialects.base import Calls, Dialect, Trigger
from infs.chat.dialects.key_values import as_json, as_object, in_string
from infs.chat.dialects.lark import Lark, any_of
from infs.chat.dialects.schemas import Arguments
from infs.chat.dialects.tagged import tagged
from infs.chat.parser import ReadContent, Sink
from infs.chat.reader import Flow, Reader
from infs.types import Tool

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
FUNCTION = "<function="
END_FUNCTION = "</function>"
PARAMETER = "<parameter="
END_PARAMETER = "</parameter>"

_END = f"\n{END_PARAMETER}"
_NEW_LINE = r'"\n"'


def _reader(tools: Sequence[Tool]) -> ReadContent:
    heads = {f"{FUNCTION}{tool.name}>": tool for tool in tools}

    def read(reader: Reader, sink: Sink) -> Flow[bool]:
        yield from reader.accept(OPEN)
        yield from reader.skip_space()
        head = yield from reader.accept_any(heads)
        if not head:
            return False
        reader.since_mark()
        sink.call(heads[head].name)
        yield from _read_parameters(reader, sink, _texts(heads[head]))
        yield from reader.skip_space()
        yield from reader.accept(CLOSE, cut=True)
        return True

    return tagged([OPEN, *heads], read)


def _texts(tool: Tool) -> set[str]:
    """The parameters of `tool` whose values are nothing but text."""
    properties = (tool.parameters or {}).get("properties", {})
    return {name for name, part in properties.items() if isinstance(part, dict) and _is_text(part)}


def _is_text(part: dict[str, Any]) -> bool:
    values = [part["const"]] if "const" in part else part.get("enum")
    if isinstance(values, list) and values:
        return all(isinstance(value, str) for value in values)
    return part.get("type") == "string"


def _read_parameters(reader: Reader, sink: Sink, texts: set[str]) -> Flow[None]:
    sink.arguments("{")
    separator = ""
    while True:
        yield from reader.skip_space()
        if not (yield from reader.accept(PARAMETER)):
            break
        key = yield from _until(reader, ">")
        sink.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        yield from reader.accept("\n")
        if key in texts:
            yield from _stream(reader, sink)
        else:
            value = yield from _until(reader, END_PARAMETER)
            sink.arguments(as_json(value.removesuffix("\n")))
    if (yield from reader.peek()):  # at the end of the text, the call is cut off
        yield from reader.accept(END_FUNCTION, cut=True)
        sink.arguments("}")


def _stream(reader: Reader, sink: Sink) -> Flow[None]:
    """Read the text of a parameter; the new line before its closing tag does not belong to it."""
    held = ""

    def emit(text: str) -> None:
        nonlocal held
        text = held + text
        held = "\n" if text.endswith("\n") else ""
        sink.arguments(in_string(text.removesuffix("\n")))

    sink.arguments('"')
    if (yield from reader.until(END_PARAMETER, emit)):
        sink.arguments('"')


def _until(reader: Reader, literal: str) -> Flow[str]:
    pieces: list[str] = []
    yield from reader.until(literal, pieces.append)
    return "".join(pieces)


def _rules(lark: Lark, tools: Sequence[Tool], parallel: bool) -> Calls:
    # New lines are on their own, so that what may follow one is not decided by it.
    calls = [f"{lark.text(tool.name + '>')} {_NEW_LINE} {_parameters(lark, Arguments(tool))}" for tool in tools]
    end = f"{lark.text(END_FUNCTION)} {_NEW_LINE} {lark.text(CLOSE)}"
    block = f"({_NEW_LINE})? {lark.text(FUNCTION)} {any_of(calls)} {end}"
    return Calls(OPEN, lark.rule(block), again=f"({_NEW_LINE})?")


def _parameters(lark: Lark, arguments: Arguments) -> str:
    parts = []
    for name, required in arguments.names():
        part = f"{lark.text(f'{PARAMETER}{name}>')} {_NEW_LINE} {_value(lark, arguments, name)} {_NEW_LINE}"
        parts.append(part if required else f"({part})?")
    if arguments.open:
        head = f"{lark.text(PARAMETER)} /[^<>\\n]+/ {lark.text('>')} {_NEW_LINE}"
        parts.append(f"({head} {lark.until(_END)} {_NEW_LINE})*")
    return " ".join(parts)


def _value(lark: Lark, arguments: Arguments, name: str) -> str:
    schema = arguments.properties[name]
    values = arguments.values(schema)
    if values is not None:
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        return any_of([lark.text(text + _END) for text in texts])
    types = arguments.types(schema)
    if types and "string" not in types:
        return f"{lark.json(arguments.standalone(schema))} {lark.text(_END)}"
    arguments.check_text(schema, f"#/properties/{name}")
    return lark.until(_END)


def _write(name: str, arguments: str) -> str:
    values = as_object(arguments)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    inner = "".join(f"{PARAMETER}{key}>\n{text}{_END}\n" for key, text in texts.items())
    return f"{OPEN}\n{FUNCTION}{name}>\n{inner}{END_FUNCTION}\n{CLOSE}"


def _triggers(tools: Sequence[Tool]) -> tuple[Trigger, ...]:
    # These models sometimes forget the outer tag.
    return (Trigger(OPEN), *(Trigger(f"{FUNCTION}{tool.name}>", lead=f"{FUNCTION}{tool.name}>") for tool in tools))


DIALECTS = (
    Dialect(
        name="qwen-coder",
        marks=(OPEN, FUNCTION, PARAMETER),
        triggers=_triggers,
        reader=_reader,
        rules=_rules,
        write=_write,
        call_tokens=(OPEN, CLOSE),
    ),
)
