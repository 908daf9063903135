"""What a shell offers while somebody types a command. Nothing here may fail, be slow, or say a word."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
FILES = CompletionItem("", type="file")


def silent(complete: Complete) -> Complete:
    """`complete`, which offers nothing where it fails: a shell in the middle of a line is no place for errors."""

    @functools.wraps(complete)
    def wrapped(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            return complete(ctx, param, incomplete)
        except Exception:
            return []

    return wrapped


@silent
def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """MODEL or CONFIG: files, and the ids of models."""
    # Files come first: the script for bash begins anew with them.
    return [FILES, *_beginning(incomplete, {"demo": "the model that comes with infs", **_ids(ctx)})]


@silent
def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of models that are not on the line yet."""
    given = ctx.params.get(param.name or "") or ()
    return _beginning(incomplete, {name: said for name, said in _ids(ctx).items() if name not in given})


@silent
def complete_engine(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of engines."""
    return _beginning(incomplete, dict.fromkeys(_engines()))


@silent
def complete_assignment(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of the configuration with an equals sign behind them, then values where there are only a few."""
    from infs.cli.keys import values_of, walk

    key, equals, _ = incomplete.partition("=")
    if equals:
        values = _engines() if key.endswith(".engine") else values_of(key)
        return _beginning(incomplete, {f"{key}={value}": None for value in values})
    keys = {f"{one.path}=": one.description for one in walk(models=_ids(ctx))}
    return _beginning(incomplete, keys)


def _beginning(incomplete: str, choices: Mapping[str, str | None]) -> list[CompletionItem]:
    return [CompletionItem(name, help=said) for name, said in choices.items() if name.startswith(incomplete)]


def _engines() -> Iterable[str]:
    from infs.cli.engines import engine_names

    return engine_names()


def _ids(ctx: click.Context) -> dict[str, str | None]:
    """The ids in the configuration, and where each model is; a configuration that is wrong may have some too."""
    from infs.config import find_file, read_file

    named = ctx.params.get("config_file") or os.environ.get("INFS_CONFIG") or None
    path = find_file(named, Path.cwd())
    models: Any = read_file(path).get("models") if path is not None else None
    return {str(name): _place(model) for name, model in models.items()} if isinstance(models, dict) else {}


def _place(model: Any) -> str | None:
    said = (model.get("url") or model.get("file")) if isinstance(model, dict) else None
    return str(said) if said else None
