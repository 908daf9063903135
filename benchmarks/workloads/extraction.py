"""Documents that fit a JSON schema, one at a time and several at once. Each is checked against the schema.

The random model writes strings as long as the schema lets it. Between the parts of a document all characters are
equally likely for it, so those of white space are banned where the syntax does without: a side whose grammar allows
any amount of it would otherwise write a lot.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.client import Answer, ask, run
from benchmarks.figures import Figure
from benchmarks.random_llama import byte_token
from benchmarks.workloads.base import Bench, Measured, Metric, Round, body, both, compare
from benchmarks.workloads.conversations import message

PROMPT = 150  # tokens of the text that a document is about
LONGEST = 400  # tokens of a document, at most; the longest that fit the schema take about half of it
DOCUMENTS = 4  # of a round


def _text(longest: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest}


def _integer(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _list(items: dict[str, Any], fewest: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": fewest, "maxItems": most}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMA = _object(
    document_title=_text(40),
    document_kind={"enum": ["invoice", "contract", "letter", "report"]},
    priority=_integer(1, 5),
    language={"enum": ["english", "german", "french", "spanish"]},
    is_published={"type": "boolean"},
    short_summary=_text(100),
    keywords=_list(_text(12), 3, 3),
    author=_object(
        full_name=_text(24), role={"enum": ["editor", "writer", "reviewer"]}, employee_number=_integer(0, 9999)
    ),
    review_scores=_list(_integer(0, 100), 4, 4),
    review_status={"enum": ["open", "in_review", "accepted", "rejected"]},
)


def extraction(bench: Bench) -> Iterator[Figure]:
    """Documents a second, one at a time and four at once."""
    with both(bench, bench.setup()) as ports:
        for at_once in (1, DOCUMENTS):
            ours, peer = (_rounds(port, bench, at_once) for port in ports)
            start = f"extraction, {at_once} at a time"
            yield from compare(start, [Metric("documents/s", 3.0, per_second="documents")], ours, peer, bench.rounds)


def _rounds(port: int, bench: Bench, at_once: int) -> Round:
    seeds = itertools.count(3000 + 500 * at_once, DOCUMENTS)
    return lambda: run(_documents(port, bench, at_once, next(seeds)))


async def _documents(port: int, bench: Bench, at_once: int, seed: int) -> Measured:
    started = time.perf_counter()
    answers: list[Answer] = []
    for first in range(seed, seed + DOCUMENTS, at_once):
        answers += await asyncio.gather(*(ask(port, _body(bench, first + number)) for number in range(at_once)))
    each = (time.perf_counter() - started) / DOCUMENTS
    for answer in answers:
        check(json.loads(answer.text), SCHEMA)
    # What is between the parts of a document is the sides' own affair, and so are the words that follow from it.
    return Measured({"documents/s": each}, [], None)


def _body(bench: Bench, seed: int) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "document", "schema": SCHEMA}}
    banned = {str(byte_token(character)): -100 for character in " \n\r\t"}
    messages = [message("user", bench, PROMPT, seed)]
    return body(LONGEST, messages=messages, response_format=wanted, logit_bias=banned)


def check(value: Any, schema: dict[str, Any], where: str = "the document") -> None:
    """Whether `value` fits `schema`, of which it knows the keywords above.

    Raises:
        ValueError: where it does not.
    """
    if "enum" in schema:
        _expect(value in schema["enum"], value, schema, where)
    elif schema["type"] == "object":
        _expect(isinstance(value, dict) and list(value) == schema["required"], value, schema, where)
        for name, inner in schema["properties"].items():
            check(value[name], inner, f"{where}.{name}")
    elif schema["type"] == "array":
        _expect(isinstance(value, list), value, schema, where)
        _expect(schema["minItems"] <= len(value) <= schema["maxItems"], value, schema, where)
        for number, item in enumerate(value):
            check(item, schema["items"], f"{where}[{number}]")
    else:
        _expect(_fits(value, schema), value, schema, where)


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if schema["type"] == "boolean":
        return isinstance(value, bool)
    return type(value) is int and bool(schema["minimum"] <= value <= schema["maximum"])


def _expect(fits: bool, value: Any, schema: dict[str, Any], where: str) -> None:
    if not fits:
        raise ValueError(f"{where} is {value!r}, which does not fit {schema}.")
