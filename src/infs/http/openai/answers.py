"""The bodies of answers, and the chunks of streamed ones."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from infs import types
from infs.types import FinishReason


class PromptTokens(Struct, frozen=True, kw_only=True):
    """Of the prompt's tokens, those that a cache already held."""

    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of all choices; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


def usage_of(used: list[types.Usage]) -> Usage:
    """The sum of `used`."""
    prompt = sum(usage.prompt_tokens for usage in used)
    completion = sum(usage.completion_tokens for usage in used)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokens(cached_tokens=sum(usage.cached_tokens for usage in used)),
    )


# --- log-probabilities ----------------------------------------------------------------------------------------


class TopLogprob(Struct, frozen=True, kw_only=True):
    """A candidate for a token's place. `token` has escapes where it is a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True, kw_only=True):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    """The tokens of a message."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """The tokens of a text: four lists of one length. Offsets count characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


# --- chat -----------------------------------------------------------------------------------------------------


class Function(Struct, frozen=True, kw_only=True):
    """A function with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True, kw_only=True):
    """A function that the model wants called."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class ChatMessage(Struct, frozen=True, kw_only=True):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: str | UnsetType = UNSET


class FunctionDelta(Struct, frozen=True, kw_only=True):
    """A piece of a call; the name comes once."""

    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct, frozen=True, kw_only=True):
    """A piece of call number `index`; id and type come once."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class ChatDelta(Struct, frozen=True, kw_only=True):
    """What is new in a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    """What is new in one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    service_tier: str | UnsetType = UNSET


# --- text completions -----------------------------------------------------------------------------------------


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """One text, or what is new in it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(Struct, frozen=True, kw_only=True):
    """The texts; also one event of a streamed text completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


# --- embeddings and models ------------------------------------------------------------------------------------


class Embedding(Struct, frozen=True, kw_only=True):
    """One vector: numbers, or base64 of little-endian float32 values."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct, frozen=True, kw_only=True):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Struct, frozen=True, kw_only=True):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "infs"


class Models(Struct, frozen=True, kw_only=True):
    """The models that this server has."""

    object: Literal["list"] = "list"
    data: list[Model]
