"""What a configuration consists of: strict types, with their ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from infs.types import Message, OwnConstraint

MODEL_ID = r"^[a-zA-Z0-9_:./-]+$"

Seconds = Annotated[float, Meta(ge=0.0)]
Positive = Annotated[int, Meta(ge=1)]


Size = int | str
MaxMemory = Size | dict[str, Size]


class DeviceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model runs.

    `gpu`: ``"auto"`` uses a GPU where the engine finds one, true insists on one, false stays on the CPU; the name
    of a backend (``"cuda"``, ``"metal"``, ``"vulkan"``) insists on that one. `gpu_layers`: how many layers go to
    the GPU (all by default). `cpu_threads`: threads of the CPU (all cores by default). `mem_lock`: keep the
    weights from being swapped out. `exclusive`: share its GPUs with no other model.
    """

    gpu: bool | str = "auto"
    gpu_layers: Annotated[int, Meta(ge=0)] | None = None
    cpu_threads: Positive | None = None
    mem_lock: bool = False
    exclusive: bool = False

    def __post_init__(self) -> None:
        # The environment knows texts only, and a text would do as the name of a backend.
        if isinstance(self.gpu, str) and self.gpu.lower() in ("true", "false"):
            msgspec.structs.force_setattr(self, "gpu", self.gpu.lower() == "true")


class Preload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is computed when a model is loaded, and stays in the context cache.

    Attributes:
        messages: the beginning of a conversation.
        prefix: the beginning of a text, in place of `messages`.
    """

    messages: list[Message] | None = None
    prefix: str | None = None


class ToolConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the server carries out.

    Attributes:
        handler: ``"module:function"``, found in the working directory or among installed packages.
        name, description: instead of the function's own name and docstring.
        parameters: a JSON Schema; the function then gets one dictionary. By default the function's parameters and
            their types are what counts.
        strict: make the arguments fit the schema while they are written.
        parallel: it may run at the same time as other calls, as it does by default.
        timeout: seconds that a call may take.
    """

    handler: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    parallel: bool | None = None
    timeout: Annotated[float, Meta(gt=0.0)] | None = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. Exactly one of `url` and `file` names its files (an engine of your own may need neither).

    Attributes:
        task: what the model is for: ``"text-completion"`` and ``"chat-completion"`` (which go together) leave
            embeddings out, ``"embedding"`` and ``"rerank"`` load it for these alone; by default all that its engine
            can do with it.
        engine: name of the engine; by default the one that can load the files.
        url: a Hugging Face URL, ``hf:org/repo/file``, ``hf:org/repo:Q4_K_M``, ``ollama:name:tag``,
            ``lmstudio:org/repo`` or any http(s) URL.
        file: a path; a relative one starts at the cache.
        sha256, md5: what the file must hash to.
        allow_patterns, ignore_patterns: which files of a repository or folder count, as in ``*.gguf``; by default what
            the engine needs.
        context_size: tokens of the longest sequence (prompt and output); by default what the model was trained
            for, at most 8192.
        max_sequences: how many requests an instance works on at the same time.
        max_instances, min_instances: how many instances there may be, and how many stay loaded.
        ttl: seconds that an idle instance stays loaded; 0 disposes of it at once.
        pinned: once loaded it stays, whoever else wants its memory.
        prepare: when the files are fetched: on the first request, before the server is ready, or beside it.
        max_queue: how many requests may wait for this model.
        queue_timeout: seconds that a request may wait for a place; no limit by default.
        max_replays: how often a request whose worker died is taken up again without having come any further.
        hang_timeout: seconds that a worker may take for one step before it is replaced.
        device: where it runs.
        completion_defaults: generation settings for requests that do not give them.
        preload: a beginning that many requests share.
        chat_template: a Jinja template that replaces the model's own.
        tools: functions that the model may call in every chat, run by the server.
        max_tool_rounds: how often their results are fed back in one request, at most.
        grammars: constraints that requests may name; a text is GBNF.
        options: settings of the engine; each engine documents its own.
    """

    task: Literal["text-completion", "chat-completion", "embedding", "rerank"] | None = None
    engine: str | None = None
    url: str | None = None
    file: str | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    md5: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{32}$")] | None = None
    allow_patterns: list[str] | None = None
    ignore_patterns: list[str] | None = None
    context_size: Positive | None = None
    max_sequences: Annotated[int, Meta(ge=1, le=128)] = 8
    max_instances: Positive = 1
    min_instances: Annotated[int, Meta(ge=0)] = 0
    ttl: Seconds = 300.0
    pinned: bool = False
    prepare: Literal["on-demand", "blocking", "async"] = "on-demand"
    max_queue: Annotated[int, Meta(ge=0)] = 256
    queue_timeout: Annotated[float, Meta(gt=0.0)] | None = None
    max_replays: Annotated[int, Meta(ge=0)] = 3
    hang_timeout: Annotated[float, Meta(gt=0.0)] = 120.0
    device: DeviceConfig = DeviceConfig()
    completion_defaults: dict[str, Any] = {}
    preload: Preload | None = None
    chat_template: str | None = None
    grammars: dict[str, OwnConstraint | str] = {}
    tools: list[ToolConfig] = []
    max_tool_rounds: Positive = 8
    options: dict[str, Any] = {}


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP server.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_keys: when not empty, every inference route wants one of them as a bearer token.
        cors_origins: origins whose pages may call the API; ``["*"]`` allows all.
        max_body: bytes that a request may have, and the files that are fetched for it.
        fetch_media: from where images that requests name by http(s) URL are fetched: never, from addresses of the
            public Internet, or from anywhere, which lets clients reach what the server reaches.
        drain_timeout: seconds that running requests get to finish at shutdown.
        stall_timeout: seconds after which a client that does not read its stream is given up.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 3000
    api_keys: list[str] = []
    cors_origins: list[str] = msgspec.field(default_factory=lambda: ["*"])
    max_body: Positive = 64 * 1024 * 1024
    fetch_media: Literal["never", "public", "anywhere"] = "never"
    drain_timeout: Seconds = 30.0
    stall_timeout: Annotated[float, Meta(gt=0.0)] = 60.0


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how.

    Attributes:
        level: the least important lines that are written.
        format: readable lines of text, or one JSON object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server tells others about its work.

    Attributes:
        traces: send a trace of each request to where OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and the
            like) say.
    """

    traces: bool = False


class HubConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model hub.

    Attributes:
        endpoint: its URL; by default what the hub's own variable ``HF_ENDPOINT`` says.
        token: what it knows its user by; by default what the hub's own variable ``HF_TOKEN`` says.
        offline: download nothing, from the hub or elsewhere; by default what the hub's own variable
            ``HF_HUB_OFFLINE`` says.
    """

    endpoint: str | None = None
    token: str | None = None
    offline: bool = False


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it.

    Attributes:
        models: by id; ids match ``[a-zA-Z0-9_:.-/]+``.
        cache_path: folder for downloaded files; the user's cache folder by default.
        concurrency: most requests that run at the same time over all models; no limit by default.
        max_memory: what all loaded models together may take: of the host's memory (``"8GB"``, ``"80%"`` or bytes), or
            of each device by its name, as in ``{ host = "8GB", "cuda:0" = "20GB" }``. By default what the machine has
            and others do not use.
    """

    server: ServerConfig = ServerConfig()
    models: dict[str, ModelConfig] = {}
    cache_path: str | None = None
    concurrency: Positive | None = None
    max_memory: MaxMemory | None = None
    log: LogConfig = LogConfig()
    hub: HubConfig = HubConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
