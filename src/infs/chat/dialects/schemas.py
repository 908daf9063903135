"""Schemas of arguments for dialects that do not write them as JSON, so that llguidance cannot read them as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infs.chat.dialects.base import parameters
from infs.chat.schema import resolve_pointer
from infs.errors import Unsupported
from infs.types import Tool

Schema = dict[str, Any]

_COMBINED = (
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "$ref",
    "patternProperties",
    "dependentSchemas",
    "dependentRequired",
)
_OF_TEXTS = ("minLength", "maxLength", "pattern", "format")
_SHARED = ("$defs", "definitions", "x-guidance")


class Arguments:
    """The arguments of a tool, one by one.

    Attributes:
        strict: nothing may pass that does not fit.
        open: others than the named ones are allowed too.
        required: names of those that must be there.

    Raises:
        Unsupported: with ``strict``, what this dialect cannot enforce.
        InvalidRequest: the schema is wrong.
    """

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._root = parameters(tool)
        self.strict = bool(tool.strict)
        self.properties: dict[str, Schema] = {
            name: part if isinstance(part, dict) else {} for name, part in self._root["properties"].items()
        }
        self.required = {name for name in self._root.get("required", []) if name in self.properties}
        self.open = self._root.get("additionalProperties", True) is not False
        self.refuse_if_strict(self._root, _COMBINED, "#")
        if len(self.required) < len(self._root.get("required", [])):
            self.refuse("#/required", "it names what is not among the properties")

    def names(self, *, ordered: bool = False) -> Iterator[tuple[str, bool]]:
        """Each argument and whether it is required, in the order of the schema or of their names."""
        names = sorted(self.properties, key=str.lower) if ordered else list(self.properties)
        return ((name, name in self.required) for name in names)

    def resolve(self, schema: Any) -> Schema:
        """`schema` itself, or what it refers to; an empty one where that cannot be found."""
        for _ in range(20):
            if not isinstance(schema, dict):
                return {}
            if "$ref" not in schema:
                return schema
            schema = resolve_pointer(self._root, str(schema["$ref"]))
        return {}

    def standalone(self, schema: Schema) -> Schema:
        """`schema` with all that it may refer to, for llguidance."""
        return {**schema, **{key: self._root[key] for key in _SHARED if key in self._root}}

    def types(self, schema: Schema) -> set[str]:
        """The types that `schema` names; empty if it names none."""
        schema = self.resolve(schema)
        named = schema.get("type", [])
        found = {named} if isinstance(named, str) else {str(one) for one in named}
        for key in ("anyOf", "oneOf"):
            for part in schema.get(key, []):
                found |= self.types(part) if isinstance(part, dict) and "$ref" not in part else self._referred(part)
        for value in self.values(schema) or ():
            found.add("string" if isinstance(value, str) else "other")
        return found

    def values(self, schema: Schema) -> list[Any] | None:
        """All values that are allowed, where the schema counts them."""
        schema = self.resolve(schema)
        if "const" in schema:
            return [schema["const"]]
        return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None

    def check_text(self, schema: Schema, place: str) -> None:
        """Raise `Unsupported` for a string with limits that free text does not keep, where they are strict."""
        self.refuse_if_strict(self.resolve(schema), _OF_TEXTS, place)

    def refuse_if_strict(self, schema: Schema, keywords: tuple[str, ...], place: str) -> None:
        """Raise `Unsupported` if `schema` has one of `keywords` and is strict."""
        for keyword in keywords:
            if keyword in schema:
                self.refuse(place, f"the keyword {keyword!r} cannot be enforced in the way this model writes calls")

    def refuse(self, place: str, why: str) -> None:
        """Raise `Unsupported`, if the tool is strict."""
        if self.strict:
            raise Unsupported(
                f"The tool {self._tool.name!r}: the JSON schema cannot be used: at {place}: {why}. "
                "Leave out strict, or the keyword.",
                param="tools",
            )

    def _referred(self, part: Any) -> set[str]:
        target = self.resolve(part)
        return {target["type"]} if isinstance(target.get("type"), str) else {"other"}
