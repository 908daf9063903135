"""Eight clients at once over HTTP: infs, llama-cpp-python's own server, and a plain loop without any server."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks import bare, rig
from benchmarks.decoding import PROMPT
from benchmarks.figures import Comparison, Figure, interleaved
from benchmarks.processes import INFS, PEER, served, streams_time
from infs.config import DeviceConfig
from infs.engines.llama_cpp.native import cpu_threads

STREAMS = 8
EXTRA = ("fastapi", "sse_starlette", "pydantic_settings", "starlette_context", "uvicorn")
Side = Callable[[], float]


def missing_peer() -> list[str]:
    """The modules that llama-cpp-python's server lacks here; its extra ``server`` brings them."""
    return [module for module in EXTRA if importlib.util.find_spec(module) is None]


def over_http(loaded: rig.Loaded, *, steps: int, rounds: int, threads: int | None) -> Iterator[Figure]:
    """Total tokens per second of eight streams over HTTP against each peer."""
    with ExitStack() as stack:
        sides = _servers(stack, loaded, steps, threads)
        sides["plain loop in process"] = _plain_loop(stack, loaded, steps)
        interleaved(list(sides.values()), 1)
        ours, *peers = interleaved(list(sides.values()), rounds)
    for name, times in zip(list(sides)[1:], peers, strict=True):
        both = Comparison(ours=ours, peer=times)
        tokens = STREAMS * steps
        yield both.figure(
            f"{STREAMS} streams over HTTP / {name}",
            f"{tokens / min(ours):.0f} / {tokens / min(times):.0f} tokens/s",
            2.5 if name == "llama_cpp.server" else None,
        )


def _servers(stack: ExitStack, loaded: rig.Loaded, steps: int, threads: int | None) -> dict[str, Side]:
    """Ours first, then llama_cpp.server as it starts by default, and with as many threads as ours."""
    count = threads or cpu_threads(DeviceConfig())
    ours = [*INFS, str(loaded.path), "--model-id", "m", "--threads", str(count), "--log-level", "warning"]
    # It would otherwise end a running stream for the next request.
    peer = [*PEER, "--model", str(loaded.path), "--model_alias", "m", "--interrupt_requests", "false"]
    peer += ["--n_ctx", str(loaded.context), "--verbose", "false"]
    # Its settings change how it chooses a token, so they are kept to what the model needs to go on.
    ban = {str(token): -100 for token in loaded.model.end_tokens} if loaded.may_end else {}
    sides = {"infs": _side(stack, ours, "/health", loaded, steps, {"ignore_eos": True} if loaded.may_end else {})}
    extra = {"logit_bias": ban} if ban else {}
    if not missing_peer():
        sides["llama_cpp.server"] = _side(stack, peer, "/v1/models", loaded, steps, extra)
        same = [*peer, "--n_threads", str(count), "--n_threads_batch", str(count)]
        sides[f"llama_cpp.server, {count} threads"] = _side(stack, same, "/v1/models", loaded, steps, extra)
    return sides


def _side(
    stack: ExitStack, command: list[str], health: str, loaded: rig.Loaded, steps: int, extra: dict[str, Any]
) -> Side:
    server = stack.enter_context(served(command, health))
    seeds = itertools.count(5000)

    def run() -> float:
        prompts = rig.random_prompts(loaded.model, STREAMS, PROMPT, next(seeds))
        bodies = [
            {"model": "m", "prompt": loaded.model.text(p), "max_tokens": steps, "temperature": 0.0, **extra}
            for p in prompts
        ]
        return streams_time(server.port, bodies)

    return run


def _plain_loop(stack: ExitStack, loaded: rig.Loaded, steps: int) -> Side:
    peer = stack.enter_context(bare.bare_context(loaded, sequences=STREAMS, batch=256, unified=True))
    seeds = itertools.count(5000)

    def run() -> float:
        prompts = rig.random_prompts(loaded.model, STREAMS, PROMPT, next(seeds))
        return bare.burst_times(peer, prompts, steps - 1)[1]

    return run
