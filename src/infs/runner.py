"""Anything that can run a request, and the named conveniences that every runner has.

A runner has two methods whatever the task. `Conveniences` adds a method for each task, all made by the same
descriptor, so ``server.chat_completion(model=..., messages=[...])`` is `run` of a `ChatCompletionRequest`, with
that class's own parameters for the type checker. What comes back is what the runner's own methods give: something to
await, or, of a `BlockingRunner`, the result itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from infs.types import (
    ChatCompletionRequest,
    DecisionRequest,
    EmbeddingRequest,
    Event,
    R,
    Request,
    RerankRequest,
    Result,
    TextCompletionRequest,
)

P = ParamSpec("P")
R_co = TypeVar("R_co", bound=Result, covariant=True)


@runtime_checkable
class Runner(Protocol):
    """Runs requests: a server, a worker, a network of machines."""

    async def run(self, request: Request[R]) -> R:
        """The result of `request`.

        Raises:
            InfsError: when there is none.
        """
        ...

    def stream(self, request: Request[Any]) -> AsyncGenerator[Event]:
        """The events of `request` as they happen; the last one is its `Result`.

        Closing the generator cancels the request.

        Raises:
            InfsError: out of the generator, instead of a result.
        """
        ...


class BlockingRunner(Protocol):
    """A runner for programs without an event loop: its methods wait."""

    def run(self, request: Request[R]) -> R:
        """The result of `request`; see `Runner.run`."""
        ...

    def stream(self, request: Request[Any]) -> Generator[Event]:
        """The events of `request` as they happen; see `Runner.stream`."""
        ...


class BoundConvenience(Generic[P, R]):
    """One task of one runner: call it for the result, `stream` it for the events."""

    def __init__(self, runner: Runner, request: Callable[P, Request[R]]) -> None:
        self._runner = runner
        self._request = request

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._runner.run(self._request(*args, **kwargs))

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Event]:
        """The events of this request; see `Runner.stream`."""
        return self._runner.stream(self._request(*args, **kwargs))


class BlockingConvenience(Protocol[P, R_co]):
    """A `BoundConvenience` of a runner whose methods wait, for the type checker."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Generator[Event]:
        """The events of this request; see `BlockingRunner.stream`."""
        ...


class Convenience(Generic[P, R]):
    """The descriptor behind a task's named method."""

    def __init__(self, request: Callable[P, Request[R]]) -> None:
        self.request = request
        self.__doc__ = request.__doc__

    @overload
    def __get__(self, runner: None, owner: type) -> Convenience[P, R]: ...
    @overload
    def __get__(self, runner: Runner, owner: type) -> BoundConvenience[P, R]: ...
    @overload
    def __get__(self, runner: BlockingRunner, owner: type) -> BlockingConvenience[P, R]: ...
    def __get__(self, runner: Any, owner: type) -> Any:
        return self if runner is None else BoundConvenience(runner, self.request)


class Conveniences:
    """A method for each task, for any `Runner` or `BlockingRunner`. A test holds this list against `TASKS`."""

    text_completion = Convenience(TextCompletionRequest)
    chat_completion = Convenience(ChatCompletionRequest)
    embedding = Convenience(EmbeddingRequest)
    rerank = Convenience(RerankRequest)
    decision = Convenience(DecisionRequest)
