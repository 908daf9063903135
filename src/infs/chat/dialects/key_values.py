"""Arguments as FunctionGemma and Gemma 4 write them: like JSON, but with bare keys and other quotes.

``{city:<escape>Berlin<escape>,days:[1,2],exact:true}``
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from infs.chat.reader import SPACE, Flow, Reader

Emit = Callable[[str], None]

# Deeper nesting is no sensible call, and reading is recursive.
_DEEPEST = 50

_PYTHON = {"True": "true", "False": "false", "None": "null"}


def read_object(reader: Reader, emit: Emit, quote: str, *, depth: int = 0) -> Flow[bool]:
    """Read an object behind its ``{`` and `emit` it as JSON, as it comes; false if it is cut off or malformed."""
    emit("{")
    separator = ""
    while True:
        yield from reader.skip_space()
        if (yield from reader.accept("}")):
            emit("}")
            return True
        if separator and not (yield from reader.accept(",")):
            return False
        key = yield from _key(reader, quote)
        if key is None:
            return False
        emit(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        if not (yield from _value(reader, emit, quote, depth + 1)):
            return False


def _list(reader: Reader, emit: Emit, quote: str, depth: int) -> Flow[bool]:
    emit("[")
    separator = ""
    while True:
        yield from reader.skip_space()
        if (yield from reader.accept("]")):
            emit("]")
            return True
        if separator and not (yield from reader.accept(",")):
            return False
        if separator:
            emit(separator)
        separator = ", "
        if not (yield from _value(reader, emit, quote, depth + 1)):
            return False


def _value(reader: Reader, emit: Emit, quote: str, depth: int) -> Flow[bool]:
    yield from reader.skip_space()
    if (yield from reader.accept(quote)):
        return (yield from _text(reader, emit, quote))
    char = yield from reader.peek()
    if char == '"':
        return (yield from reader.span(emit))
    if char in ("{", "["):
        if depth > _DEEPEST:
            return False
        reader.take(1)
        read = read_object(reader, emit, quote, depth=depth) if char == "{" else _list(reader, emit, quote, depth)
        return (yield from read)
    word = yield from _word(reader, ",}]")
    if not word:
        return False
    emit(as_json(word))
    return True


def _text(reader: Reader, emit: Emit, quote: str) -> Flow[bool]:
    emit('"')
    if not (yield from reader.until(quote, lambda text: emit(in_string(text)))):
        return False
    emit('"')
    return True


def _key(reader: Reader, quote: str) -> Flow[str | None]:
    yield from reader.skip_space()
    pieces: list[str] = []
    if (yield from reader.accept(quote)):
        if not (yield from reader.until(quote, pieces.append)):
            return None
        key = "".join(pieces)
    else:
        key = (yield from _word(reader, ":,{}[]")).strip('"')
    yield from reader.skip_space()
    return key if key and (yield from reader.accept(":")) else None


def _word(reader: Reader, ends: str) -> Flow[str]:
    chars: list[str] = []
    while (char := (yield from reader.peek())) and char not in ends:
        chars.append(reader.take(1))
    return "".join(chars).strip(SPACE)


def as_json(text: str) -> str:
    """`text` as JSON: as it is where it is JSON, or would be but for Python's words; else as a string."""
    word = _PYTHON.get(text.strip(), text)
    try:
        json.loads(word, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    return word


def as_object(text: str) -> dict[str, Any]:
    """The object that `text` is as JSON; an empty one if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def written(value: Any, quote: str) -> str:
    """`value` as these models write it."""
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case list():
            return f"[{','.join(written(item, quote) for item in value)}]"
        case dict():
            return "{" + ",".join(f"{key}:{written(value[key], quote)}" for key in sorted(value)) + "}"
    return json.dumps(value)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def in_string(text: str) -> str:
    """`text` as it stands within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
