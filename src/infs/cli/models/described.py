"""The description of a model, as text for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from infs.cli.models.asking import Offered
from infs.cli.models.memory import Estimated
from infs.cli.words import counted
from infs.store.metadata import ModelMetadata
from infs.store.progress import size_text

WIDTH = 16
SAID_BY = {
    "engine": "as the engine says",
    "header": "by the header of its file, in main memory",
    "size": "by the size of its files",
}


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file, its bytes, and its checksum, where that is known without reading it."""

    path: str
    bytes: int
    sha256: str | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a model on this machine.

    Attributes:
        configured: what the configuration says that is not as by default, by the ids of the models that use it.
        problem: why there is no metadata.
    """

    reference: str
    path: str
    complete: bool = True
    files: list[File]
    metadata: ModelMetadata | None = None
    problem: str = ""
    configured: dict[str, dict[str, Any]] = {}
    memory: Estimated | None = None


def describe_model(shown: Description) -> str:
    """The lines about a model that is here."""
    lines = [shown.reference, *_pair("path", shown.path)]
    if not shown.complete:
        lines += _pair("state", "not complete")
    if shown.metadata is not None:
        lines += _metadata(shown.metadata)
    lines += ["", "Files"]
    for file in shown.files:
        lines.append(f"  {file.path}, {size_text(file.bytes)}")
        lines += [f"    sha256 {file.sha256}"] if file.sha256 else []
    for name, settings in shown.configured.items():
        lines += ["", f"Configuration of {name}"]
        lines += [f"  {key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    if shown.memory is not None:
        lines += ["", f"Memory, {SAID_BY[shown.memory.source]}", *_memory(shown.memory)]
    return "\n".join(lines)


def describe_offers(name: str, offers: list[Offered]) -> str:
    """The lines about what could be fetched."""
    count = f"{counted(len(offers), 'model')} to choose from" if len(offers) > 1 else "it would bring"
    lines = [f"{name} is not on this machine; {count}:"]
    for each in offers:
        said = ", ".join(filter(None, (each.format, each.label, _size(each.bytes))))
        lines += ["", each.reference, f"  {said}"]
        lines += [f"  {file.path}, {_size(file.size)}" for file in each.files]
        lines += [f"  {file.path}, {_size(file.size)}, if the configuration names it" for file in each.beside]
    lines += ["", f"Fetch {'one' if len(offers) > 1 else 'it'}: infs models pull {offers[0].reference}"]
    return "\n".join(lines)


def _size(size: int | None) -> str:
    return "of unknown size" if size is None else size_text(size)


def _pair(key: str, value: object) -> list[str]:
    return [f"  {key:{WIDTH}}{value}"] if value not in (None, "", []) else []


def _metadata(said: ModelMetadata) -> Iterator[str]:
    yield from _pair("name", said.name)
    yield from _pair("format", said.format)
    yield from _pair("architecture", said.architecture)
    yield from _pair("parameters", said.parameters and amount_text(said.parameters))
    yield from _pair("quantisation", said.quantisation)
    yield from _pair("context", said.context_size and f"{said.context_size} tokens")
    yield from _pair("layers", said.layers)
    yield from _pair("embedding size", said.embedding_size)
    yield from _pair("vocabulary", said.vocabulary)
    yield from _pair("chat template", "yes" if said.chat_template else "no")
    yield from _pair("can do", ", ".join(said.capabilities))
    yield from _pair("licence", said.licence)
    yield from _pair("size", size_text(said.size))
    if said.missing:
        yield from _pair("missing", size_text(said.missing))


def amount_text(count: int) -> str:
    """A number of parameters as people write it: ``"494.0 M"``."""
    value = float(count)
    for unit in ("", " K", " M", " B"):
        if value < 1000:
            return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f} T"


def _memory(memory: Estimated) -> Iterator[str]:
    use = memory.use
    yield from _pair("main memory", size_text(use.host))
    for name, size in use.devices.items():
        yield from _pair(name, size_text(size))
    yield from _pair("of that", ", ".join(f"{part} {size_text(size)}" for part, size in use.parts.items()))
    yield from _pair("caches, at most", use.spare and size_text(use.spare))
    yield from _pair("note", memory.note)
