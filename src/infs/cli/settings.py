"""From what stands on a command line to a configuration: which file, which models, and what the flags change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from infs.config import Config, ModelConfig, load_config, merge, parse_model
from infs.demo import MODEL_ID, demo_model
from infs.errors import ConfigError
from infs.store.names import part_names
from infs.store.source import HubSource, LmStudioSource, OllamaSource, is_url, parse_url

CONFIG_SUFFIXES = (".toml", ".yaml", ".yml", ".json")
MODEL_KEYS = frozenset(ModelConfig.__struct_fields__)
SOURCE_KEYS = ("url", "file", "sha256", "md5")


class CommandLine(msgspec.Struct, frozen=True, kw_only=True):
    """What was said.

    Attributes:
        target: MODEL or CONFIG.
        config_file: of ``--config``.
        assignments: those of ``--set``, as they were written.
        flags: values by the names that `infs.cli.options` gives them; ``None`` and empty ones were not given.
        model_id: another id for the one model.
        below: settings under the configuration file, as nested dictionaries.
    """

    target: str | None = None
    config_file: Path | None = None
    assignments: tuple[str, ...] = ()
    flags: Mapping[str, Any] = {}
    model_id: str | None = None
    below: Mapping[str, Any] = {}


def read_settings(line: CommandLine, environ: Mapping[str, str], directory: Path) -> Config:
    """The configuration that `line` means; its models are those to use, and all of them have a source.

    Raises:
        ConfigError: with the option or the key, and what to do about it.
    """
    file, target = _split_target(line, environ)
    settings, for_models = _flags(line.flags)
    config = load_config(
        file,
        environ=environ,
        overrides=merge(assigned(line.assignments), settings),
        below=line.below,
        directory=directory,
    )
    models = _chosen(config.models, target, line.model_id)
    return msgspec.structs.replace(
        config, models={name: _changed(name, model, for_models) for name, model in models.items()}
    )


def _split_target(line: CommandLine, environ: Mapping[str, str]) -> tuple[Path | None, str | None]:
    """The configuration file, and the model."""
    if line.target is None or _is_url(line.target) or not line.target.lower().endswith(CONFIG_SUFFIXES):
        named = environ.get("INFS_CONFIG")
        return line.config_file or (Path(named) if named else None), line.target
    if line.config_file is not None:
        raise ConfigError(f"There are two configuration files, {line.target} and {line.config_file}; give one.")
    return Path(line.target), None


def _is_url(text: str) -> bool:
    return "://" in text or is_url(text)


# --- flags ----------------------------------------------------------------------------------------------------


def _flags(flags: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the flags say for the configuration, and what for each model."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        if value is not None and value != ():
            path = [part for part in name.split("__") if part]
            nested = merge(nested, _nest(path, list(value) if isinstance(value, tuple) else value))
    return nested, nested.pop("model", {})


def _nest(path: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    result: dict[str, Any] = value
    return result


def assigned(assignments: tuple[str, ...]) -> dict[str, Any]:
    """What ``--set`` says, as nested tables.

    Raises:
        ConfigError: it is no KEY=VALUE, or the value starts like JSON and is none.
    """
    nested: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set server.port=8080.")
        nested = merge(nested, _nest(_path(key.strip(), text), _value(value.strip(), text)))
    return nested


def _value(value: str, text: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        if value.startswith(("{", "[", '"')):
            raise ConfigError(f"--set {text}: the value starts like JSON and is none: {error}.") from error
        return value


def _path(key: str, text: str) -> list[str]:
    """The parts of a dotted key. The id of a model may hold dots of its own, so it ends where a model's key begins."""
    parts = key.split(".")
    if not all(parts):
        raise ConfigError(f"--set {text}: {key!r} is no key; write parts with dots between them, as in server.port.")
    if parts[0] != "models" or len(parts) < 3:
        return parts
    ends = [place for place in range(2, len(parts)) if parts[place] in MODEL_KEYS]
    end = ends[0] if ends else len(parts) - 1
    return ["models", ".".join(parts[1:end]), *parts[end:]]


# --- models ---------------------------------------------------------------------------------------------------


def _chosen(models: Mapping[str, ModelConfig], target: str | None, name: str | None) -> dict[str, ModelConfig]:
    if target is None and models and name is not None and len(models) > 1:
        raise ConfigError(f"--model-id is for one model, and the configuration has these: {', '.join(models)}.")
    if target is None:
        found = {key: with_demo(key, model) for key, model in (models or {MODEL_ID: ModelConfig()}).items()}
    elif target in models or target == MODEL_ID:
        found = {target: with_demo(target, models.get(target, ModelConfig()))}
    else:
        source = source_of(target, models)
        key = name or id_of(target)
        found = {key: _with_source(key, models.get(key, ModelConfig()), source)}
    if name is None:
        return found
    (model,) = found.values()
    return {name: model}


def with_demo(name: str, model: ModelConfig) -> ModelConfig:
    """`model`; one called ``demo`` that names no files is the demo model, with the settings that it has."""
    demo = demo_model()
    if name != MODEL_ID or model.url is not None or model.file is not None or model.engine not in (None, demo.engine):
        return model
    said = _difference(_as_data(model), _as_data(ModelConfig()))
    return parse_model(name, merge(_as_data(demo), said))


def _difference(data: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as usual in `data`, table by table."""
    tables = {
        key: _difference(value, usual[key])
        for key, value in data.items()
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping)
    }
    return {key: tables.get(key, value) for key, value in data.items() if value != usual.get(key)}


def _with_source(name: str, model: ModelConfig, source: dict[str, str]) -> ModelConfig:
    """`model` with other files; what the configuration says under this id goes on to hold."""
    data = {key: value for key, value in _as_data(model).items() if key not in SOURCE_KEYS}
    return parse_model(name, {**data, **source}, "the command line")


def _changed(name: str, model: ModelConfig, flags: Mapping[str, Any]) -> ModelConfig:
    return parse_model(name, merge(_as_data(model), flags), "the command line") if flags else model


def _as_data(model: ModelConfig) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(model)
    return data


def source_of(target: str, models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """`url` or `file` of the model at a path or URL; `models` are those that may have been meant as well.

    Raises:
        ConfigError: there is no such file, or the URL is none.
    """
    if _is_url(target):
        parse_url(target, key="MODEL")
        return {"url": target}
    path = Path(target).expanduser()
    if path.is_dir():
        raise ConfigError(f"{target} is a folder{_some_files(path)}; give the path of a model file.")
    if not path.exists():
        raise ConfigError(_not_there(target, models))
    return {"file": str(path.absolute())}


def _some_files(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.gguf"))[:3]
    return f" (with {', '.join(names)})" if names else ""


def _not_there(target: str, models: Mapping[str, ModelConfig]) -> str:
    known = ", ".join(models)
    of_that_id = f", and no model of that id in the configuration, which has: {known}." if known else "."
    hint = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)*", target) and not target.startswith("."):
        hint = f" A model of the Hugging Face hub is written hf:{target}."
    return f"There is no file {target}{of_that_id}{hint}"


def id_of(target: str) -> str:
    """An id for the model at a path or URL: the name of its file or repository, without its ending."""
    parsed = parse_url(target, key="MODEL") if _is_url(target) else None
    if isinstance(parsed, OllamaSource):
        name = parsed.name.rpartition("/")[2]
        return name if parsed.tag == "latest" else f"{name}:{parsed.tag}"
    if isinstance(parsed, HubSource | LmStudioSource):
        name = parsed.path.rpartition("/")[2] or parsed.repo.rpartition("/")[2]
    else:
        name = unquote(urlsplit(target).path).rpartition("/")[2] if parsed else Path(target).name
    if len(part_names(name)) > 1:
        name = re.sub(r"-\d{5}-of-\d{5}", "", name)
    stem = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-zA-Z0-9_:.-]+", "-", stem).strip("-") or "model"
