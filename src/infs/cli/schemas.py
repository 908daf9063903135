"""The configuration as a JSON Schema, which editors complete and check files by."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from infs.cli.engines import option_structs
from infs.cli.keys import descriptions, sentence
from infs.config import Config, ModelConfig
from infs.types import GENERATION_OPTIONS, GenerationRequest

REF = "#/$defs/"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEFAULTS = "CompletionDefaults"

Schema = dict[str, Any]


def config_schema() -> Schema:
    """The JSON Schema of a configuration file; what `options` may hold follows from the model's engine."""
    options = option_structs()
    kinds: list[Any] = [Config, *options.values(), _completion_defaults()]
    _, components = msgspec.json.schema_components(kinds, ref_template=REF + "{name}")
    for name, schema in components.items():
        _describe(schema, _structs(kinds).get(name))
    _describe_tables(components)
    model = components[ModelConfig.__name__]
    _complete_defaults(components, model)
    _tell_options(model, {engine: kind.__name__ for engine, kind in options.items()})
    root = components.pop(Config.__name__)
    return {"$schema": DIALECT, "title": "Configuration of infs", **_without(root, "title"), "$defs": components}


def _completion_defaults() -> Any:
    """What a model's `completion_defaults` may hold, as a struct."""
    fields = [field for field in msgspec.structs.fields(GenerationRequest) if field.name in GENERATION_OPTIONS]
    return msgspec.defstruct(
        DEFAULTS, [(field.name, field.type, msgspec.UNSET) for field in fields], forbid_unknown_fields=True
    )


def _structs(kinds: list[Any]) -> dict[str, Any]:
    """All structs that `kinds` are made of, by name."""
    found: dict[str, Any] = {}
    open_kinds = list(kinds)
    while open_kinds:
        kind = open_kinds.pop()
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct) and kind.__name__ not in found:
            found[kind.__name__] = kind
            open_kinds += [part for field in msgspec.structs.fields(kind) for part in _parts(field.type)]
    return found


def _parts(hint: Any) -> list[Any]:
    """All types that `hint` mentions, at any depth."""
    inner = [part for argument in getattr(hint, "__args__", ()) for part in _parts(argument)]
    return [hint, *inner]


# --- descriptions ---------------------------------------------------------------------------------------------


def _describe(schema: Schema, kind: Any) -> None:
    """Give `schema` the head of the docstring of `kind`, and each property what is said of it."""
    if kind is None:
        return
    schema["description"] = summary(kind)
    said = descriptions(GenerationRequest if kind.__name__ == DEFAULTS else kind)
    for name, field in schema.get("properties", {}).items():
        if name in said:
            field["description"] = said[name]


def summary(kind: Any) -> str:
    """The first paragraph of a docstring, as a sentence."""
    return sentence(" ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split()))


def _describe_tables(components: dict[str, Schema]) -> None:
    """Properties that are tables, and have no words of their own, get those of the table."""
    for schema in components.values():
        for field in schema.get("properties", {}).values():
            refs = [part["$ref"] for part in (field, *field.get("anyOf", ())) if "$ref" in part]
            if len(refs) == 1 and not field.get("description"):
                field["description"] = components[refs[0].removeprefix(REF)].get("description", "")


# --- what follows from other keys -----------------------------------------------------------------------------


def _complete_defaults(components: dict[str, Schema], model: Schema) -> None:
    """`completion_defaults` as what is read there: a single text will do for `stop`."""
    stop = components[DEFAULTS]["properties"]["stop"]
    components[DEFAULTS]["properties"]["stop"] = {"anyOf": [stop, {"type": "string"}]}
    said = model["properties"]["completion_defaults"]
    model["properties"]["completion_defaults"] = {"$ref": f"{REF}{DEFAULTS}", "description": said["description"]}


def _tell_options(model: Schema, structs: dict[str, str]) -> None:
    """Have `model` say which options go with which engine; without an engine, those of any."""
    refs = {engine: {"$ref": f"{REF}{name}"} for engine, name in structs.items()}
    named = model["properties"]["engine"]
    model["properties"]["engine"] = {**named, "examples": list(refs)}
    model["allOf"] = [
        {
            "if": {"properties": {"engine": {"const": engine}}, "required": ["engine"]},
            "then": {"properties": {"options": ref}},
        }
        for engine, ref in refs.items()
    ]
    model["allOf"].append(
        {
            "if": {"not": {"required": ["engine"]}},
            "then": {"properties": {"options": {"anyOf": list(refs.values())}}},
        }
    )


def _without(schema: Schema, key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}
