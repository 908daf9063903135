"""Vectors of texts, in a context of their own: many texts in one batch, whoever asks for them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from infs.batching.base import Chunk
from infs.config import DeviceConfig
from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.contexts import new_context, sized_params
from infs.engines.llama_cpp.decoder import Batch
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.pairs import Pairs
from infs.engines.llama_cpp.pieces import Pools, cut_pieces
from infs.engines.llama_cpp.sizing import MAX_TEXTS, embedding_sizes
from infs.errors import (
    ContextLengthExceeded,
    GenerationFailed,
    InfsError,
    InvalidRequest,
    ServerClosed,
    Unsupported,
)
from infs.types import EmbeddingRequest, EmbeddingResult, RankedDocument, RerankRequest, RerankResult, Usage

POOLING = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
    "rank": llama_cpp.LLAMA_POOLING_TYPE_RANK,
}
Vector = NDArray[np.float32]


@dataclass(eq=False)
class Job:
    """The texts of one request, as tokens, and the vectors found so far."""

    texts: list[list[int]]
    future: asyncio.Future[list[Vector]]
    loop: asyncio.AbstractEventLoop
    vectors: list[Vector | None] = field(default_factory=list)

    def put(self, index: int, vector: Vector) -> None:
        """Take one vector; the last one ends the job."""
        self.vectors[index] = vector
        if all(v is not None for v in self.vectors):
            done = [v for v in self.vectors if v is not None]
            self.loop.call_soon_threadsafe(self._set, done)

    def fail(self, error: InfsError) -> None:
        """End the job in a failure."""
        self.loop.call_soon_threadsafe(self._set, error)

    def _set(self, outcome: list[Vector] | InfsError) -> None:
        if self.future.done():
            return
        if isinstance(outcome, InfsError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Embedder:
    """A context for embeddings and the thread that owns it.

    Args:
        context: tokens of the longest text.
        adapters: what changes the model; as configured, for all requests.
    """

    def __init__(
        self,
        model: LlamaModel,
        device: DeviceConfig,
        options: LlamaOptions,
        log: NativeLog,
        *,
        context: int,
        adapters: Adapters | None = None,
    ) -> None:
        self.pooling = pooling_of(model, options)
        self._in_pieces = in_pieces(model, options)
        params = embedding_params(model, device, options, context)
        self._room = params.n_ctx
        self._model = model
        self._context = new_context(model, params, log)
        self._adapters = adapters
        if adapters is not None:
            adapters.attach(self._context)
        self._pairs = Pairs(model)
        self._batch = Batch(params.n_batch)
        self.limit = context
        self.dimensions = int(
            llama_cpp.llama_model_n_cls_out(model.pointer)
            if self.pooling == "rank"
            else llama_cpp.llama_model_n_embd_out(model.pointer)
        )
        self.batches = 0
        self._since: float | None = None
        self._waiting: deque[tuple[Job, int]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="infs-embedder", daemon=True)
        self._thread.start()

    async def run(self, request: EmbeddingRequest) -> EmbeddingResult:
        """The vectors of the request's inputs.

        Raises:
            ContextLengthExceeded: an input is too long.
            InvalidRequest: an input is empty, or has tokens or dimensions that the model does not have.
        """
        texts = await asyncio.to_thread(self._tokenize, request)
        vectors = [self._finish(vector, request) for vector in await self._vectors(texts)]
        usage = Usage(prompt_tokens=sum(map(len, texts)))
        return EmbeddingResult(
            vectors=[v.astype("<f4").tobytes() for v in vectors], dimensions=len(vectors[0]), usage=usage
        )

    async def rank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, the best first; of the same score, in their order.

        Raises:
            ContextLengthExceeded: the query and a document are too long together.
            Unsupported: the model is no reranker, or pools otherwise.
        """
        if self.pooling != "rank":
            raise Unsupported(
                f"The model cannot rank: it is no reranker, or options.pooling is {self.pooling}.", param="model"
            )
        texts = await asyncio.to_thread(self._pair_tokens, request)
        scores = [float(vector[0]) for vector in await self._vectors(texts)]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
        return RerankResult(
            documents=[RankedDocument(index=index, score=scores[index]) for index in order],
            usage=Usage(prompt_tokens=sum(map(len, texts))),
        )

    async def _vectors(self, texts: list[list[int]]) -> list[Vector]:
        """What the thread makes of `texts`."""
        loop = asyncio.get_running_loop()
        job = Job(texts, loop.create_future(), loop, [None] * len(texts))
        with self._wake:
            if self._closed:
                raise ServerClosed("The model is being unloaded.")
            self._waiting += ((job, index) for index in range(len(texts)))
            self._wake.notify()
        return await job.future

    @property
    def stepping(self) -> float:
        """Seconds that the batch which is being computed has taken so far; 0 between batches. For any thread."""
        since = self._since
        return 0.0 if since is None else time.perf_counter() - since

    def close(self) -> None:
        """End everything that waits in a failure, and free the context."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        if self._adapters is not None:
            self._adapters.detach(self._context)
        llama_cpp.llama_free(self._context)

    # --- before and after

    def _tokenize(self, request: EmbeddingRequest) -> list[list[int]]:
        if request.dimensions is not None and request.dimensions > self.dimensions:
            raise InvalidRequest(
                f"dimensions is {request.dimensions}, and the model's vectors have {self.dimensions}.",
                param="dimensions",
            )
        return [self._tokens(item, index) for index, item in enumerate(request.input)]

    def _tokens(self, item: str | list[int], index: int) -> list[int]:
        param = f"input[{index}]"
        if isinstance(item, str):
            self._refuse_hopeless(item, param)
            tokens = self._model.tokenize(item, add_special=True, parse_special=False)
        else:
            tokens = item
            self._model.check_tokens(tokens, param)
        if not tokens:
            raise InvalidRequest(f"{param} is empty.", param=param)
        return self._fitting(tokens, param)

    def _pair_tokens(self, request: RerankRequest) -> list[list[int]]:
        self._refuse_hopeless(request.query, "query")
        texts = []
        for index, document in enumerate(request.documents):
            param = f"documents[{index}]"
            self._refuse_hopeless(document, param)
            tokens = self._pairs.tokens(request.query, document)
            if not tokens:
                raise InvalidRequest(f"{param} and the query are empty.", param=param)
            texts.append(self._fitting(tokens, param, what=f"{param} with the query"))
        return texts

    def _refuse_hopeless(self, text: str, param: str) -> None:
        """Refuse a text that is too long in any case, before it takes its time to read it."""
        at_least = self._model.least_tokens(text)
        if at_least > self.limit:
            raise ContextLengthExceeded(
                f"{param} has at least {at_least} tokens, and the context holds {self.limit}.", param=param
            )

    def _fitting(self, tokens: list[int], param: str, what: str | None = None) -> list[int]:
        if len(tokens) > self.limit:
            raise ContextLengthExceeded(
                f"{what or param} has {len(tokens)} tokens, and the context holds {self.limit}.", param=param
            )
        return tokens

    def _finish(self, vector: Vector, request: EmbeddingRequest) -> Vector:
        cut = vector[: request.dimensions] if request.dimensions is not None else vector
        length = float(np.linalg.norm(cut))
        if not request.normalize or self.pooling == "rank" or length == 0.0:
            return cut
        return (cut / length).astype(np.float32)

    # --- on the thread

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._compute(group)
            except Exception as error:  # the thread must go on for the others
                self._log_failure(error)
                for job, _ in group:
                    job.fail(GenerationFailed.of(error))
        for job, _ in self._waiting:
            job.fail(ServerClosed("The model was unloaded while the request was waiting."))

    def _log_failure(self, error: Exception) -> None:
        logging.getLogger(__name__).error("A batch of embeddings failed: %s", error)

    def _next_group(self) -> list[tuple[Job, int]] | None:
        """As many of the waiting texts as fit into one batch, in order; ``None`` when closed."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            group: list[tuple[Job, int]] = []
            room = self._room
            while self._waiting and len(group) < MAX_TEXTS:
                job, index = self._waiting[0]
                if job.future.cancelled() or job.future.done():
                    self._waiting.popleft()
                    continue
                room -= len(job.texts[index])
                if room < 0:
                    break
                group.append(self._waiting.popleft())
            return group

    def _compute(self, group: list[tuple[Job, int]]) -> None:
        if not group:
            return
        memory = llama_cpp.llama_get_memory(self._context)
        if memory:  # encoders have none
            llama_cpp.llama_memory_clear(memory, True)
        texts = [job.texts[index] for job, index in group]
        vectors = self._pooled_here(texts) if self._in_pieces else self._pooled_there(texts)
        self.batches += 1
        for (job, index), vector in zip(group, vectors, strict=True):
            job.put(index, vector)

    def _pooled_here(self, texts: list[list[int]]) -> list[Vector]:
        """The vectors of `texts`, computed in pieces."""
        pools = Pools(len(texts), self.dimensions, self.pooling)
        for chunks in cut_pieces(texts, len(self._batch.tokens)):
            self._step(chunks)
            pointer: Any = llama_cpp.llama_get_embeddings(self._context)
            pools.take(chunks, np.ctypeslib.as_array(pointer, (self._batch.native.n_tokens, self.dimensions)))
        return list(pools.vectors())

    def _pooled_there(self, texts: list[list[int]]) -> list[Vector]:
        """The vectors of `texts`, computed at once and pooled by llama.cpp."""
        self._step([Chunk(seq=seq, start=0, tokens=text, logits=len(text)) for seq, text in enumerate(texts)])
        return [self._read(seq) for seq in range(len(texts))]

    def _step(self, chunks: list[Chunk]) -> None:
        self._since = time.perf_counter()
        try:
            self._batch.fill(chunks)
            self._batch.compute(self._context)
        finally:
            self._since = None

    def _read(self, seq: int) -> Vector:
        pointer: Any = llama_cpp.llama_get_embeddings_seq(self._context, seq)
        if not pointer:
            raise GenerationFailed(
                f"The model gives no vectors with pooling {self.pooling!r}; set options.pooling to one that it has."
            )
        vector: Vector = np.ctypeslib.as_array(pointer, (self.dimensions,)).copy()
        return vector


def in_pieces(model: LlamaModel, options: LlamaOptions) -> bool:
    """Whether a text's tokens can be computed a few at a time: where none sees those behind it.

    llama.cpp pools only what it computes in one piece, and computes the scores of all tokens of a piece: for a long
    text and a large vocabulary these would be gigabytes.
    """
    return model.generates and pooling_of(model, options) != "rank"


def embedding_params(model: LlamaModel, device: DeviceConfig, options: LlamaOptions, context: int) -> Any:
    """Parameters of a context for the embeddings of texts of up to `context` tokens."""
    pieces = in_pieces(model, options)
    params = sized_params(device, options, embedding_sizes(context, in_pieces=pieces))
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE if pieces else POOLING[pooling_of(model, options)]
    return params


def pooling_of(model: LlamaModel, options: LlamaOptions) -> str:
    """How the vectors of a text's tokens become one: as the options say, else as the model says, else the mean."""
    if options.pooling is not None:
        return options.pooling
    value = model.metadata.get(f"{model.architecture}.pooling_type", "")
    names = {str(number): name for name, number in POOLING.items()}
    return names.get(value, "mean")
