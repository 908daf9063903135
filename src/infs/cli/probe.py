"""Tries an engine for ``infs doctor``: ``python -m infs.cli.probe NAME``, in a process that it may take with it.

What comes out is a line of JSON for each step that it came through, so that it is known where it stopped.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from infs.demo import MODEL_FILE, demo_model
from infs.engines.base import Engine, EngineSpec, ModelSetup, RunContext
from infs.engines.registry import find_engine
from infs.types import TextCompletionRequest, TextCompletionResult

DEMO_ENGINE = "llama-cpp"  # that of the demo model

Tell = Callable[[str, dict[str, Any]], None]


def own_output() -> Tell:
    """Where steps are told; whatever native libraries print goes to standard error instead."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(step: str, facts: dict[str, Any]) -> None:
        out.write(json.dumps({"step": step, "facts": facts}) + "\n")
        out.flush()

    return tell


def probe(name: str, tell: Tell) -> None:
    """Import the engine's libraries, make it, ask what it can use, and have it answer where it can."""
    spec = find_engine(name)
    tell("import", imported(spec))
    engine = spec.create()
    tell("create", {})
    if spec.describe is not None:
        tell("describe", pkgutil.resolve_name(spec.describe)())
    if name == DEMO_ENGINE:
        tell("demo", {"text": asyncio.run(answer(engine))})


def imported(spec: EngineSpec) -> dict[str, str]:
    """The versions of the libraries that the engine needs, which are imported."""
    packages = packages_distributions()
    versions = {}
    for module in spec.requires:
        importlib.import_module(module)
        try:
            versions[module] = version(packages.get(module, [module])[0])
        except PackageNotFoundError:
            versions[module] = "of unknown version"
    return versions


async def answer(engine: Engine) -> str:
    """What the demo model goes on with."""
    setup = ModelSetup(model="demo", path=MODEL_FILE, config=demo_model())
    await engine.load(setup, lambda progress: None)
    request = TextCompletionRequest(model="demo", prompt="The capital of France is", max_tokens=4, temperature=0.0)
    try:
        async with aclosing(engine.run(request, RunContext(request_id=1))) as events:
            async for event in events:
                if isinstance(event, TextCompletionResult):
                    return event.text
    finally:
        await engine.close()
    raise RuntimeError("The engine ended without an answer.")


if __name__ == "__main__":
    probe(sys.argv[1], own_output())
