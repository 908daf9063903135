"""What ``infs config init`` writes: a configuration file that explains itself."""

from __future__ import annotations

import json
import re
import secrets
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from infs.cli.failures import Failed, WrongCall
from infs.cli.keys import Key, alternatives, walk
from infs.cli.settings import id_of, source_of
from infs.config import MODEL_ID, Config, ModelConfig, parse_model
from infs.errors import ConfigError
from infs.store.source import is_url

HEAD = """\
# The configuration of infs.
#
# A key behind a # has the value that holds anyway, or an example of one; take the # away to set it.
# INFS_... variables of the environment and flags of the command line beat this file.
# "infs config check" says whether it is right, "infs config show" what holds in the end.
"""

# Of a model, what many will want to change; docs/configuration.md has all keys.
MODEL_KEYS = (
    "context_size",
    "max_sequences",
    "max_instances",
    "min_instances",
    "ttl",
    "pinned",
    "prepare",
    "device.gpu",
    "device.cpu_threads",
    "completion_defaults.temperature",
    "completion_defaults.max_tokens",
)
EXAMPLES: Mapping[str, Any] = {
    "concurrency": 16,
    "max_memory": "80%",
    "cache_path": "/path/to/a/folder",
    "hub.endpoint": "https://huggingface.co",
    "hub.token": "hf_...",
    "context_size": 8192,
    "device.cpu_threads": 4,
    "completion_defaults.temperature": 0.7,
    "completion_defaults.max_tokens": 1000,
}
PATIENCE = "Give another one, or nothing for the demo model."

Models = dict[str, dict[str, str]]


def write_first(path: Path, models: tuple[str, ...], *, force: bool) -> None:
    """Write the file at `path`, with `models` as they were written on the command line.

    Raises:
        ConfigError: a model is none.
    """
    if path.suffix.lower() != ".toml":
        raise WrongCall(f"{path}: the file that is written is TOML; its name must end in .toml.")
    if path.exists() and not force:
        raise WrongCall(f"{path} is there already; --force replaces it.")
    chosen = read_models(models)
    settings: dict[str, Any] = {}
    if is_terminal() and not models:
        chosen, settings = ask()
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text_of(chosen, settings))
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}.") from error
    click.echo(f"{path} is written. Change it as you like, then start the server: infs serve {path}")


def read_models(texts: tuple[str, ...]) -> Models:
    """The models of the command line, by id.

    Raises:
        ConfigError: one is neither a file nor a URL, its id is none, or two have the same id.
    """
    models: Models = {}
    for text in texts:
        name, equals, target = text.partition("=")
        if not equals or is_url(text) or not re.match(MODEL_ID, name):
            name, target = "", text
        source = source_of(target, {})
        name = name or id_of(target)
        if name in models:
            raise ConfigError(f"Two models are called {name!r}; write ID= in front of one, as in other={target}.")
        parse_model(name, source, "the command line")
        models[name] = source
    return models


def is_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


# --- asking ---------------------------------------------------------------------------------------------------


def ask() -> tuple[Models, dict[str, Any]]:
    """What somebody at the terminal wants: the model, and settings of the server by their keys."""
    models = _ask_model()
    settings: dict[str, Any] = {}
    port = click.prompt("Port", default=3000, type=click.IntRange(0, 65535))
    if port != Config().server.port:
        settings["server.port"] = port
    if click.confirm("Shall other machines reach it?", default=False):
        settings |= {"server.host": "0.0.0.0", "server.api_keys": [secrets.token_urlsafe(24)]}
        click.echo("They will need the API key that is in the file.")
    return models, settings


def _ask_model() -> Models:
    while True:
        said = click.prompt(
            "Model (a path, a URL, hf:org/repo:Q4_K_M; nothing for the demo model)", default="", show_default=False
        )
        try:
            return read_models((said,)) if said else {}
        except ConfigError as error:
            click.echo(f"{error.message} {PATIENCE}")


# --- writing --------------------------------------------------------------------------------------------------


def text_of(models: Models, settings: Mapping[str, Any]) -> str:
    """The file, with `settings` by their keys; without models, it has the demo model."""
    parts = [HEAD, *_keys([key for key in walk() if "." not in key.path], "", settings)]
    for table in ("server", "log", "hub"):
        parts += [f"\n[{table}]\n", *_keys(list(walk()), f"{table}.", settings)]
    for name, source in (models or {"demo": {}}).items():
        parts += [f"\n[models.{model_key(name)}]\n", *_model(source)]
    return "".join(parts)


def _model(source: Mapping[str, str]) -> Iterator[str]:
    if not source:
        yield "# The model that comes with infs. Another one has a url or a file:\n"
        yield '# url = "hf:org/repo:Q4_K_M"\n'
    for key, value in source.items():
        yield f"{key} = {toml(value)}\n"
    known = {key.path: key for key in walk(ModelConfig)}
    yield from _keys([known[path] for path in MODEL_KEYS], "", {})


def _keys(keys: list[Key], prefix: str, settings: Mapping[str, Any]) -> Iterator[str]:
    for key in keys:
        if not key.path.startswith(prefix):
            continue
        name = key.path.removeprefix(prefix)
        yield "\n" + "".join(f"# {line}\n" for line in textwrap.wrap(key.description, 100))
        if key.path in settings:
            yield f"{name} = {toml(settings[key.path])}\n"
        else:
            yield f"# {name} = {toml(example_of(key))}\n"


def example_of(key: Key) -> Any:
    """What holds for `key` anyway, or what might be written there."""
    if key.path in EXAMPLES:
        return EXAMPLES[key.path]
    value = msgspec.to_builtins(key.default) if key.default not in (None, msgspec.UNSET) else None
    if value is not None:
        return value
    return next((get_args(one)[0] for one in alternatives(key.hint) if get_args(one)), "...")


def toml(value: Any) -> str:
    """`value`, a text, number, truth or list of those, as TOML, which writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False)


def model_key(name: str) -> str:
    """The id of a model as a key of TOML."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
