"""What loading a model would take: the engine says it in a process of its own, else the headers of the files do."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from infs.cli.models.here import Here
from infs.config import ModelConfig
from infs.engines.base import EngineSpec, MemoryUse, ModelSetup
from infs.engines.registry import find_engine
from infs.errors import InfsError
from infs.pool.sizing import without_estimate
from infs.store import with_extras
from infs.store.catalogue import Entry
from infs.store.rules import PROJECTOR
from infs.worker.client import WorkerClient

PATIENCE = 60.0  # seconds for the engine's answer
HEADERS = "llama-cpp"  # whose models can be judged by their headers alone


class Estimated(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that a model would take, and who says so: ``engine``, ``header``, or ``size`` (of the files)."""

    use: MemoryUse
    source: str
    note: str = ""


def estimate_memory(
    here: Here, name: str, config: ModelConfig, path: Path, entry: Entry | None, *, quick: bool
) -> Estimated | None:
    """What the model at `path` would take with `config`; ``None`` where no engine here loads it.

    Args:
        quick: do not ask the engine, which takes a second or two.
    """
    engine = config.engine or here.store.engine_of(ModelConfig(file=str(path)))
    if engine is None:
        return None
    config = with_extras(config, _extras(here, config, engine, path, entry))
    setup = ModelSetup(model=name, path=path, config=config, cache=here.store.cache)
    note = ""
    if not quick:
        try:
            use = asyncio.run(_ask_engine(find_engine(engine), setup))
            if use is not None:
                return Estimated(use=use, source="engine")
        except TimeoutError:
            note = f"The engine did not answer within {PATIENCE:g} seconds."
        except InfsError as error:
            note = error.message
    return _without_engine(engine, setup, path, note)


def _extras(here: Here, config: ModelConfig, engine: str, path: Path, entry: Entry | None) -> dict[str, Path]:
    """The files that go with the model; a model of Ollama brings its projector along."""
    brought = {} if entry is None or entry.kind != "ollama" else {file.name: file.path for file in entry.files}
    bundled = {PROJECTOR: brought["projector"]} if "projector" in brought else {}
    named = here.extras_of(config, engine, path)
    return named if "projector" in config.options else {**bundled, **named}


async def _ask_engine(spec: EngineSpec, setup: ModelSetup) -> MemoryUse | None:
    if spec.in_process:
        return None
    client = WorkerClient(spec, log=logging.getLogger("infs.cli.memory"))
    try:
        async with asyncio.timeout(PATIENCE):
            return await client.estimate(setup)
    finally:
        await client.close()


def _without_engine(engine: str, setup: ModelSetup, path: Path, note: str) -> Estimated | None:
    try:
        if engine == HEADERS:
            from infs.engines.llama_cpp.header_estimate import estimate_from_header

            use = estimate_from_header(path, setup.config, cache=setup.cache)
            return Estimated(use=use, source="header", note=note)
        return Estimated(use=without_estimate(path), source="size", note=note)
    except (InfsError, OSError):  # what is wrong with the file is said elsewhere
        return None
