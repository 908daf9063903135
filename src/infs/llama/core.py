"""What is behind a `Llama`: the loaded model with everything that works with it, made when needed, closed in order."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from infs.batching.loop import Loop
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.embedder import Embedder
from infs.engines.llama_cpp.output import Processor
from infs.engines.llama_cpp.sizing import LARGEST_STEP, MAX_SEQUENCES, MOST_CELLS
from infs.errors import ConfigError, InvalidRequest, Unsupported
from infs.llama.background import Background
from infs.llama.bank import SequenceBank
from infs.llama.deciding import decide
from infs.llama.embedding import Embeddings
from infs.llama.gate import Gate
from infs.llama.handles import Handle
from infs.llama.loading import Generating, Loaded, native_log
from infs.llama.processors import Guarded
from infs.llama.settings import Generation, complete_settings
from infs.types import DecisionRequest, DecisionResult

T = TypeVar("T")


class Core:
    """Thread-safe.

    Args:
        load: loads the model.
        manual: nobody runs the batching loop but those who ask for `loop`.
        low_sequences, low_tokens: places and cells for low-level sequences.

    Raises:
        ConfigError: one of these is out of range.
        LoadFailed: the model could not be loaded.
    """

    def __init__(self, load: Callable[[], Loaded], *, manual: bool, low_sequences: int, low_tokens: int | None) -> None:
        _check_range("low_sequences", low_sequences, MAX_SEQUENCES)
        _check_range("low_tokens", low_tokens if low_tokens is not None else 1, MOST_CELLS)
        self.loaded = load()
        self.gate = Gate()
        self._manual = manual
        self._low = (low_sequences, low_tokens or self.loaded.context)
        self._background = Background()
        self._embeddings = Embeddings(self.loaded.embedder, self._background)
        self._bank: SequenceBank | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    # --- requests

    def submit(self, request: Generation, processors: Sequence[Processor] | Processor) -> Handle[Any]:
        """Begin with `request`."""
        request = complete_settings(request, self.loaded.defaults)
        found = (processors,) if callable(processors) else tuple(processors)
        guarded = (Guarded(found),) if found else ()
        with self.gate:
            generating = self._generating(request.task)
            task = generating.prompts.prepare(request)
            task = replace(task, prompt=replace(task.prompt, processors=guarded))
            generator = generating.machine.generator
            handle: Handle[Any] = Handle(task, generator.loop, request.timeout)
            handle.start(generator.sequences(task.prompt, handle.put))
        return handle

    def embed(self, work: Callable[[Embedder], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin with `work` for the embedder."""
        with self.gate:
            return self._embeddings.submit(work)

    def decide(self, request: DecisionRequest) -> Future[DecisionResult]:
        """Begin with `request`."""
        with self.gate:
            return decide(self._generating(request.task), self._background, request)

    def loop(self) -> Loop:
        """The loop, for those who run it themselves.

        Raises:
            InvalidRequest: it runs by itself, or the calling thread is just running it.
        """
        loop = self._generating("generation").machine.generator.loop
        if not self._manual:
            raise InvalidRequest("The loop runs on a thread of its own; load the model with run='manual' to run it.")
        if loop.mine:
            raise InvalidRequest("The loop cannot be run by something that it has called.")
        return loop

    def counts(self) -> dict[str, Any]:
        """What the loop has done so far."""
        return self._generating("generation").machine.counts()

    def _generating(self, task: str) -> Generating:
        if self.loaded.generating is None:
            model = self.loaded.model
            raise Unsupported(
                f"{model.path.name} makes embeddings{' and ranks' if model.ranks else ''}: it cannot do {task}.",
                param="model",
            )
        return self.loaded.generating

    # --- low-level sequences

    def bank(self) -> SequenceBank:
        """Their context, made at the first call."""
        with self.gate, self._lock:
            if self._bank is None:
                self._bank = self._make_bank(self._generating("low-level sequences"))
            return self._bank

    def _make_bank(self, generating: Generating) -> SequenceBank:
        loaded = self.loaded
        sequences, cells = self._low
        decoder = LlamaDecoder(
            loaded.model,
            loaded.config.device,
            loaded.options,
            native_log(),
            cells=max(cells, sequences + 1),
            sequences=sequences,
            batch=loaded.options.batch_tokens or LARGEST_STEP,
            adapters=loaded.adapters,
        )
        return SequenceBank(decoder, generating.identity)

    # --- the end

    def close(self) -> None:
        """End everything and free it; a second call does nothing."""
        generating = self.loaded.generating
        if generating is not None and generating.machine.generator.loop.mine:
            raise InvalidRequest("A Llama cannot be closed by something that its loop has called.")
        if not self.gate.shut():
            return
        atexit.unregister(self.close)
        self.gate.wait()
        if generating is not None:
            generating.machine.close()
        self._embeddings.close()
        self._background.close()
        if self._bank is not None:
            self._bank.close()
        self.loaded.model.close()


def _check_range(name: str, value: Any, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ConfigError(f"Llama: {name} is {value!r}; it can be 1 to {most}.", param=name)
