"""The lazy registry of engines: built-in ones, those of the user, and those that installed packages offer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from infs.engines.base import Engine, EngineSpec, resolve
from infs.errors import EngineNotFound
from infs.store.selection import FileRule

ENTRY_POINTS = "infs.engines"

# GNU OpenMP lets threads that wait for each other spin for ever while there seem to be enough cores: as soon as
# somebody else wants a core too, a step takes several times as long. A short spin cost nothing that could be measured.
# Where more of its threads exist than cores (those of an embedder beside those of the loop) it hardly spins at all,
# which makes a step twice as long, unless waiting is called active.
SHORT_SPINS = {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": "active"}

BUILTIN: Mapping[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="llama-cpp",
            factory="infs.engines.llama_cpp.engine:LlamaEngine",
            options="infs.engines.llama_cpp.options:LlamaOptions",
            requires=("llama_cpp", "llguidance", "jinja2", "numpy"),
            extra="llama-cpp",
            files="infs.store.rules:GGUF",
            environment=SHORT_SPINS if sys.platform == "linux" else {},
            describe="infs.engines.llama_cpp.probing:describe",
        ),
    )
}


def find_engine(name: str, custom: Mapping[str, EngineSpec] | None = None) -> EngineSpec:
    """The engine called `name`: one of `custom`, a built-in one, or one that an installed package offers.

    A package offers one through an entry point in the group ``infs.engines`` that names an `EngineSpec`, or a class
    or other callable that makes an `Engine` in this process.

    Raises:
        EngineNotFound: naming those that there are; or the one that is offered cannot be imported.
    """
    found = (custom or {}).get(name) or BUILTIN.get(name)
    if found is not None:
        return found
    offered = entry_points(group=ENTRY_POINTS)
    for point in offered:
        if point.name == name:
            return _offered(point)
    known = sorted({*BUILTIN, *(custom or {}), *(point.name for point in offered)})
    raise EngineNotFound(f"There is no engine {name!r}; there are: {', '.join(known)}.")


def file_rules(custom: Mapping[str, EngineSpec] | None = None) -> dict[str, FileRule]:
    """What the models of each engine consist of, by its name, in the order in which `find_engine` looks.

    Engines that are offered and cannot be imported have none; `find_engine` says what is wrong with them.

    Raises:
        EngineNotFound: what a specification names as `files` is no rule.
    """
    specs = {**BUILTIN, **(custom or {})}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in specs:
            with contextlib.suppress(EngineNotFound):
                specs[point.name] = _offered(point)
    order = [*(custom or {}), *(name for name in specs if name not in (custom or {}))]
    return {name: _rule(specs[name]) for name in order if specs[name].files is not None}


def _rule(spec: EngineSpec) -> FileRule:
    try:
        found: Any = resolve(spec.files or "")
    except (ImportError, AttributeError, ValueError) as error:
        raise EngineNotFound(f"The engine {spec.name!r} names {spec.files!r} as its files: {error}.") from error
    if not all(callable(getattr(found, name, None)) for name in ("select", "recognises", "extras")):
        raise EngineNotFound(f"The engine {spec.name!r} names {spec.files!r} as its files, which is no FileRule.")
    rule: FileRule = found
    return rule


def spec_of(name: str, engine: EngineSpec | Callable[[], Engine]) -> EngineSpec:
    """`engine` as a specification: a callable makes an engine in this process."""
    if isinstance(engine, EngineSpec):
        return engine
    return EngineSpec(name=name, factory=engine, in_process=True, needs_files=False)


def _offered(point: EntryPoint) -> EngineSpec:
    where = f"The engine {point.name!r} that an installed package offers as {point.value!r}"
    try:
        found = point.load()
    except Exception as error:
        raise EngineNotFound(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, EngineSpec) and not callable(found):
        raise EngineNotFound(f"{where} is a {type(found).__name__}, and no EngineSpec or class.")
    return spec_of(point.name, found)
