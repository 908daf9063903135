"""The first level: a call for each thing that a model can do, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from infs.engines.llama_cpp.embedder import Embedder
from infs.engines.llama_cpp.output import Processor
from infs.llama.background import result_of
from infs.llama.core import Core
from infs.llama.handles import Handle, Stream
from infs.llama.settings import Messages, Prompt, chat_request, make, text_request, tokens_of
from infs.types import (
    ChatCompletionResult,
    DecisionRequest,
    DecisionResult,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Question,
    R,
    RerankRequest,
    RerankResult,
    TextCompletionResult,
)

Processors = Sequence[Processor] | Processor
Texts = str | Sequence[str | Sequence[int]]
Questions = Question | Mapping[str, Any] | Sequence[Question | Mapping[str, Any]]


class Calls:
    """What a `Llama` inherits: see there."""

    _core: Core

    # --- for threads

    def complete(self, prompt: Prompt, *, logits_processors: Processors = (), **settings: Any) -> TextCompletionResult:
        """Continue a text.

        Args:
            prompt: a text or its tokens.
            logits_processors: functions that change scores before a token is chosen, each called for every token of
                every choice with the tokens so far (a list, to be left as it is) and the scores of what comes next: a
                float32 array, shape (vocabulary,), to be changed in place, valid during the call only. They hold up
                all requests while they run. One that raises ends only its own request, in `GenerationFailed`.
            settings: the fields of `infs.types.TextCompletionRequest`: `max_tokens`, `temperature`, `stop`, `n`,
                `seed`, `constraint`, `lora`, `timeout`, ... What is not given comes from the model's `defaults`, then
                from llama.cpp. Structures may be given as dictionaries.

        Raises:
            InvalidRequest: a setting is not known, of a wrong type or out of range; nothing can be chosen by the
                scores that a logits processor has left.
            ContextLengthExceeded: the prompt does not fit.
            Unsupported: the model cannot do that.
            RequestTimeout: it took longer than its `timeout`, in seconds.
            GenerationFailed: it failed on the way.
            ServerClosed: the model was closed.
        """
        return _finish(self._complete(prompt, logits_processors, settings))

    def chat(self, messages: Messages, *, logits_processors: Processors = (), **settings: Any) -> ChatCompletionResult:
        """Answer a conversation.

        Args:
            messages: `infs.types.Message` objects, or dictionaries with their fields; a text is one message of the
                user.
            logits_processors: see `complete`.
            settings: the fields of `infs.types.ChatCompletionRequest`: `tools`, `tool_choice`, and all settings of
                `complete`. Calls of tools are told, and not carried out.

        Raises:
            InfsError: as `complete`.
        """
        return _finish(self._chat(messages, logits_processors, settings))

    def infill(
        self, prefix: str, suffix: str, *, logits_processors: Processors = (), **settings: Any
    ) -> TextCompletionResult:
        """Write what stands between `prefix` and `suffix` (fill-in-the-middle); settings as for `complete`.

        Raises:
            Unsupported: the model was not trained for it.
            InfsError: as `complete`.
        """
        return self.complete(prefix, suffix=suffix, logits_processors=logits_processors, **settings)

    def stream_complete(self, prompt: Prompt, *, logits_processors: Processors = (), **settings: Any) -> Stream:
        """The deltas of `complete` as they come. Not to read on cancels the request.

        Raises:
            InfsError: as `complete`; what comes up on the way is raised by the iterator.
        """
        return Stream(self._complete(prompt, logits_processors, settings))

    def stream_chat(self, messages: Messages, *, logits_processors: Processors = (), **settings: Any) -> Stream:
        """The deltas of `chat` as they come. Not to read on cancels the request.

        Raises:
            InfsError: as `chat`; what comes up on the way is raised by the iterator.
        """
        return Stream(self._chat(messages, logits_processors, settings))

    def embed(self, texts: Texts, *, dimensions: int | None = None, normalize: bool = True) -> EmbeddingResult:
        """The vectors of texts (or lists of tokens), one for each; `as_lists` has shape (texts, dimensions).

        Args:
            dimensions: cuts the vectors.
            normalize: bring them to length 1, after the cut.

        Raises:
            ContextLengthExceeded: a text is too long.
            InvalidRequest: a text is empty, or a setting is wrong.
        """
        return result_of(self._core.embed(_embedding(texts, dimensions, normalize)))

    def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> RerankResult:
        """The `documents` in the order in which they answer `query`, or the best `top_n` of them.

        Raises:
            ContextLengthExceeded: the query and a document are too long together.
            Unsupported: the model is no reranker.
        """
        return result_of(self._core.embed(_ranking(query, documents, top_n)))

    def decide(self, questions: Questions, **settings: Any) -> DecisionResult:
        """How probable given answers to questions are, read from the scores: nothing is written.

        Args:
            questions: `infs.types.Predicate`, `ChoiceQuestion` and `ScoreQuestion` objects, or dictionaries with their
                fields and a ``type``; or one of them.
            settings: the other fields of `infs.types.DecisionRequest`: `messages` or `input` (what the questions are
                about), `instructions`, `exact`, `lora`, `timeout`, ...

        Raises:
            ContextLengthExceeded: a question does not fit.
            InfsError: as `complete`.
        """
        return result_of(self._core.decide(_decision(questions, settings)))

    # --- for coroutines

    async def acomplete(
        self, prompt: Prompt, *, logits_processors: Processors = (), **settings: Any
    ) -> TextCompletionResult:
        """`complete` on an event loop; cancelling the task cancels the request."""
        return await _afinish(lambda: self._complete(prompt, logits_processors, settings))

    async def achat(
        self, messages: Messages, *, logits_processors: Processors = (), **settings: Any
    ) -> ChatCompletionResult:
        """`chat` on an event loop; cancelling the task cancels the request."""
        return await _afinish(lambda: self._chat(messages, logits_processors, settings))

    async def ainfill(
        self, prefix: str, suffix: str, *, logits_processors: Processors = (), **settings: Any
    ) -> TextCompletionResult:
        """`infill` on an event loop; cancelling the task cancels the request."""
        return await self.acomplete(prefix, suffix=suffix, logits_processors=logits_processors, **settings)

    async def astream_complete(
        self, prompt: Prompt, *, logits_processors: Processors = (), **settings: Any
    ) -> AsyncGenerator[Delta]:
        """`stream_complete` on an event loop; closing the generator cancels the request."""
        async with _begun(lambda: self._complete(prompt, logits_processors, settings)) as handle:
            async for delta in handle:
                yield delta

    async def astream_chat(
        self, messages: Messages, *, logits_processors: Processors = (), **settings: Any
    ) -> AsyncGenerator[Delta]:
        """`stream_chat` on an event loop; closing the generator cancels the request."""
        async with _begun(lambda: self._chat(messages, logits_processors, settings)) as handle:
            async for delta in handle:
                yield delta

    async def aembed(self, texts: Texts, *, dimensions: int | None = None, normalize: bool = True) -> EmbeddingResult:
        """`embed` on an event loop."""
        work = _embedding(texts, dimensions, normalize)
        return await asyncio.wrap_future(await asyncio.to_thread(self._core.embed, work))

    async def arerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> RerankResult:
        """`rerank` on an event loop."""
        work = _ranking(query, documents, top_n)
        return await asyncio.wrap_future(await asyncio.to_thread(self._core.embed, work))

    async def adecide(self, questions: Questions, **settings: Any) -> DecisionResult:
        """`decide` on an event loop; cancelling the task cancels it."""
        return await asyncio.wrap_future(self._core.decide(_decision(questions, settings)))

    # --- what they share

    def _complete(
        self, prompt: Prompt, processors: Processors, settings: dict[str, Any]
    ) -> Handle[TextCompletionResult]:
        return self._core.submit(text_request(prompt, settings), processors)

    def _chat(
        self, messages: Messages, processors: Processors, settings: dict[str, Any]
    ) -> Handle[ChatCompletionResult]:
        return self._core.submit(chat_request(messages, settings), processors)


def _finish(handle: Handle[R]) -> R:
    with handle:  # an exception, such as that of Ctrl+C, cancels it
        return handle.result()


async def _afinish(begin: Callable[[], Handle[R]]) -> R:
    async with _begun(begin) as handle:
        return await handle


@asynccontextmanager
async def _begun(begin: Callable[[], Handle[R]]) -> AsyncIterator[Handle[R]]:
    """A request begun on a helper thread, since that takes time, and cancelled when nobody is interested any more."""
    made: list[Handle[R]] = []
    left = threading.Event()

    def work() -> None:
        made.append(begin())
        if left.is_set():
            made[0].cancel()

    try:
        await asyncio.to_thread(work)
        yield made[0]
    finally:
        left.set()
        for handle in made:
            handle.cancel()


def _embedding(
    texts: Texts, dimensions: int | None, normalize: bool
) -> Callable[[Embedder], Coroutine[Any, Any, EmbeddingResult]]:
    told = [texts] if isinstance(texts, str) else texts
    items = [item if isinstance(item, str) else tokens_of(item, "input") for item in told]
    request = make(EmbeddingRequest, input=items, dimensions=dimensions, normalize=normalize)
    return lambda embedder: embedder.run(request)


def _decision(questions: Questions, settings: dict[str, Any]) -> DecisionRequest:
    several = [questions] if isinstance(questions, Question | Mapping) else questions
    return make(DecisionRequest, questions=several, **settings)


def _ranking(
    query: str, documents: Sequence[str], top_n: int | None
) -> Callable[[Embedder], Coroutine[Any, Any, RerankResult]]:
    request = make(RerankRequest, query=query, documents=list(documents), top_n=top_n)
    return lambda embedder: embedder.rank(request)
