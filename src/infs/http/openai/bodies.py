"""The bodies of requests, as JSON. A field that is null is a field that was not sent.

Settings of generation carry the names and meanings of `infs.types.GenerationRequest`, which also has their
ranges.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from infs.types import LogitBias, LoraScale

MAX_STOPS = 16
MAX_PROMPTS = 1024

ModelId = Annotated[str, Meta(min_length=1, max_length=256, description="Id of a model; GET /v1/models lists them.")]
TextOrTokens = Annotated[
    str | list[str | int | list[int]],
    Meta(description="A text, a list of texts, a list of token ids, or a list of lists of token ids."),
]
Label = Annotated[str, Meta(max_length=512)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every request may say.

    Requests with a lower `priority` go first; those with the same one in turn, `user` by `user`. Labels are written
    to the log too (level debug).
    """

    model: ModelId
    timeout: float | None = None
    priority: int | None = None
    user: Label | None = None

    @property
    def asking(self) -> dict[str, Any]:
        """Who asks, how urgently, and how long it may take: what all requests of the vocabulary have."""
        said = {"timeout": self.timeout, "priority": self.priority, "client": self.user}
        return {name: value for name, value in said.items() if value is not None}


class StreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to stream. `include_usage` adds a last chunk with the tokens used."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Whitespace = Annotated[
    Literal["compact", "flexible"],
    Meta(description="What stands between values: one space behind commas and colons, or layout as the model likes."),
]


class GrammarBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grammar in a syntax of your choice, or the `name` of one that the model's configuration has."""

    definition: str | None = None
    name: str | None = None
    syntax: Literal["gbnf", "lark"] | None = None


class TextFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="json_object"):
    """Any JSON object. By default its layout is flexible."""

    whitespace: Whitespace | None = None


class JsonSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema. It is enforced whether `strict` or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="json_schema"):
    """JSON that fits a schema. By default its layout is compact."""

    json_schema: JsonSchema
    whitespace: Whitespace | None = None


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class GenerationBody(Body, frozen=True, kw_only=True):
    """What chat and text completions have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: int | None = None
    n: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | list[LogitBias] | None = None
    ignore_eos: bool | None = None
    context_overflow: Literal["refuse", "shift"] | None = None
    context_keep: int | None = None
    cache_salt: Label | None = None
    cache_reuse: int | None = None
    speculation: Literal["auto", "off"] | None = None
    lora: list[LoraScale] | None = None

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_last_n: int | None = None
    repeat_last_n: Annotated[int | None, Meta(description="Another name of penalty_last_n.")] = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    response_format: ResponseFormat | None = None
    grammar: str | GrammarBody | None = None
    regex: str | None = None
    choice: list[str] | None = None


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    """Continue texts. Several prompts are several completions, run side by side."""

    prompt: TextOrTokens
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None


# --- chat -----------------------------------------------------------------------------------------------------


class TextContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Text."""

    text: str


class RefusalContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refusal"):
    """An earlier refusal of the assistant."""

    refusal: str


class ImageUrl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the image is: a data URL, or an http(s) URL where the server's configuration allows to fetch it."""

    url: str
    detail: str | None = None


class ImageContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image_url"):
    """An image, for models that see."""

    image_url: ImageUrl


class InputAudio(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file, in base64."""

    data: str
    format: Literal["wav", "mp3", "flac"]


class AudioContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="input_audio"):
    """Sound, for models that hear."""

    input_audio: InputAudio


class FileContent(Struct, frozen=True, kw_only=True, tag="file"):
    """A file; refused."""


Content = str | list[TextContent | RefusalContent | ImageContent | AudioContent | FileContent]


class CalledFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCallBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that the assistant made."""

    id: str
    function: CalledFunction
    type: Literal["function"] | None = None


class MessageBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message. `developer` is the system; `annotations` and `audio` of an answer may come back when empty."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class FunctionBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionBody


class FunctionName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the functions in `tools`."""

    name: str


class FunctionChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="function"):
    """This function must be called."""

    function: FunctionName


class AllowedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the tools that are allowed."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tools that may, or (``required``) must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1)]


class AllowedToolsChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="allowed_tools"):
    """Only some of the tools."""

    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | AllowedToolsChoice


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    """Answer a conversation. Labels such as `metadata` are written to the log (level debug)."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_rounds: int | None = None
    reasoning_budget: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    store: bool | None = None
    service_tier: str | None = None
    modalities: list[str] | None = None
    verbosity: str | None = None


# --- embeddings -----------------------------------------------------------------------------------------------


class EmbeddingBody(Body, frozen=True, kw_only=True):
    """Turn texts into vectors. ``base64`` is that of little-endian float32 values."""

    input: TextOrTokens
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    normalize: bool | None = None
