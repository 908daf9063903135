"""All that is wrong with a configuration, found piece by piece, so that the first mistake hides no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from infs.cli.keys import inner_tables
from infs.cli.model_checks import ModelReport, check_model
from infs.cli.problems import Problems
from infs.cli.settings import assigned, with_demo
from infs.config import (
    ENV_PREFIX,
    Config,
    Layers,
    ModelConfig,
    check_types,
    find_file,
    merge,
    merge_layers,
    parse_config,
    parse_model,
    read_environ,
    read_file,
)
from infs.store import Store

# Keys of a model that are looked at together. Whatever is wrong with one group says nothing about the others.
GROUPS = (("url", "file"), ("min_instances", "max_instances"), ("preload",))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        file: the configuration file, if there is one.
        problems: each in one line that names the key.
        config: all of it, as far as it is right.
        models: what was found about each.
        cache: where relative paths start and downloads are kept.
    """

    file: Path | None
    problems: list[str]
    config: Config
    models: list[ModelReport]
    cache: Path | None


def check_config(
    file: Path | None, environ: Mapping[str, str], assignments: tuple[str, ...], directory: Path
) -> Report:
    """Everything that is wrong with what file, environment and ``--set`` say together."""
    problems = Problems()
    path = find_file(file, directory)
    layers = _layers(path, environ, assignments, problems)
    data = merge_layers([(name, _good_part(layer, name, problems)) for name, layer in layers])
    where = str(path) if path is not None else "the configuration"
    models = data.pop("models", None) or {}
    config = _rest(data, where, problems)
    store = problems.trying(Store, config.cache_path, hub=config.hub, environ=environ)
    reports = [_model(str(name), model or {}, where, store, problems) for name, model in models.items()]
    return Report(
        file=path,
        problems=problems.found,
        config=msgspec.structs.replace(config, models={report.name: report.config for report in reports}),
        models=reports,
        cache=store.cache if store is not None else None,
    )


# --- what each place says -------------------------------------------------------------------------------------


def _layers(path: Path | None, environ: Mapping[str, str], assignments: tuple[str, ...], problems: Problems) -> Layers:
    """What file, environment and command line say, as far as it can be read: one variable after the other."""
    data = (problems.trying(read_file, path) if path is not None else None) or {}
    variables = {
        name: text
        for name, text in environ.items()
        if name.upper().startswith(ENV_PREFIX) and problems.none_in(read_environ, {name: text}, data)
    }
    said: dict[str, Any] = {}
    for text in assignments:
        said = merge(said, problems.trying(assigned, (text,)) or {})
    return [
        (str(path), data),
        ("the environment", problems.trying(read_environ, variables, data) or {}),
        ("the command line", said),
    ]


def _good_part(layer: Mapping[str, Any], where: str, problems: Problems) -> dict[str, Any]:
    """What of `layer` has known keys and values of the right types."""
    good: dict[str, Any] = {}
    for leaf in leaves(layer):
        if problems.none_in(check_types, leaf, where):
            good = merge(good, leaf)
    return good


def leaves(data: Mapping[str, Any], kind: Any = Config) -> Iterator[dict[str, Any]]:
    """`data`, a table of `kind`, taken apart: for each value that is no table of known keys, a table with it alone."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in data.items():
        if (kind, name) == (Config, "models") and isinstance(value, Mapping):
            for model, settings in value.items():
                inner = leaves(settings, ModelConfig) if isinstance(settings, Mapping) and settings else (settings,)
                yield from ({name: {model: leaf}} for leaf in inner)
            continue
        tables = inner_tables(kind, name, fields[name]) if name in fields else []
        known = len(tables) == 1 and tables[0] not in (Config, ModelConfig)
        if known and name not in ("completion_defaults", "options") and isinstance(value, Mapping) and value:
            yield from ({name: leaf} for leaf in leaves(value, tables[0]))
        else:
            yield {name: value}


# --- what they say together -----------------------------------------------------------------------------------


def _rest(data: dict[str, Any], where: str, problems: Problems) -> Config:
    """All but the models; what is wrong there is left out."""
    limits = data.get("max_memory")
    for name, size in limits.items() if isinstance(limits, Mapping) else ():
        problems.trying(parse_config, {"max_memory": {name: size}}, where=where)
    config = problems.trying(parse_config, data, where=where)
    return config or parse_config({key: value for key, value in data.items() if key != "max_memory"}, where=where)


def _model(name: str, data: Mapping[str, Any], where: str, store: Store | None, problems: Problems) -> ModelReport:
    """What there is to say of one model; `data` has the right types."""
    good = dict(data)
    for group in GROUPS:
        part = {key: data[key] for key in group if key in data}
        if not problems.none_in(parse_model, name, part, where):
            good = {key: value for key, value in good.items() if key not in group}
    good = _with_good_defaults(name, good, where, problems)
    parsed = problems.trying(parse_model, name, good, where)
    if parsed is None:
        return ModelReport(name=name, config=ModelConfig(), engine=None, place="")
    places = {"url", "file"}
    has_place = not places & data.keys() or bool(places & good.keys())
    return check_model(name, with_demo(name, parsed), store, problems, has_place=has_place)


def _with_good_defaults(name: str, data: dict[str, Any], where: str, problems: Problems) -> dict[str, Any]:
    """`data` without what is wrong in its `completion_defaults`, each of which is looked at alone."""
    good = {}
    for key, value in (data.get("completion_defaults") or {}).items():
        part = {"completion_defaults": {key: value}, "grammars": data.get("grammars") or {}}
        if problems.none_in(parse_model, name, part, where):
            good[key] = value
    return {**data, "completion_defaults": good}
