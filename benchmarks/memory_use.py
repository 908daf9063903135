"""What a llama-cpp model really takes: a process that estimates, loads, serves all that it can, and watches itself.

Run as ``python -m benchmarks.memory_use`` with a `Case` as JSON on its input, it writes a `Figures` as JSON. A
process of its own, since memory that was given back is often not given back to the system.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from infs.config import ModelConfig
from infs.engines.base import MemoryUse, ModelInfo, ModelSetup, RunContext
from infs.types import EmbeddingRequest, Request, RerankRequest, TextCompletionRequest

INTERVAL = 0.02  # seconds between two looks at the memory
ANSWER = 8  # tokens
WORDS = 100  # different tokens of a text
BESIDE = 700  # tokens of a prompt that is read beside others
PATIENCE = 900.0  # seconds that all of it may take


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A model and its settings. `first`: the first of the tokens that its texts are made of."""

    path: Path
    config: ModelConfig
    cache: Path | None = None
    first: int = 1


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of main memory: estimated with llama.cpp and by the header, and taken when loaded and at most."""

    estimate: MemoryUse
    header: int
    loaded: int
    most: int

    @property
    def error(self) -> float:
        """By how much the estimate is above what was taken at most, as a share of that."""
        return self.estimate.host / self.most - 1.0

    @property
    def header_error(self) -> float:
        """The same of the estimate by the header."""
        return self.header / self.most - 1.0


def measure(case: Case) -> Figures:
    """The figures of `case`, from a fresh process."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_use"],
        input=msgspec.json.encode(case, enc_hook=str),
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return msgspec.json.decode(run.stdout, type=Figures)


# --- in the process


class Watch:
    """Looks at the memory of this process all the time, on a thread."""

    def __init__(self) -> None:
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.most = max(self.most, now())

    def _look(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.most = max(self.most, now())


def now() -> int:
    """Bytes that this process has at the moment."""
    from infs.engines.memory import resident

    return resident()


async def figures(case: Case) -> Figures:
    """The figures of `case`, of this process."""
    from infs.engines.llama_cpp.engine import LlamaEngine
    from infs.engines.llama_cpp.header_estimate import estimate_from_header

    engine = LlamaEngine()
    setup = ModelSetup(model="m", path=case.path, config=case.config, cache=case.cache)
    estimate = await engine.estimate(setup)
    header = estimate_from_header(case.path, case.config, cache=case.cache).host
    with Watch() as watch:
        info = await engine.load(setup, lambda progress: None)
        loaded = now()
        for requests in _workload(info, case.first):
            await asyncio.gather(*(_run(engine, request) for request in requests))
    await engine.close()
    return Figures(estimate=estimate, header=header, loaded=loaded, most=watch.most)


def _workload(info: ModelInfo, first: int) -> list[list[Request[Any]]]:
    """All kinds of requests that the model takes, as large as they can be; those of a list at the same time."""
    size = info.context_size or 0
    text = [first + index % WORDS for index in range(size - ANSWER - 8)]
    groups: list[list[Request[Any]]] = []
    if "text-completion" in info.tasks:
        beside = [[first + number, *text[: BESIDE - 1]] for number in range(info.max_sequences)]
        scored = text[: min(len(text), BESIDE)]
        groups += [
            [TextCompletionRequest(model="m", prompt=text, max_tokens=ANSWER)],
            [TextCompletionRequest(model="m", prompt=prompt[: size - ANSWER], max_tokens=ANSWER) for prompt in beside],
            [TextCompletionRequest(model="m", prompt=scored, max_tokens=1, echo=True, logprobs=1)],
        ]
    if "embedding" in info.tasks:
        groups.append([EmbeddingRequest(model="m", input=[text])])
    if "rerank" in info.tasks:
        groups.append([RerankRequest(model="m", query="a", documents=["a"] * 3)])
    return groups


async def _run(engine: Any, request: Request[Any]) -> None:
    async for _ in engine.run(request, RunContext(request_id=1)):
        pass


def main() -> None:
    """Read a case, write its figures."""
    case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case, dec_hook=lambda kind, value: kind(value))
    running: Coroutine[Any, Any, Figures] = figures(case)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(running)))


if __name__ == "__main__":
    main()
