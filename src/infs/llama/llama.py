"""`Llama`: a GGUF model in this process, at three levels: calls, requests that run, tokens and sequences."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from infs.engines.llama_cpp.sampling import Sampling
from infs.errors import ConfigError
from infs.llama.calls import Calls, Processors
from infs.llama.core import Core
from infs.llama.handles import Handle
from infs.llama.loading import check_names, configure, load, own_words, path_of
from infs.llama.sequences import LowSequence, parts_of
from infs.llama.settings import Generation, Messages, Prompt, any_request, make, sampling_options
from infs.llama.vocabulary import Vocabulary
from infs.types import UNSET, LoraScale, TextCompletionRequest, UnsetType

SAMPLING = Sampling.__struct_fields__


class Llama(Calls, Vocabulary):
    """A GGUF model, loaded into this process. Thread-safe: requests of all threads share one batch.

    Close it, or use it as a context manager (sync or async): what still runs ends in `ServerClosed` then. One that
    nobody refers to any more is closed with a `ResourceWarning`.

    Args:
        model: the file.
        context_size: tokens of the longest sequence, prompt and output; by default what the model was trained for, at
            most 8192.
        max_sequences: texts that are generated at the same time; more wait for their turn.
        gpu: ``"auto"`` uses a GPU where there is one, true insists on one, false stays on the CPU; the name of a
            backend (``"cuda"``, ``"metal"``, ``"vulkan"``) insists on that one.
        gpu_layers: layers on the GPU; all by default.
        threads: threads of the CPU; by default one for each core.
        mem_lock: keep the weights from being swapped out.
        chat_template: a Jinja template in place of the model's own.
        defaults: settings for requests that do not give them, by name.
        cache: folder for the context of conversations, which outlives the process; by default none is written down.
            Relative paths in `options` start there, by default in the working directory.
        run: ``"thread"`` has a thread of its own run the batching loop; with ``"manual"`` nothing happens unless
            `step` or `run` is called.
        low_sequences: how many low-level sequences there can be at a time.
        low_tokens: tokens that they can hold together, those that they share counted once; `context_size` by default.
        progress: told of the share of the file that is loaded, from 0 to 1.
        options: settings of the engine, the fields of `infs.engines.llama_cpp.options.LlamaOptions`: `lora`,
            `control_vectors`, `cache_type_k`, `rope`, `speculation`, ... Structures may be given as dictionaries.

    Raises:
        ConfigError: a setting or an option is not known, of a wrong type or out of range.
        LoadFailed: the file is not there or not what it should be, or does not fit.

    Example:
        ```python
        with Llama("model.gguf") as llm:
            print(llm.chat("What is the capital of France?").text)
        ```
    """

    def __init__(
        self,
        model: str | Path,
        *,
        context_size: int | None = None,
        max_sequences: int = 8,
        gpu: bool | str = "auto",
        gpu_layers: int | None = None,
        threads: int | None = None,
        mem_lock: bool = False,
        chat_template: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        cache: str | Path | None = None,
        run: Literal["thread", "manual"] = "thread",
        low_sequences: int = 16,
        low_tokens: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
        **options: Any,
    ) -> None:
        check_names(options, Llama.__init__.__kwdefaults__ or ())
        if run not in ("thread", "manual"):
            raise ConfigError(f"Llama: run is {run!r}; it can be 'thread' or 'manual'.", param="run")
        path, folder = path_of(model, "model"), path_of(cache, "cache") if cache is not None else None
        start = run == "thread"
        with own_words():
            config, checked = configure(
                options,
                context_size=context_size,
                max_sequences=max_sequences,
                device={"gpu": gpu, "gpu_layers": gpu_layers, "cpu_threads": threads, "mem_lock": mem_lock},
                chat_template=chat_template,
                completion_defaults={} if defaults is None else defaults,
            )
            self._core = Core(
                lambda: load(path, config, checked, cache=folder, start=start, progress=progress),
                manual=not start,
                low_sequences=low_sequences,
                low_tokens=low_tokens,
            )

    # --- life

    def close(self) -> None:
        """End everything and free it. A second call does nothing.

        Raises:
            InvalidRequest: it is called by a logits processor.
        """
        self._core.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._core.gate.open

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Llama:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.close)

    def __del__(self) -> None:
        if not hasattr(self, "_core") or self.closed:
            return
        # On a thread of its own: this may be called at any moment, with any lock held.
        threading.Thread(target=self._core.close, name="infs-close").start()
        warnings.warn("A Llama was dropped that was not closed; now it is.", ResourceWarning, 2, source=self)

    # --- requests that run

    def submit(
        self, request: Generation | Prompt | Messages, *, logits_processors: Processors = (), **settings: Any
    ) -> Handle[Any]:
        """Begin with a request, and return without waiting for anything but its preparation.

        Args:
            request: a request; or a text or tokens to complete, or messages to answer, with `settings`.
            logits_processors: see `complete`.

        Raises:
            InfsError: as `complete` and `chat`; what goes wrong later is told by the handle.
        """
        return self._core.submit(any_request(request, settings), logits_processors)

    def step(self) -> bool:
        """With ``run="manual"``: one step of all requests.

        Returns:
            Whether there is more to do.

        Raises:
            InvalidRequest: the loop runs on a thread of its own; or it is called by a logits processor.
        """
        return self._core.loop().turn()

    def run(self, *, forever: bool = False) -> None:
        """With ``run="manual"``: steps, until there is nothing to do any more, or `forever`: until it is closed.

        Raises:
            InvalidRequest: as `step`.
        """
        loop = self._core.loop()
        while loop.turn(wait=forever) or (forever and not self.closed):
            pass

    # --- low-level sequences

    def new_sequence(self, *, lora: Sequence[LoraScale] | UnsetType = UNSET) -> LowSequence:
        """An empty low-level sequence; the first one makes a context for all of them, which takes memory.

        Args:
            lora: the adapters to compute it with, as in a request.

        Raises:
            CapacityError: all of them are in use.
            LoadFailed: there is no memory for the context.
            Unsupported: the model makes embeddings only.
        """
        wanted = make(TextCompletionRequest, prompt="", lora=lora).lora
        bank = self._core.bank()
        return LowSequence(bank, bank.new(self._core.loaded.adapters.key(wanted)), self._sampling)

    def load_sequence(self, data: bytes) -> LowSequence:
        """A new sequence with what `LowSequence.save` made.

        Raises:
            InfsError: as `new_sequence` and `LowSequence.load`.
        """
        sequence = self.new_sequence()
        try:
            sequence.load(data)
        except BaseException:
            sequence.delete()
            raise
        return sequence

    def eval(self, wanted: Iterable[LowSequence | tuple[LowSequence, Iterable[int]]]) -> None:
        """Compute several sequences in one batch: what each has accepted, and the tokens that are given with it.

        Raises:
            InvalidRequest: a sequence is named twice, is deleted, or belongs to another model.
            InfsError: as `LowSequence.eval`; in all cases nothing has changed for any of them.
        """
        bank = self._core.bank()
        bank.eval([parts_of(item, bank) for item in wanted])

    def _sampling(self, **settings: Any) -> Sampling:
        return Sampling.of(sampling_options(settings, self._core.loaded.defaults, SAMPLING))

    # --- facts, and what is below

    @property
    def context_size(self) -> int:
        """Tokens of the longest sequence of a request."""
        return self._core.loaded.context

    @property
    def details(self) -> dict[str, Any]:
        """Facts about the model: name, architecture, parameters, bytes, vocabulary, trained_context; vision and audio.

        The last two say whether it reads images and sound, which needs a `projector`.
        """
        with self._core.gate:
            return {**self._core.loaded.model.details(), **self._core.loaded.senses()}

    @property
    def metadata(self) -> dict[str, str]:
        """What the header of the file says, by its keys."""
        return dict(self._core.loaded.model.metadata)

    def counts(self) -> dict[str, Any]:
        """What the batching loop has done so far, and how full its cache is, as plain data."""
        return self._core.counts()

    @property
    def model_pointer(self) -> int:
        """The address of the ``llama_model``, for functions of llama.cpp that only read it.

        It is valid until `close`; never free it.
        """
        with self._core.gate:
            return int(self._core.loaded.model.pointer)

    @property
    def context_pointer(self) -> int:
        """The address of the ``llama_context`` of low-level sequences, for functions of llama.cpp.

        Hold `context_lock` while you use it. Reading is always allowed. Computing with it is allowed for sequence ids
        of your own sequences (see `LowSequence.id`), if you bring their cache back to what they hold before you release
        the lock: they do not know what you did. Never free the context, or change its threads, adapters or callbacks.
        It is valid until `close`. The batching loop has another context, which belongs to its thread.
        """
        return int(self._core.bank().decoder.context)

    @property
    def context_lock(self) -> threading.RLock:
        """What low-level sequences hold while they use their context."""
        return self._core.bank().lock
