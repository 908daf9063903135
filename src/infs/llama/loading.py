"""A model file and its settings become everything that works with it."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from infs.config import ModelConfig, check_defaults, check_keys, convert, typed_defaults
from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.building import Builder, Machine
from infs.engines.llama_cpp.embedder import Embedder, pooling_of
from infs.engines.llama_cpp.generation import Posted
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.prompts import Prompts
from infs.engines.llama_cpp.sizing import check_context, default_context
from infs.errors import ConfigError, LoadFailed
from infs.store.source import parse_file

WHERE = "Llama"
KEYS = re.compile(r"(?<![\w./\\-])(?:options\.|device\.|(?=completion_defaults\b))([a-z]\w*)")
ARGUMENTS = {"cpu_threads": "threads", "completion_defaults": "defaults"}


@functools.cache
def native_log() -> NativeLog:
    """llama.cpp has one log for a process, which must outlive all that can write to it."""
    return NativeLog(logging.getLogger("infs.llama"))


@dataclass(frozen=True, slots=True)
class Generating:
    """What a model that generates text has.

    Attributes:
        identity: what must be equal for saved sequences to be of use, as JSON.
    """

    prompts: Prompts
    machine: Machine
    identity: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model.

    Attributes:
        context: tokens of the longest sequence.
        defaults: settings for requests that do not give them.
        generating: ``None`` for a model that makes embeddings only.
    """

    model: LlamaModel
    config: ModelConfig
    options: LlamaOptions
    adapters: Adapters
    context: int
    defaults: dict[str, Any]
    generating: Generating | None

    def senses(self) -> dict[str, bool]:
        """Whether it reads images (vision) and sound (audio)."""
        projector = self.generating.machine.projector if self.generating else None
        return {
            "vision": projector is not None and projector.vision,
            "audio": projector is not None and projector.audio,
        }

    def embedder(self) -> Embedder:
        """A context for embeddings, and its thread."""
        # No longer than the model was trained for: a longer text would only be embedded badly.
        context = min(self.context, self.model.usable_context)
        return Embedder(
            self.model, self.config.device, self.options, native_log(), context=context, adapters=self.adapters
        )


def configure(options: dict[str, Any], **settings: Any) -> tuple[ModelConfig, LlamaOptions]:
    """The configuration that the arguments of a `Llama` stand for.

    Raises:
        ConfigError: naming the key.
    """
    try:
        plain = msgspec.to_builtins(options)
        settings = msgspec.to_builtins(settings)
    except TypeError as error:
        raise ConfigError(f"{WHERE}: a setting holds something that is not data: {error}") from error
    check_keys(plain, LlamaOptions, WHERE, "options")
    config = convert({**settings, "options": plain}, ModelConfig, WHERE)
    checked = check_defaults(config.completion_defaults, WHERE, "defaults")
    config = msgspec.structs.replace(config, completion_defaults=checked)
    return config, convert(plain, LlamaOptions, WHERE, "options")


def check_names(options: Iterable[str], arguments: Iterable[str]) -> None:
    """Raise `ConfigError` for an option that is none, with the nearest that there is among `arguments` too."""
    known = [*LlamaOptions.__struct_fields__, *arguments]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known))}."
            raise ConfigError(f"{WHERE}: there is no option {name!r}. {hint}", param=name)


def path_of(value: Any, name: str) -> Path:
    """`value`, if it is a path; raises `ConfigError`."""
    try:
        return Path(value)
    except TypeError as error:
        raise ConfigError(f"{WHERE}: {name} must be a path, not {type(value).__name__}.", param=name) from error


@contextmanager
def own_words() -> Iterator[None]:
    """Failures that are told with keys of the configuration (``device.gpu``) name arguments of a `Llama` (``gpu``)."""
    try:
        yield
    except (ConfigError, LoadFailed) as error:
        param = error.param and _own_words(error.param)
        raise type(error)(_own_words(error.message), param=param) from error


def _own_words(text: str) -> str:
    return KEYS.sub(lambda key: ARGUMENTS.get(key.group(1), key.group(1)), text)


def load(
    path: Path,
    config: ModelConfig,
    options: LlamaOptions,
    *,
    cache: Path | None,
    start: bool,
    progress: Callable[[float], None],
) -> Loaded:
    """The model of the file `path`, ready to work. Takes its time.

    Args:
        start: have the batching loop run on a thread of its own.
        progress: told of the share that is loaded, 0 to 1.

    Raises:
        LoadFailed: the file is not what it should be, or something does not fit.
    """
    native_log().install()
    model = LlamaModel(path, config.device, options, native_log(), progress)
    try:
        return _complete(model, config, options, cache, start)
    except BaseException:
        model.close()
        raise


def _complete(model: LlamaModel, config: ModelConfig, options: LlamaOptions, cache: Path | None, start: bool) -> Loaded:
    context = default_context(config, model.trained_context)
    _check(model, config, options, context)
    generating = None
    if _generates(model, options):
        builder = Builder(model, config, options, native_log(), context=context, cache=cache)
        prompts = Prompts(model, config, context=context, projector=builder.projector)
        generating = Generating(prompts, builder.build(deliver, start=start), lambda: builder.identity)
    return Loaded(
        model,
        config,
        options,
        generating.machine.adapters if generating else Adapters(model, options, native_log(), _locate(cache)),
        context,
        typed_defaults(config.completion_defaults),
        generating,
    )


def _generates(model: LlamaModel, options: LlamaOptions) -> bool:
    return model.generates and not (model.ranks and pooling_of(model, options) == "rank")


def _check(model: LlamaModel, config: ModelConfig, options: LlamaOptions, context: int) -> None:
    """Raise `LoadFailed` for settings that this model cannot have."""
    check_context(context)
    if options.pooling == "rank" and not model.ranks:
        raise LoadFailed("options.pooling is rank, but the model is no reranker.", param="options.pooling")
    if _generates(model, options):
        return
    for name, value in {"chat_template": config.chat_template, "projector": options.projector}.items():
        if value is not None:
            raise LoadFailed(f"{name} is for models that generate text; this one makes embeddings.", param=name)


def _locate(cache: Path | None) -> Callable[[str, str], Path]:
    def locate(text: str, key: str) -> Path:
        path = parse_file(text, cache or Path.cwd(), key).path
        if not path.is_file():
            raise LoadFailed(f"{key}: {path} is not there.", param=key)
        return path

    return locate


def deliver(posted: Posted) -> None:
    """Hand the news of a step to those that they are for, who take them without delay."""
    for take, piece in posted:
        take(piece)
