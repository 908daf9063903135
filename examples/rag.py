"""Answers from your own documents: the passages that fit the question best are put before the conversation.

python examples/rag.py "Who are you?"
python examples/rag.py "What did we decide?" --folder notes --embedder embedder.gguf --chat chat.gguf
"""

from __future__ import annotations

import argparse
import asyncio
import re
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from heapq import nlargest
from operator import mul
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from combining import CombiningEngine, add_model, model_of, start, tell, total
from infs import (
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Event,
    InferenceServer,
    Message,
    ModelConfig,
    Progress,
    Request,
    Usage,
)
from infs.engines.base import EngineSpec, ModelInfo, ModelSetup, RunContext
from infs.errors import LoadFailed
from infs.types import UNSET

DOCUMENTS = Path(__file__).parent / "documents"
BATCH = 32  # passages in a request for vectors


class RagOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the engine.

    Attributes:
        folder: where the documents are; they are read again when they have changed.
        embedder: the model that makes vectors of passages and questions.
        chat: the model that answers.
        patterns: which files are documents.
        top: how many passages are put before the conversation.
        length: characters of a passage, unless a single paragraph has more.
        instructions: what the model is told before the passages.
    """

    folder: str
    embedder: str
    chat: str
    patterns: Annotated[tuple[str, ...], Meta(min_length=1)] = ("**/*.md", "**/*.txt")
    top: Annotated[int, Meta(ge=1)] = 3
    length: Annotated[int, Meta(ge=1)] = 800
    instructions: str = "Answer from these passages, and say so where they do not have the answer."


class Passage(NamedTuple):
    """A part of a document, whose path is relative to the folder."""

    source: str
    text: str


class Documents:
    """The passages of the files in a folder; files that have not changed are not read again."""

    def __init__(self, options: RagOptions) -> None:
        self._folder = Path(options.folder)
        self._patterns = options.patterns
        self._length = options.length
        self._files: dict[Path, tuple[tuple[int, int], list[Passage]]] = {}

    def are_there(self) -> bool:
        """Whether the folder is there; it may be empty."""
        return self._folder.is_dir()

    def passages(self) -> list[Passage]:
        """All of them, as they are now."""
        paths = sorted({path for pattern in self._patterns for path in self._folder.glob(pattern) if path.is_file()})
        self._files = {path: self._file(path) for path in paths}
        return [passage for _, passages in self._files.values() for passage in passages]

    def _file(self, path: Path) -> tuple[tuple[int, int], list[Passage]]:
        facts = path.stat()
        version = (facts.st_mtime_ns, facts.st_size)
        known = self._files.get(path)
        if known is not None and known[0] == version:
            return known
        source = path.relative_to(self._folder).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        return version, [Passage(source, part) for part in cut(text, self._length)]


def cut(text: str, length: int) -> list[str]:
    """`text` in parts of whole paragraphs, with at most `length` characters where a paragraph has no more."""
    parts: list[str] = []
    for paragraph in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
        if parts and len(parts[-1]) + 2 + len(paragraph) <= length:
            parts[-1] += f"\n\n{paragraph}"
        else:
            parts.append(paragraph)
    return parts


class Rag(CombiningEngine[RagOptions]):
    """Retrieval-augmented chat. The vectors of passages are kept in memory, as long as the passages are there."""

    options_type = RagOptions

    def __init__(self) -> None:
        self._vectors: dict[str, array[float]] = {}
        self._updating = asyncio.Lock()

    async def load(self, setup: ModelSetup, progress: Callable[[Progress], None]) -> ModelInfo:
        """See that the documents are there; they are embedded with the first question."""
        info = await super().load(setup, progress)
        self._documents = Documents(self.options)
        if not await asyncio.to_thread(self._documents.are_there):
            raise LoadFailed(f"models.{setup.model}.options.folder: there is no folder {self.options.folder}.")
        return info

    async def run(self, request: Request[Any], context: RunContext) -> AsyncGenerator[Event]:
        """How far embedding is, then the chat model's answer as it comes, then the sources; the usage counts all."""
        assert isinstance(request, ChatCompletionRequest)  # `load` has promised nothing else
        usages: list[Usage] = []
        async with self._updating:
            passages = await asyncio.to_thread(self._documents.passages)
            async with aclosing(self._update(passages, request, usages)) as events:
                async for event in events:
                    yield event
        found = await self._best(passages, request, usages)
        asked = replace(request, model=self.options.chat, messages=self._with_passages(request.messages, found))
        sources = "" if request.constraint not in (UNSET, None) else _sources(found)
        async with aclosing(self.answer(asked, total(usages))) as events:
            async for event in events:
                yield _with_sources(event, sources)

    def status(self) -> dict[str, Any]:
        """How much is kept."""
        return {"passages": len(self._vectors)}

    # --- vectors

    async def _update(
        self, passages: list[Passage], request: ChatCompletionRequest, usages: list[Usage]
    ) -> AsyncGenerator[Event]:
        """Embed what is new, and forget what is gone."""
        texts = list(dict.fromkeys(passage.text for passage in passages))
        new = [text for text in texts if text not in self._vectors]
        for done in range(0, len(new), BATCH):
            yield Progress(stage="prompt", done=done, total=len(new), unit="requests", detail="embedding documents")
            batch = new[done : done + BATCH]
            self._vectors |= zip(batch, await self._embed(batch, request, usages), strict=True)
        self._vectors = {text: self._vectors[text] for text in texts}

    async def _embed(self, texts: list[str], request: ChatCompletionRequest, usages: list[Usage]) -> list[array[float]]:
        """Vectors of unit length."""
        result: EmbeddingResult = await self.runner.run(
            EmbeddingRequest(
                model=self.options.embedder, input=list(texts), priority=request.priority, client=request.client
            )
        )
        usages.append(result.usage)
        return [array("f", memoryview(vector).cast("f")) for vector in result.vectors]

    async def _best(
        self, passages: list[Passage], request: ChatCompletionRequest, usages: list[Usage]
    ) -> list[Passage]:
        """The passages that fit the user's last message best, the best first."""
        question = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        if not passages or not question:
            return []
        [wanted] = await self._embed([question], request, usages)
        # Another request may have found the passages changed, and have dropped the vectors of these.
        there = [passage for passage in passages if passage.text in self._vectors]
        return nlargest(self.options.top, there, key=lambda passage: sum(map(mul, self._vectors[passage.text], wanted)))

    # --- the conversation

    def _with_passages(self, messages: list[Message], found: list[Passage]) -> list[Message]:
        """`messages` with a system message in front, or with a longer one. The best passage is next to the rest."""
        if not found:
            return messages
        told = [self.options.instructions, *(f"{passage.source}:\n{passage.text}" for passage in reversed(found))]
        system = messages[0].role == "system"
        first = [messages[0].text] if system else []
        content = "\n\n".join(filter(None, [*first, *told]))
        return [Message(role="system", content=content), *messages[system:]]


def _sources(found: list[Passage]) -> str:
    names = list(dict.fromkeys(passage.source for passage in found))
    return f"\n\nSources: {', '.join(names)}" if names else ""


def _with_sources(event: Event, sources: str) -> Event:
    """`event`, with the sources where an answer ends that is one: a call of a function is not."""
    if isinstance(event, Delta) and event.finish_reason in ("stop", "length"):
        return replace(event, text=event.text + sources)
    if not isinstance(event, ChatCompletionResult):
        return event
    choices = [
        replace(choice, message=replace(choice.message, content=(choice.message.content or "") + sources))
        if choice.finish_reason in ("stop", "length")
        else choice
        for choice in event.choices
    ]
    return replace(event, choices=choices)


ENGINE = EngineSpec(name="rag", factory=Rag, options=RagOptions, in_process=True, needs_files=False)


def main() -> None:
    """Answer a question from the documents in a folder."""
    parser = argparse.ArgumentParser(description="Ask about the documents (.md, .txt) in a folder.")
    parser.add_argument("question")
    parser.add_argument("--folder", type=Path, default=DOCUMENTS, help="of the documents")
    parser.add_argument("--top", type=int, default=3, help="how many passages the model is given")
    add_model(parser, "embedder", "the model that makes vectors")
    add_model(parser, "chat", "the model that answers")
    arguments = parser.parse_args()
    options = {"folder": str(arguments.folder), "top": arguments.top, "embedder": "embedder", "chat": "chat"}
    models = {
        "embedder": model_of(arguments.embedder),
        "chat": model_of(arguments.chat),
        "documents": ModelConfig(engine=ENGINE.name, options=options),
    }
    question = Message(role="user", content=arguments.question)
    with InferenceServer.sync(models, {ENGINE.name: ENGINE}) as server:
        tell(server.chat_completion.stream(model="documents", messages=[question]))


if __name__ == "__main__":
    start(main)
