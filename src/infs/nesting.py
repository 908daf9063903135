"""Requests within requests: an engine that runs requests on other models of its server.

While an engine works on a request, that holds a place in its model. What the engine has other models do must neither
wait for a place that only this request can give back, nor count as one more request of the user's. So everything that
runs on behalf of a request knows the models that are held for it, the outermost first: the *chain*, in a context
variable, which tasks, threads and handlers of tools inherit.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from infs.errors import GenerationFailed
from infs.runner import Conveniences, Runner
from infs.types import Event, R, Request

T = TypeVar("T")

_CHAIN: ContextVar[tuple[str, ...]] = ContextVar("infs.chain", default=())


def is_nested() -> bool:
    """Whether the current code runs on behalf of a request that holds a place in a model."""
    return bool(_CHAIN.get())


def check_circle(model: str) -> None:
    """Raise `GenerationFailed` if a request for `model` would be made on behalf of one that holds a place in it."""
    chain = _CHAIN.get()
    if model in chain:
        way = " -> ".join([*chain[chain.index(model) :], model])
        raise GenerationFailed(
            f"A request for the model {model!r} has led to another one for it ({way}), which could wait for the first "
            f"one for ever. Have the engine of {chain[-1]!r} use another model.",
            param="model",
        )


def inside(model: str, events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """What `events` yields, made on behalf of a request that holds a place in `model`."""
    return _stepped(events, lambda: (*_CHAIN.get(), model))


class NestedRunner(Conveniences):
    """Runs requests on behalf of those for `model`: what an engine of `model` is given.

    It works from any task of the engine, also from one that was made while no request was there.
    """

    def __init__(self, runner: Runner, model: str) -> None:
        self._runner = runner
        self._model = model

    async def run(self, request: Request[R]) -> R:
        """The result of `request`; see `Runner.run`."""
        with _as(self._chain()):
            return await self._runner.run(request)

    def stream(self, request: Request[Any]) -> AsyncGenerator[Event]:
        """The events of `request`; see `Runner.stream`."""
        return _stepped(self._runner.stream(request), self._chain)

    def _chain(self) -> tuple[str, ...]:
        chain = _CHAIN.get()
        return chain if chain[-1:] == (self._model,) else (self._model,)


async def _stepped(events: AsyncGenerator[T], find_chain: Callable[[], tuple[str, ...]]) -> AsyncGenerator[T]:
    """`events`, each step with the chain that there is at the first one.

    A generator's steps run in the context of whoever asks for them, which must be as it was between the steps.
    """
    chain = find_chain()
    try:
        while True:
            with _as(chain):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event
    finally:
        with _as(chain):
            await events.aclose()


@contextmanager
def _as(chain: tuple[str, ...]) -> Generator[None]:
    token = _CHAIN.set(chain)
    try:
        yield
    finally:
        _CHAIN.reset(token)
