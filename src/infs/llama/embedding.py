"""Embeddings for callers of every kind: an embedder that is made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from infs.engines.llama_cpp.embedder import Embedder
from infs.llama.background import Background
from infs.llama.gate import closed

T = TypeVar("T")


class Embeddings:
    """An `Embedder` whose coroutines run in the background. Thread-safe.

    Args:
        make: makes the embedder; called once, on the thread that is the first to ask for something.
    """

    def __init__(self, make: Callable[[], Embedder], background: Background) -> None:
        self._make = make
        self._background = background
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._closed = False

    def submit(self, work: Callable[[Embedder], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin with `work`.

        Raises:
            LoadFailed: there is no memory for the context of embeddings.
            ServerClosed: the model was closed.
        """
        with self._lock:
            if self._closed:
                raise closed()
            if self._embedder is None:
                self._embedder = self._make()
            embedder = self._embedder
        return self._background.submit(lambda: work(embedder))

    def close(self) -> None:
        """End what runs in a failure."""
        with self._lock:
            self._closed = True
        if self._embedder is not None:
            self._embedder.close()
