"""Configuration: strict types, read from a file, the environment and flags.

Flags beat the environment, which beats the file. The file is TOML, YAML or JSON by its ending; without a name,
``infs.toml`` in the working directory is taken if there is one. ``INFS_SERVER__PORT=8000`` sets ``server.port``;
a value that starts with ``[`` or ``{`` is read as JSON. A key that nobody knows is an error that names the
nearest one that is known.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from infs.errors import ConfigError, Unsupported
from infs.sizes import check_size
from infs.types import (
    GENERATION_OPTIONS,
    UNSET,
    GenerationRequest,
    Message,
    OwnConstraint,
    TextCompletionRequest,
    explain,
)

MODEL_ID = r"^[a-zA-Z0-9_:./-]+$"
DEFAULT_FILE = "infs.toml"
ENV_PREFIX = "INFS_"

Seconds = Annotated[float, Meta(ge=0.0)]
Positive = Annotated[int, Meta(ge=1)]


Size = int | str
MaxMemory = Size | dict[str, Size]

_GRAMMAR: Any = OwnConstraint | str


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


# --- reading --------------------------------------------------------------------------------------------------


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    below: Mapping[str, Any] | None = None,
    directory: str | Path = ".",
) -> Config:
    """The configuration from file, environment and flags.

    Args:
        path: the file; without one, ``infs.toml`` in `directory` if it is there.
        environ: the environment; variables that do not start with ``INFS_`` are not read.
        overrides: what flags say, as nested dictionaries; the strongest.
        below: what holds where none of these says anything, in place of the usual defaults.

    Raises:
        ConfigError: with the key and what to do about it.
    """
    path = find_file(path, directory)
    layers = read_layers(path, environ=environ, overrides=overrides, below=below)
    for name, layer in layers:
        check_types(layer, name)
    return parse_config(merge_layers(layers), where=str(path) if path is not None else "the configuration")


Layers = list[tuple[str, Mapping[str, Any]]]


def find_file(path: str | Path | None, directory: str | Path = ".") -> Path | None:
    """The configuration file: `path`, or ``infs.toml`` in `directory` if it is there."""
    if path is not None:
        return Path(path)
    default = Path(directory) / DEFAULT_FILE
    return default if default.is_file() else None


def read_layers(
    path: Path | None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    below: Mapping[str, Any] | None = None,
) -> Layers:
    """What each place says, with its name for people, the weakest first: defaults, file, environment, flags.

    Raises:
        ConfigError: for a file, or a value of the environment, that cannot be read.
    """
    file = read_file(path) if path is not None else {}
    return [
        ("the defaults", below or {}),
        (str(path) if path is not None else "the configuration", file),
        ("the environment", read_environ(environ or {}, file)),
        ("the command line", overrides or {}),
    ]


def merge_layers(layers: Layers) -> dict[str, Any]:
    """What all of them say together, the last one strongest."""
    return functools.reduce(merge, (layer for _, layer in layers), {})


def check_types(data: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` for an unknown key, or a value of a wrong type, in what may be a part of a configuration."""
    check_keys(data, Config, where)
    plain, models = _split_models(data, where)
    convert(plain, Config, where)
    for name, model in models.items():
        _convert_model(model, where, f"models.{name}")


def _split_models(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """All but the models, and the models by their ids. Nothing under a key (as YAML allows) is like no key."""
    plain = {key: value for key, value in data.items() if key != "models" and value is not None}
    models = data.get("models")
    if models is None:
        return plain, {}
    if not isinstance(models, Mapping):
        raise ConfigError(f"{where}: models is not a table of models by their ids.", param="models")
    return plain, {str(name): {} if model is None else model for name, model in models.items()}


def parse_config(data: Mapping[str, Any], *, where: str = "the configuration") -> Config:
    """`data` as a checked configuration.

    Raises:
        ConfigError: with the key and what to do about it.
    """
    check_keys(data, Config, where)
    plain, models = _split_models(data, where)
    parsed = {name: parse_model(name, model, where) for name, model in models.items()}
    config = convert(plain, Config, where)
    check_max_memory(config.max_memory, where)
    return msgspec.structs.replace(config, models=parsed)


def check_max_memory(limits: MaxMemory | None, where: str = "the configuration") -> None:
    """Raise `ConfigError` for an amount of memory that is none."""
    for name, size in limits_of(limits).items():
        try:
            check_size(size)
        except ValueError as error:
            key = f"max_memory.{name}" if isinstance(limits, dict) else "max_memory"
            raise ConfigError(f"{where}: {key}: {error}.", param=key) from error


def limits_of(limits: MaxMemory | None) -> dict[str, Size]:
    """`max_memory` by the names of what it limits; a single amount is the host's."""
    if limits is None:
        return {}
    return limits if isinstance(limits, dict) else {"host": limits}


def parse_model(name: str, data: Any, where: str = "the configuration") -> ModelConfig:
    """One model's part of the configuration, checked on its own."""
    key = f"models.{name}"
    if not re.match(MODEL_ID, name):
        raise ConfigError(f"{where}: {name!r} is no model id; use letters, digits and _ : . - / only.", param=key)
    model = data if isinstance(data, ModelConfig) else _convert_model(data, where, key)
    if model.url is not None and model.file is not None:
        raise ConfigError(f"{where}: {key} has both url and file; keep one.", param=key)
    if model.min_instances > model.max_instances:
        raise ConfigError(
            f"{where}: {key} has min_instances = {model.min_instances}, more than "
            f"max_instances = {model.max_instances}.",
            param=f"{key}.min_instances",
        )
    if model.preload is not None and (model.preload.messages is None) == (model.preload.prefix is None):
        raise ConfigError(f"{where}: {key}.preload needs messages or prefix, and not both.", param=key)
    defaults = check_defaults(model.completion_defaults, where, f"{key}.completion_defaults")
    _check_named(defaults.get("constraint"), model.grammars, where, f"{key}.completion_defaults.constraint")
    return msgspec.structs.replace(model, completion_defaults=defaults)


def _check_named(constraint: Any, grammars: Mapping[str, Any], where: str, key: str) -> None:
    """Raise `ConfigError` where the default constraint, as plain data, is a named one that is not there."""
    if constraint and constraint["type"] == "named" and (name := constraint["name"]) not in grammars:
        there = ", ".join(sorted(grammars)) or "none"
        raise ConfigError(f"{where}: {key}: there is no grammar {name!r} in grammars; there are: {there}.", param=key)


def _convert_model(data: Any, where: str, key: str) -> ModelConfig:
    check_keys(data, ModelConfig, where, key)
    grammars = data.get("grammars") if isinstance(data, Mapping) else None
    if isinstance(grammars, Mapping):  # one by one, so that errors say which
        for name, grammar in grammars.items():
            convert(grammar, _GRAMMAR, where, f"{key}.grammars.{name}")
    return convert(data, ModelConfig, where, key)


def check_defaults(data: dict[str, Any], where: str, key: str) -> dict[str, Any]:
    """`completion_defaults` as plain data, with every setting known, of its type and in its range."""
    _check_names(data, GENERATION_OPTIONS, where, key)
    if "stop" in data and isinstance(data["stop"], str):
        data = {**data, "stop": [data["stop"]]}
    try:
        plain: dict[str, Any] = msgspec.to_builtins(typed_defaults(data))
    except msgspec.ValidationError as error:
        what, param = explain(error)
        raise ConfigError(f"{where}: {key}.{what}.", param=f"{key}.{param}") from error
    return plain


def typed_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`completion_defaults` with the types that requests have; raises `msgspec.ValidationError`."""
    return msgspec.convert({"model": "-", **data}, _Defaults, strict=False).set_options()


class _Defaults(GenerationRequest[Any], frozen=True, kw_only=True, tag="defaults"):
    """Only there to check `completion_defaults` by the types that requests have."""


Generation = TypeVar("Generation", bound=GenerationRequest[Any])


def with_defaults(request: Generation, defaults: Mapping[str, Any]) -> Generation:
    """`request` with the settings of `defaults` in the places that it leaves open, where its task has a use for them.

    Raises:
        Unsupported: it sets what its task has no use for.
    """
    missing = {name: value for name, value in defaults.items() if getattr(request, name) is UNSET}
    if isinstance(request, TextCompletionRequest):
        missing.pop("reasoning_budget", None)
        if request.reasoning_budget is not UNSET and request.reasoning_budget is not None:
            raise Unsupported(
                "reasoning_budget limits the reasoning of a chat, and a text completion has none; leave it out.",
                param="reasoning_budget",
            )
    return msgspec.structs.replace(request, **missing) if missing else request


Checked = TypeVar("Checked")


def convert(data: Any, kind: type[Checked], where: str, key: str = "") -> Checked:
    """`data` as `kind`; texts from the environment become numbers and booleans where those are wanted."""
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        what, param = explain(error)
        full = ".".join(part for part in (key, param) if part)
        said = what.partition(": ")[2] if param else what
        if said.startswith("Expected `array`"):
            said += ' (write ["a", "b"])'
        raise ConfigError(f"{where}: {full or 'it'}: {said}.", param=full or None) from error


def check_keys(data: Any, kind: Any, where: str, prefix: str = "") -> None:
    """Raise for the first key in `data` that the struct `kind` does not have, at any depth.

    Raises:
        ConfigError: naming the nearest key that there is.
    """
    kind = _member(kind, data, where, prefix)
    if not isinstance(data, Mapping) or not (isinstance(kind, type) and issubclass(kind, Struct)):
        return
    tag = kind.__struct_config__.tag_field
    _check_names(data, (*kind.__struct_fields__, *([tag] if tag else [])), where, prefix)
    hints = typing.get_type_hints(kind)
    for name, value in data.items():
        if name == tag:
            continue
        inner = f"{prefix}.{name}" if prefix else str(name)
        for option in _options(hints[name]):
            if typing.get_origin(option) is dict and isinstance(value, Mapping):
                for key, item in value.items():
                    check_keys(item, typing.get_args(option)[1], where, f"{inner}.{key}")
            elif typing.get_origin(option) is list and isinstance(value, list):
                for number, item in enumerate(value):
                    check_keys(item, typing.get_args(option)[0], where, f"{inner}[{number}]")
            else:
                check_keys(value, option, where, inner)


def _member(kind: Any, data: Any, where: str, prefix: str) -> Any:
    """Of a union of tagged structs the one that `data` says it is; any other `kind` itself."""
    tagged = {
        option.__struct_config__.tag: option
        for option in _options(kind)
        if isinstance(option, type) and issubclass(option, Struct) and option.__struct_config__.tag is not None
    }
    if len(tagged) < 2 or not isinstance(data, Mapping):
        return kind
    field = next(iter(tagged.values())).__struct_config__.tag_field
    if (said := data.get(field)) not in tagged:
        full = f"{prefix}.{field}"
        what = f"{said!r} is none of" if field in data else "it is missing; there are"
        raise ConfigError(f"{where}: {full}: {what} {', '.join(map(repr, sorted(tagged)))}.", param=full)
    return tagged[said]


def _check_names(data: Mapping[str, Any], known: typing.Iterable[str], where: str, prefix: str) -> None:
    known = list(known)
    for name in data:
        if name in known:
            continue
        full = f"{prefix}.{name}" if prefix else str(name)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}."
        raise ConfigError(f"{where}: unknown key {full!r}; {hint}", param=full)


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with what `above` says in its place, table by table."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def read_file(path: Path) -> dict[str, Any]:
    """The tables in a TOML, YAML or JSON file.

    Raises:
        ConfigError: when it cannot be read as what its ending says.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from error
    try:
        data = _parse(path, text)
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no table at its top level.")
    return data


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    if suffix == ".json":
        try:
            return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if suffix in (".yaml", ".yml"):
        return _parse_yaml(path, text)
    raise ConfigError(f"{path}: a configuration ends in .toml, .yaml, .yml or .json.")


def _once(pairs: list[tuple[Any, Any]], path: Path) -> dict[Any, Any]:
    """`pairs` as a table. A key that is there twice would hide what stood there first."""
    table: dict[Any, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ConfigError(f"{path} has the key {key!r} twice in one table; keep one.", param=str(key))
        table[key] = value
    return table


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses keys that are there twice."""

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _once([(key, None) for key in keys if key != "<<"], path)
            return node

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from error


def read_environ(environ: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that ``INFS_...`` variables say; `data`, of the file, tells how the ids of models are written.

    Raises:
        ConfigError: for a value that starts like JSON and is none.
    """
    result: dict[str, Any] = {}
    for variable, text in sorted(environ.items()):
        if not variable.upper().startswith(ENV_PREFIX) or variable.upper() in NOT_SETTINGS:
            continue
        path = variable[len(ENV_PREFIX) :].split("__")
        _set(result, _spell(path, merge(data, result)), _value(variable, text), variable)
    return result


# Read elsewhere: the name of the configuration file itself, and where commands find a running server.
NOT_SETTINGS = frozenset({"INFS_CONFIG", "INFS_URL", "INFS_API_KEY"})


def _spell(path: list[str], data: Mapping[str, Any]) -> list[str]:
    """Keys are lower case; the id of a model is spelled as in `data`, where it is known there.

    A shell allows letters, digits and ``_`` only, so ``QWEN2_5`` finds ``qwen2.5``. An unknown id is kept, but lower
    case if all of it is upper case, which is all that Windows has.
    """
    spelled = [part.lower() for part in path]
    if spelled[0] == "models" and len(path) > 1:
        models = data.get("models")
        ids = [str(name) for name in models] if isinstance(models, Mapping) else []
        known = {_plain(name): name for name in ids} | {name: name for name in ids}
        unknown = spelled[1] if path[1].isupper() else path[1]
        spelled[1] = known.get(path[1]) or known.get(_plain(path[1]), unknown)
    return spelled


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _value(variable: str, text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{variable} starts like JSON and is none: {error}.", param=variable) from error


def _set(target: dict[str, Any], path: list[str], value: Any, variable: str) -> None:
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{variable} sets a part of something that another variable sets whole.")
    target[path[-1]] = value


__all__ = [
    "Config",
    "DeviceConfig",
    "HubConfig",
    "LogConfig",
    "ModelConfig",
    "Preload",
    "ServerConfig",
    "TelemetryConfig",
    "ToolConfig",
    "load_config",
    "parse_config",
    "parse_model",
]
