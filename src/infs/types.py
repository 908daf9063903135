"""The vocabulary: requests, the events they cause and the results they end in.

A task is one request class and one result class; `TASKS` lists them, and everything that handles all tasks
alike (codec, facade, conveniences, capabilities) reads that list. All classes are frozen structs that encode
themselves (msgspec). A field that may be left out has the value `UNSET`, which is not the same as ``None``.

Ranges are part of the types (`Meta`); `validate` checks them wherever a request enters.
"""

from __future__ import annotations

import builtins
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from infs.errors import InvalidRequest

__all__ = [
    "GENERATION_OPTIONS",
    "TASKS",
    "UNSET",
    "Answer",
    "AssistantMessage",
    "AudioPart",
    "ChatChoice",
    "ChatCompletionRequest",
    "ChatCompletionResult",
    "ChoiceAnswer",
    "ChoiceConstraint",
    "ChoiceQuestion",
    "CompletionChoice",
    "Constraint",
    "ContentPart",
    "DecisionRequest",
    "DecisionResult",
    "Delta",
    "EmbeddingRequest",
    "EmbeddingResult",
    "Event",
    "FinishReason",
    "GenerationRequest",
    "GrammarConstraint",
    "ImagePart",
    "JsonConstraint",
    "LogitBias",
    "LoraScale",
    "Message",
    "NamedConstraint",
    "NamedTool",
    "OwnConstraint",
    "Predicate",
    "PredicateAnswer",
    "Progress",
    "Question",
    "RankedDocument",
    "RegexConstraint",
    "Request",
    "RerankRequest",
    "RerankResult",
    "Result",
    "ScoreAnswer",
    "ScoreQuestion",
    "TextCompletionRequest",
    "TextCompletionResult",
    "TextPart",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolUse",
    "TopLogprob",
    "Trail",
    "UnsetType",
    "Usage",
    "validate",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Meta(ge=0.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
FileBytes = Annotated[bytes, Meta(min_length=1)]
ScaleEnd = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)]

# --- results and events ---------------------------------------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Something that happened on the way to a result."""


class Result(Event, frozen=True, kw_only=True):
    """The last event of a request that went well."""


R = TypeVar("R", bound=Result)


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens that a request took. `cached_tokens` of the prompt needed no computing."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class TopLogprob(Struct, frozen=True, kw_only=True):
    """One candidate for a token's place; `bytes` may be a part of a character."""

    token: str
    bytes: builtins.bytes
    logprob: float


class TokenLogprob(Struct, frozen=True, kw_only=True):
    """A chosen token with its natural-log probability under the model, before any sampling setting.

    `logprob` is ``None`` for the first token of an echoed prompt, which nothing precedes.
    """

    token: str
    bytes: builtins.bytes
    logprob: float | None
    top: list[TopLogprob] = []


class ToolCall(Struct, frozen=True, kw_only=True):
    """A function that the model wants called. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ToolCallDelta(Struct, frozen=True, kw_only=True):
    """A piece of a tool call: `id` and `name` come once, with the first piece of call number `index`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """How far a stage has come: `done` of `total` (``None`` when unknown), in `unit`.

    ``memory`` is waiting for other models to make room. `rate` is in units per second, `remaining` in seconds.
    """

    stage: Literal["queue", "download", "memory", "load", "prompt"]
    done: int
    total: int | None = None
    unit: Literal["bytes", "tokens", "requests", "percent"] = "bytes"
    detail: str = ""
    rate: float | None = None
    remaining: float | None = None


class Delta(Event, frozen=True, kw_only=True, tag="delta"):
    """New output of choice number `index`. The last delta of a choice carries its `finish_reason`."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = []
    logprobs: list[TokenLogprob] = []
    finish_reason: FinishReason | None = None


class ToolUse(Event, frozen=True, kw_only=True, tag="tool-use"):
    """A call that the server carries out for choice number `index`: told when it begins, and again with its `result`.

    `failed`: the result is the text of an error.
    """

    index: int = 0
    call: ToolCall
    result: str | None = None
    failed: bool = False


class Trail(Event, frozen=True, kw_only=True, tag="trail"):
    """Tokens of choice number `index` that the deltas up to the next trail are made of.

    From a request and its trails an engine can go on where another left off. The facade keeps them and tells nobody.
    """

    index: int = 0
    tokens: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """One text. `logprobs` is ``None`` unless asked for."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None


class TextCompletionResult(Result, frozen=True, kw_only=True, tag="text-completion-result"):
    """The texts of a text completion, in the order of their index."""

    choices: list[CompletionChoice]
    usage: Usage

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """What the model said. `content` is ``None`` when it only called tools."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []


class ChatChoice(Struct, frozen=True, kw_only=True):
    """One answer. `logprobs` is ``None`` unless asked for.

    `messages` were said between the request and the answer: calls that the server carried out, and their results.
    """

    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    messages: list[Message] = []


class ChatCompletionResult(Result, frozen=True, kw_only=True, tag="chat-completion-result"):
    """The answers of a chat completion, in the order of their index."""

    choices: list[ChatChoice]
    usage: Usage

    @property
    def text(self) -> str:
        """The first choice's content, empty when there is none."""
        return self.choices[0].message.content or ""


class EmbeddingResult(Result, frozen=True, kw_only=True, tag="embedding-result"):
    """One vector for each input, in their order: `dimensions` little-endian float32 values each."""

    vectors: list[bytes]
    dimensions: int
    usage: Usage

    def as_lists(self) -> list[list[float]]:
        """The vectors as lists of floats; shape (inputs, dimensions)."""
        return [list(memoryview(vector).cast("f")) for vector in self.vectors]


class RankedDocument(Struct, frozen=True, kw_only=True):
    """How well the document number `index` answers the query: the higher the `score`, the better."""

    index: int
    score: float


class RerankResult(Result, frozen=True, kw_only=True, tag="rerank-result"):
    """The documents, the best first. Scores are the model's own; most have no bounds."""

    documents: list[RankedDocument]
    usage: Usage


class PredicateAnswer(Struct, frozen=True, kw_only=True, tag="predicate"):
    """The `probability` that the answer is yes; see `DecisionResult` for `mass`."""

    name: str = ""
    probability: float
    mass: float


class ChoiceAnswer(Struct, frozen=True, kw_only=True, tag="choice"):
    """The probability of each option, which sum to 1, in the options' order, and the `best` option."""

    name: str = ""
    probabilities: dict[str, float]
    best: str
    mass: float


class ScoreAnswer(Struct, frozen=True, kw_only=True, tag="score"):
    """The probability of each step of the scale, which sum to 1, and the `expected` value."""

    name: str = ""
    probabilities: dict[int, float]
    expected: float
    mass: float


Answer = PredicateAnswer | ChoiceAnswer | ScoreAnswer


class DecisionResult(Result, frozen=True, kw_only=True, tag="decision-result"):
    """An answer to each question, in their order.

    Probabilities are those given that the model answers with an option at all. An answer's `mass` is the probability
    that it does: where that is low, the model did not understand what was wanted, and the rest says little.

    `usage` counts the tokens that the questions share once.
    """

    answers: list[Answer]
    usage: Usage

    def answer(self, name: str) -> Answer:
        """The answer to the question with this name.

        Raises:
            KeyError: there is none.
        """
        for answer in self.answers:
            if answer.name == name:
                return answer
        raise KeyError(name)


# --- structured output ----------------------------------------------------------------------------------------


class JsonConstraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="json"):
    """The output is JSON that fits `schema`; without one, any JSON object.

    `whitespace` is ``compact`` (one space behind each comma and colon, which leaves little to choose and is fast) or
    ``flexible`` (line breaks and indentation as the model likes). By default it is compact with a schema, and flexible
    without one, where the model is free to show structure by layout.
    """

    schema: dict[str, Any] | None = None
    whitespace: Literal["compact", "flexible"] | None = None


class RegexConstraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="regex"):
    """The whole output matches `pattern` (Rust regex syntax), with or without ``^`` and ``$`` around it."""

    pattern: str


class ChoiceConstraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="choice"):
    """The output is one of `options`, exactly. One may be the beginning of another, or empty."""

    options: Annotated[list[str], Meta(min_length=1)]


class GrammarConstraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="grammar"):
    """The output is a sentence of a context-free grammar."""

    grammar: str
    syntax: Literal["gbnf", "lark"] = "gbnf"


class NamedConstraint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="named"):
    """What the model's configuration has in `grammars` by this name. The facade puts that in its place."""

    name: str


OwnConstraint = JsonConstraint | RegexConstraint | ChoiceConstraint | GrammarConstraint
Constraint = OwnConstraint | NamedConstraint


def own_constraint(grammar: OwnConstraint | str) -> OwnConstraint:
    """What `grammars` of a configuration holds: a text is GBNF."""
    return GrammarConstraint(grammar=grammar) if isinstance(grammar, str) else grammar


class LogitBias(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Adds `bias` to the score of `token`: an id, or a text whose tokens are all meant."""

    token: TokenId | str
    bias: Annotated[float, Meta(ge=-100.0, le=100.0)]


class LoraScale(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Applies the adapter called `name` with this `scale`."""

    name: str
    scale: Annotated[float, Meta(ge=-100.0, le=100.0)] = 1.0


# --- messages -------------------------------------------------------------------------------------------------


class TextPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text"):
    """Text in a message."""

    text: str


class ImagePart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image"):
    """An image in a message: the bytes of a JPEG, PNG, BMP or GIF file."""

    data: FileBytes


class AudioPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="audio"):
    """Sound in a message: the bytes of a WAV, MP3 or FLAC file."""

    data: FileBytes


ContentPart = TextPart | ImagePart | AudioPart


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call. `parameters` is a JSON Schema; `strict` enforces it."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class NamedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tool choice: the model must call one of these (`required`), or may only call these."""

    names: Annotated[list[str], Meta(min_length=1)]
    required: bool = True


# --- requests -------------------------------------------------------------------------------------------------


class Request(Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="task"):
    """What goes in.

    Attributes:
        timeout: seconds, from the moment of asking to the result.
        priority: requests with a lower number go first; those with the same number in turn, client by client.
        client: who asks, where that is known: clients with the same priority get equal shares.
    """

    task: ClassVar[str]
    result_type: ClassVar[type[Result]]

    model: str
    timeout: Annotated[float, Meta(gt=0.0)] | None = None
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    client: Annotated[str, Meta(max_length=512)] = ""


class GenerationRequest(Request[R], Generic[R], frozen=True, kw_only=True):
    """What text and chat completion have in common: the settings of text generation.

    What is `UNSET` comes from the model's `completion_defaults`, then the engine.

    The sampling settings mean what they mean in llama.cpp. `context_overflow` says what happens when prompt and
    output no longer fit into the context: end with ``length`` and refuse longer prompts, or drop the oldest half
    behind the first `context_keep` tokens and go on; of a chat, the oldest messages behind those of the system.

    Attributes:
        cache_salt: what is cached is shared only between requests with the same one.
        cache_reuse: when messages were dropped from a conversation, runs of at least so many cached tokens are moved
            to their new place instead of being computed anew; 0 moves none. An approximation: the moved tokens have
            seen the dropped ones.
        reasoning_budget: tokens that the model may think before it has to answer.
        speculation: guess tokens and check several at once, where that pays; never changes greedy output.
        lora: the adapters of the model's configuration to apply, instead of their configured scales.
    """

    max_tokens: Count | UnsetType | None = UNSET
    n: Annotated[int, Meta(ge=1, le=128)] | UnsetType = UNSET
    best_of: Annotated[int, Meta(ge=1, le=128)] | UnsetType = UNSET
    stop: list[str] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    logprobs: Annotated[int, Meta(ge=0, le=100)] | UnsetType | None = UNSET
    constraint: Constraint | UnsetType | None = UNSET
    ignore_eos: bool | UnsetType = UNSET
    context_overflow: Literal["refuse", "shift"] | UnsetType = UNSET
    context_keep: Count | UnsetType = UNSET
    cache_salt: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    cache_reuse: Count | UnsetType = UNSET
    reasoning_budget: Count | UnsetType | None = UNSET
    speculation: Literal["auto", "off"] | UnsetType = UNSET
    lora: list[LoraScale] | UnsetType = UNSET

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    top_p: Probability | UnsetType = UNSET
    min_p: Probability | UnsetType = UNSET
    typical_p: Probability | UnsetType = UNSET
    top_n_sigma: Annotated[float, Meta(ge=-1.0)] | UnsetType = UNSET
    repeat_penalty: Annotated[float, Meta(gt=0.0)] | UnsetType = UNSET
    frequency_penalty: Penalty | UnsetType = UNSET
    presence_penalty: Penalty | UnsetType = UNSET
    penalty_last_n: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    dry_multiplier: NonNegative | UnsetType = UNSET
    dry_base: NonNegative | UnsetType = UNSET
    dry_allowed_length: Count | UnsetType = UNSET
    dry_penalty_last_n: Annotated[int, Meta(ge=-1)] | UnsetType = UNSET
    dry_sequence_breakers: list[str] | UnsetType = UNSET
    xtc_probability: Probability | UnsetType = UNSET
    xtc_threshold: Probability | UnsetType = UNSET
    mirostat: Literal[0, 1, 2] | UnsetType = UNSET
    mirostat_tau: NonNegative | UnsetType = UNSET
    mirostat_eta: NonNegative | UnsetType = UNSET
    logit_bias: list[LogitBias] | UnsetType = UNSET

    def set_options(self) -> dict[str, Any]:
        """The options that are set, by name."""
        return {name: value for name in GENERATION_OPTIONS if (value := getattr(self, name)) is not UNSET}


GENERATION_OPTIONS: tuple[str, ...] = tuple(
    name for name in GenerationRequest.__struct_fields__ if name not in Request.__struct_fields__
)


class TextCompletionRequest(GenerationRequest[TextCompletionResult], frozen=True, kw_only=True, tag="text-completion"):
    """Continue a text.

    `prompt` is text or token ids; `suffix` asks for what stands between the two (fill-in-the-middle); `echo`
    puts the prompt before the output.
    """

    task = "text-completion"
    result_type = TextCompletionResult

    prompt: str | list[TokenId]
    suffix: str | None = None
    echo: bool = False


class ChatCompletionRequest(GenerationRequest[ChatCompletionResult], frozen=True, kw_only=True, tag="chat-completion"):
    """Answer a conversation.

    `continue_final_message` goes on with the last message, which must be the assistant's, instead of opening a
    new one. `template_options` are variables for the model's chat template. `max_tool_rounds`: how often the results of
    tools that the server carries out are fed back, at most; by default as the model's configuration says.
    """

    task = "chat-completion"
    result_type = ChatCompletionResult

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool] = []
    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    max_tool_rounds: Positive | None = None
    continue_final_message: bool = False
    template_options: dict[str, Any] = {}


class EmbeddingRequest(Request[EmbeddingResult], frozen=True, kw_only=True, tag="embedding"):
    """Turn texts (or lists of token ids) into vectors.

    `dimensions` cuts the vectors; `normalize` brings them to unit length, after the cut.
    """

    task = "embedding"
    result_type = EmbeddingResult

    input: Annotated[list[str | list[TokenId]], Meta(min_length=1)]
    dimensions: Positive | None = None
    normalize: bool = True


class RerankRequest(Request[RerankResult], frozen=True, kw_only=True, tag="rerank"):
    """Put documents into the order in which they answer a query; of the best `top_n`, or all."""

    task = "rerank"
    result_type = RerankResult

    query: str
    documents: Annotated[list[str], Meta(min_length=1)]
    top_n: Positive | None = None


class Predicate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="predicate"):
    """A question whose answer is yes or no."""

    name: str = ""
    question: Annotated[str, Meta(min_length=1)]


class ChoiceQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="choice"):
    """A question whose answer is exactly one of `options`. White space around an option does not count.

    Attributes:
        labels: the model answers with the options themselves (``none``) or with ``letters`` that stand for them; by
            default with letters where an option is long.
        rotations: ask so many times, with the list of options turned further each time, and average: models prefer
            certain places of a list.
    """

    name: str = ""
    question: Annotated[str, Meta(min_length=1)]
    options: Annotated[list[str], Meta(min_length=2, max_length=100)]
    labels: Literal["auto", "none", "letters"] = "auto"
    rotations: Positive = 1


class ScoreQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="score"):
    """A question whose answer is a whole number from `minimum` to `maximum`, at most 21 of them."""

    name: str = ""
    question: Annotated[str, Meta(min_length=1)]
    minimum: ScaleEnd
    maximum: ScaleEnd


Question = Predicate | ChoiceQuestion | ScoreQuestion


class DecisionRequest(Request[DecisionResult], frozen=True, kw_only=True, tag="decision"):
    """How probable the given answers to questions about something are: read from a model's scores, nothing is written.

    All questions are about the same conversation (`messages`), or text (`input`), or both, or neither; that is computed
    once, and the questions do not see each other.

    Attributes:
        instructions: what to keep in mind in all answers.
        exact: read every option to its end. By default options whose first tokens tell them apart are told apart by
            these, which takes no more than reading the question.
        template_options: variables for the model's chat template.
        cache_salt, lora: as in `GenerationRequest`.
    """

    task = "decision"
    result_type = DecisionResult

    messages: list[Message] = []
    input: str | None = None
    instructions: str | None = None
    questions: Annotated[list[Question], Meta(min_length=1, max_length=256)]
    exact: bool = False
    template_options: dict[str, Any] = {}
    cache_salt: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    lora: list[LoraScale] | UnsetType = UNSET


TASKS: dict[str, type[Request[Any]]] = {
    kind.task: kind
    for kind in (TextCompletionRequest, ChatCompletionRequest, EmbeddingRequest, RerankRequest, DecisionRequest)
}

# --- checks ---------------------------------------------------------------------------------------------------

Checked = TypeVar("Checked")


def validate(value: Checked) -> Checked:
    """The same value, once it is known to survive its own encoding, types and ranges included.

    Raises:
        InvalidRequest: with the field as `param`.
    """
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))
    except msgspec.ValidationError as error:
        message, param = explain(error)
        raise InvalidRequest(message, param=param) from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The request holds text that is not valid Unicode: half of a surrogate pair, "
            f"{error.object[error.start]!r}, at character {error.start}."
        ) from error
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(f"The request holds something that is not data: {error}") from error
    return value


def explain(error: msgspec.ValidationError) -> tuple[str, str | None]:
    """What a validation error says, and the path of the field it says it of (``messages[0].role``)."""
    text = str(error)
    what, _, path = text.partition(" - at `")
    field = path.rpartition("$")[2].rstrip("`").lstrip(".") or None  # the path of a key is "key` in `$.field"
    return (f"{field}: {what}" if field else what), field
