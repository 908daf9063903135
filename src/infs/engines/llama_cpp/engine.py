"""The llama-cpp engine: a GGUF model that answers many requests at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infs.chat.constraints import check_grammars
from infs.config import ModelConfig, convert
from infs.engines.base import MemoryUse, ModelInfo, ModelSetup, RunContext
from infs.engines.llama_cpp.abilities import tasks_of
from infs.engines.llama_cpp.answers import Answer
from infs.engines.llama_cpp.building import Builder, Machine
from infs.engines.llama_cpp.decisions import Decisions
from infs.engines.llama_cpp.embedder import Embedder
from infs.engines.llama_cpp.estimating import estimate
from infs.engines.llama_cpp.generation import Generator
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions, host_cache
from infs.engines.llama_cpp.prompts import Prompts
from infs.engines.llama_cpp.running import pin, run, waker
from infs.engines.llama_cpp.sizing import check_context, default_context
from infs.errors import LoadFailed, RequestError, Unsupported
from infs.types import DecisionRequest, EmbeddingRequest, Event, Progress, Request, RerankRequest

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import MediaChunk, Projector


class LlamaEngine:
    """See `infs.engines.base.Engine`. Everything native happens on threads of its own."""

    def __init__(self) -> None:
        self._log = logging.getLogger("infs.engine.llama_cpp")
        self._native = NativeLog(self._log)
        self._model: LlamaModel | None = None
        self._builder: Builder | None = None
        self._machine: Machine | None = None
        self._prompts: Prompts | None = None
        self._embedder: Embedder | None = None
        self._embedder_lock = asyncio.Lock()
        self._config = ModelConfig()
        self._options = LlamaOptions()
        self._context = 0

    # --- loading

    async def estimate(self, setup: ModelSetup) -> MemoryUse:
        """See `infs.engines.base.Estimating`."""
        options = convert(setup.config.options, LlamaOptions, "the configuration", "options")
        self._native.install()
        return await asyncio.to_thread(estimate, setup, options, self._native)

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        if setup.path is None:
            raise LoadFailed(f"The model {setup.model!r} has no file.")
        self._config = setup.config
        self._options = convert(setup.config.options, LlamaOptions, "the configuration", "options")
        self._native.install()
        told = _Percent(progress)
        self._model = model = await asyncio.to_thread(
            LlamaModel, setup.path, setup.config.device, self._options, self._native, told
        )
        self._context = default_context(setup.config, model.trained_context)
        self._check(model)
        self._builder = builder = Builder(
            model,
            self._config,
            self._options,
            self._native,
            context=self._context,
            cache=setup.cache,
            spare=setup.spare,
        )
        notes = self._notes(model)
        tasks = tasks_of(model, self._config, self._options)
        if "chat-completion" in tasks:
            notes += await self._load_generator(model, builder)
        else:
            await self._get_embedder()
        return ModelInfo(
            tasks=tasks,
            max_sequences=setup.config.max_sequences,
            context_size=self._context,
            details={**model.details(), **self._senses()},
            notes=notes,
        )

    def _check(self, model: LlamaModel) -> None:
        """Raise `LoadFailed` for settings that this model cannot have."""
        check_context(self._context)
        if self._options.pooling == "rank" and not model.ranks:
            raise LoadFailed("options.pooling is rank, but the model is no reranker.", param="options.pooling")
        if "chat-completion" in tasks_of(model, self._config, self._options):
            return
        settings = {
            "preload": self._config.preload,
            "chat_template": self._config.chat_template,
            "options.projector": self._options.projector,
        }
        for name, value in settings.items():
            if value is not None:
                raise LoadFailed(f"{name} is for models that generate text; this one makes embeddings.", param=name)

    def _notes(self, model: LlamaModel) -> list[str]:
        if self._context <= model.usable_context:
            return []
        return [f"context_size is {self._context}, but the model was trained for {model.usable_context} tokens."]

    async def _load_generator(self, model: LlamaModel, builder: Builder) -> list[str]:
        config = self._config
        await asyncio.to_thread(check_grammars, config.grammars)
        projector = await asyncio.to_thread(lambda: builder.projector)
        self._prompts = prompts = Prompts(model, config, context=self._context, projector=projector)
        pinned, media = await asyncio.to_thread(self._pinned, prompts)
        wake = waker()
        self._machine = machine = await asyncio.to_thread(lambda: builder.build(wake, pinned=len(pinned)))
        if pinned:
            await pin(machine.generator, pinned, media)
        notes = []
        if prompts.template.plain:
            notes.append("The model has no chat template; messages are written as plain 'role: content' lines.")
        if not model.cuttable:
            notes.append(
                f"A {model.architecture} model's state cannot be cut: requests share a beginning where one was kept, "
                "and tokens are not guessed."
            )
        for note in notes:
            self._log.warning("%s", note)
        return [*notes, *_abilities(projector)]

    def _senses(self) -> dict[str, bool]:
        """Whether it sees, and hears, for a model that does either."""
        projector = self._machine.projector if self._machine is not None else None
        return {"vision": projector.vision, "audio": projector.audio} if projector is not None else {}

    def _pinned(self, prompts: Prompts) -> tuple[list[int], tuple[MediaChunk, ...]]:
        """The tokens to be preloaded, with room for at least one more and an answer to it; and their media."""
        preload = self._config.preload
        if preload is None:
            return [], ()
        try:
            tokens, media = prompts.preload(preload) if preload.prefix or preload.messages else ([], ())
        except RequestError as error:
            raise LoadFailed(f"preload cannot be used. {error.message}", param="preload") from error
        if not tokens or len(tokens) > self._context - 2:
            raise LoadFailed(
                f"preload has {len(tokens)} tokens, and the context of {self._context} must hold at least one, "
                "and two more for a request and its answer.",
                param="preload",
            )
        if tokens[-1] < 0:
            raise LoadFailed("preload must not end in an image or audio: put some text behind it.", param="preload")
        return tokens, media

    async def _get_embedder(self) -> Embedder:
        async with self._embedder_lock:
            if self._embedder is None:
                self._embedder = await asyncio.to_thread(self._make_embedder)
            return self._embedder

    def _make_embedder(self) -> Embedder:
        model, builder = self._model, self._builder
        assert model is not None, "load comes first"
        assert builder is not None
        # No longer than the model was trained for: a longer text would only be embedded badly.
        context = min(self._context, model.usable_context)
        return Embedder(
            model, self._config.device, self._options, self._native, context=context, adapters=builder.adapters
        )

    # --- running

    def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        if isinstance(request, EmbeddingRequest | RerankRequest):
            return self._embed(request)
        if self._machine is not None and self._prompts is not None:
            if isinstance(request, DecisionRequest):
                return Decisions(self._machine.generator, self._prompts, request).events()
            return self._generate(request, context, self._machine.generator, self._prompts)
        raise Unsupported(f"The model {request.model!r} cannot do {request.task}.", param="model")

    async def _embed(self, request: EmbeddingRequest | RerankRequest) -> AsyncGenerator[Event]:
        embedder = await self._get_embedder()
        yield await (embedder.rank(request) if isinstance(request, RerankRequest) else embedder.run(request))

    async def _generate(
        self, request: Request[Any], context: RunContext, generator: Generator, prompts: Prompts
    ) -> AsyncGenerator[Event]:
        task = await asyncio.to_thread(prompts.prepare, request, context.nonce)
        prompt = replace(task.prompt, request=context.request_id, seed=context.nonce or None, replay=context.trail)
        answer = Answer(task, trail=True)
        async with aclosing(answer.events(run(generator, prompt, answer.wants_more))) as events:
            async for event in events:
                yield event

    # --- the rest

    def status(self) -> dict[str, Any]:
        counts = self._machine.counts() if self._machine is not None else {}
        return {**counts, "embedding_batches": self._embedder.batches if self._embedder else 0}

    def shrink(self, spare: int) -> None:
        """See `infs.engines.base.Shrinking`."""
        if self._machine is not None and self._machine.memory is not None:
            self._machine.memory.shrink(host_cache(self._options, spare))

    def stalled(self) -> float:
        """See `infs.engines.base.Watched`."""
        machine, embedder = self._machine, self._embedder
        generating = machine.generator.loop.stepping if machine is not None else 0.0
        return max(generating, embedder.stepping if embedder is not None else 0.0)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for part in (self._machine, self._embedder, self._model):
            if part is not None:
                part.close()
        self._machine = self._embedder = self._model = self._builder = None


def _abilities(projector: Projector | None) -> list[str]:
    """What is special about a model with this projector."""
    if projector is None:
        return []
    kinds = " and ".join("images" if kind == "image" else kind for kind in sorted(projector.kinds, reverse=True))
    notes = [f"The model reads {kinds}."]
    if projector.mrope:
        notes.append("Its images have positions of several dimensions, so no context is kept beside the live cells.")
    return notes


class _Percent:
    """Tells of a share in whole percents, each once."""

    def __init__(self, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._last = -1

    def __call__(self, share: float) -> None:
        percent = int(share * 100)
        if percent != self._last:
            self._last = percent
            self._progress(Progress(stage="load", done=percent, total=100, unit="percent"))
