"""What can be checked of one model before it is loaded: its engine, files, options, template, grammars and tools."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infs.cli.engines import engine_of
from infs.cli.problems import Problems
from infs.config import ModelConfig, typed_defaults
from infs.errors import ConfigError, InfsError
from infs.store import Store
from infs.store.progress import size_text
from infs.store.source import (
    FileSource,
    LmStudioSource,
    OllamaSource,
    Source,
    UrlSource,
    find_source,
    public_url,
)
from infs.toolbox import load_tools


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one model.

    Attributes:
        engine: its name, where it is known.
        place: where its files are, or will come from, for people.
        size: bytes on this machine; ``None`` where they are not here.
    """

    name: str
    config: ModelConfig
    engine: str | None
    place: str
    size: int | None = None


def check_model(
    name: str, model: ModelConfig, store: Store | None, problems: Problems, *, has_place: bool = True
) -> ModelReport:
    """Check `model`; what is wrong is added to `problems`.

    Args:
        has_place: false where it is known already that `url` and `file` are wrong.
    """
    key = f"models.{name}"
    at = store if has_place and store and problems.none_in(find_source, model, store.cache, key=key) else None
    engine = check_engine(name, model, at, problems, has_place=at is not None)
    place, size = (problems.trying(find_files, key, model, at) if at is not None else None) or ("", None)
    problems.trying(check_template, key, model)
    for grammar in model.grammars:
        problems.trying(check_grammar, key, model, grammar)
    problems.trying(check_default_constraint, key, model)
    check_tools(name, model, problems)
    return ModelReport(name=name, config=model, engine=engine, place=place, size=size)


def check_engine(
    name: str, model: ModelConfig, store: Store | None, problems: Problems, *, has_place: bool
) -> str | None:
    """The name of the engine, if there is one. Checks that it is installed and takes each of the options."""
    spec = problems.trying(engine_of, model, store)
    if spec is None:
        return None
    problems.trying(spec.check_installed)
    bare = msgspec.structs.replace(model, options={}, file=model.file or (None if has_place else "-"))
    problems.trying(spec.check_model, name, bare)
    for key, value in model.options.items():
        placed = msgspec.structs.replace(bare, options={key: value}, file=bare.file or "-")
        problems.trying(spec.check_model, name, placed)
    return spec.name


# --- files ----------------------------------------------------------------------------------------------------


def find_files(key: str, model: ModelConfig, store: Store) -> tuple[str, int | None]:
    """Where the files are, or will come from, and how large they are where they are here."""
    source = find_source(model, store.cache, key=key)
    if source is None:
        return "", None
    found = store.find(model)
    if found is not None:
        return str(found), size_of(found)
    if isinstance(source, FileSource):
        raise ConfigError(f"{key}.file: there is no {source.path}; put it there, or write where it is.", param=key)
    if isinstance(source, OllamaSource | LmStudioSource):
        raise ConfigError(f"{key}.url: {source} is not on this machine; fetch it with its own tool.", param=key)
    return f"{place_of(source)}, not downloaded yet", None


def place_of(source: Source) -> str:
    """`source` for people, without secrets."""
    return public_url(source.url) if isinstance(source, UrlSource) else str(source)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what cannot be read counts for nothing."""
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return 0


def described(report: ModelReport) -> str:
    """Size of the files, for people."""
    return "-" if report.size is None else size_text(report.size)


# --- what engines would complain of when they load it ---------------------------------------------------------


def check_template(key: str, model: ModelConfig) -> None:
    """Raise `ConfigError` for a chat template that is no Jinja."""
    if model.chat_template is None:
        return
    try:
        from infs.chat.sandbox import compile_template

        compile_template(model.chat_template)
    except ImportError as error:
        raise _not_checked(f"{key}.chat_template", error) from error
    except InfsError as error:
        raise ConfigError(f"{key}.chat_template: {error.message}", param=f"{key}.chat_template") from error


def check_grammar(key: str, model: ModelConfig, name: str) -> None:
    """Raise `ConfigError` for a grammar that cannot be compiled."""
    try:
        from infs.chat.constraints import check_grammars

        check_grammars({name: model.grammars[name]})
    except ImportError as error:
        raise _not_checked(f"{key}.grammars.{name}", error) from error
    except InfsError as error:
        raise ConfigError(f"{key}.{error.message}", param=f"{key}.grammars.{name}") from error


def check_default_constraint(key: str, model: ModelConfig) -> None:
    """Raise `ConfigError` for a constraint in `completion_defaults` that cannot be compiled."""
    full = f"{key}.completion_defaults.constraint"
    constraint = typed_defaults(model.completion_defaults).get("constraint")
    if constraint is None or model.completion_defaults["constraint"]["type"] == "named":
        return
    try:
        from infs.chat.constraints import compile_constraint

        compile_constraint(constraint)
    except ImportError as error:
        raise _not_checked(full, error) from error
    except InfsError as error:
        raise ConfigError(f"{full}: {error.message}", param=full) from error


def _not_checked(key: str, error: ImportError) -> ConfigError:
    return ConfigError(f'{key} cannot be checked without {error.name}: pip install "infs[llama-cpp]"', param=key)


def check_tools(name: str, model: ModelConfig, problems: Problems) -> None:
    """Import the handlers of the tools, one after the other, then look at all of them together."""
    good = [problems.none_in(_check_tool, name, model, number) for number in range(len(model.tools))]
    if all(good):
        problems.trying(load_tools, name, model)


def _check_tool(name: str, model: ModelConfig, number: int) -> None:
    key = f"models.{name}.tools"
    try:
        load_tools(name, msgspec.structs.replace(model, tools=[model.tools[number]]))
    except ConfigError as error:
        said = error.message.replace(f"{key}[0]", f"{key}[{number}]")
        raise ConfigError(said, param=f"{key}[{number}]") from error
