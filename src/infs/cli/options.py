"""Options that several commands have.

An option whose parameter is called ``server__port`` sets ``server.port`` in the configuration, and one called
``model__ttl`` sets ``ttl`` of every model that the command uses; `infs.cli.settings` takes them apart. An option
that was not given says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from infs.cli.completing import complete_assignment, complete_engine

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

MODEL = (
    "MODEL is a path to a .gguf file, a URL, hf:org/repo/file.gguf, hf:org/repo:Q4_K_M, ollama:name:tag, "
    "lmstudio:org/repo, or the id of a model in the configuration; "
    "CONFIG is a configuration file (.toml, .yaml, .yml or .json). Without either, infs.toml in the working "
    "directory is taken, else the demo model."
)

QUIET = {"log": {"level": "warning"}}
"""What holds under the configuration of commands that do their work and end: their log says little."""

positive = click.IntRange(min=1)


def together(*decorators: Decorator) -> Decorator:
    """One decorator that adds these options in this order."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def config_file() -> Decorator:
    """Where the configuration is."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration file. INFS_CONFIG in the environment names one as well.",
    )


def assignments() -> Decorator:
    """Any key of the configuration."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=complete_assignment,
        help='Set any key of the configuration, such as models.demo.ttl=60 or server.api_keys=\'["a", "b"]\'; '
        "the value is JSON, or else text. May be given many times.",
    )


def named_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file that was named, here or in the environment."""
    named = environ.get("INFS_CONFIG")
    return file or (Path(named) if named else None)


def running_server() -> Decorator:
    """Where a server is that runs already."""
    return together(
        click.option(
            "--url",
            metavar="URL",
            help="Where the server is; INFS_URL in the environment says so as well. [default: what the configuration "
            "says of host and port, else http://127.0.0.1:3000]",
        ),
        click.option(
            "--api-key",
            metavar="KEY",
            help="A key that the server takes; better in INFS_API_KEY, where others on this machine cannot read it. "
            "[default: the first one of the configuration, for its own server]",
        ),
        config_file(),
    )


def configuration(level: str) -> Decorator:
    """Where settings come from, and the log, which has `level` by default."""
    return together(
        config_file(),
        assignments(),
        click.option(
            "--cache-path",
            "cache_path",
            metavar="FOLDER",
            help="Where downloads are kept. [default: the user's cache folders]",
        ),
        click.option(
            "--log-level",
            "log__level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            help=f"What is logged. [default: {level}]",
        ),
        click.option(
            "--log-format",
            "log__format",
            type=click.Choice(["text", "json"]),
            help="Readable lines, or a JSON object on each line. [default: text]",
        ),
    )


def model_settings() -> Decorator:
    """How a model is loaded."""
    return together(
        click.option(
            "--engine",
            "model__engine",
            metavar="NAME",
            shell_complete=complete_engine,
            help="The library that runs it. [default: the one that can load the files]",
        ),
        click.option(
            "--context-size",
            "model__context_size",
            type=positive,
            metavar="TOKENS",
            help="Longest prompt and answer together. [default: what the model was trained for, at most 8192]",
        ),
        click.option(
            "--gpu/--no-gpu",
            "model__device__gpu",
            default=None,
            help="Insist on a GPU, or stay on the CPU. [default: a GPU if there is one]",
        ),
        click.option(
            "--threads",
            "model__device__cpu_threads",
            type=positive,
            metavar="N",
            help="Threads on the CPU. [default: what suits the machine]",
        ),
    )


def max_sequences() -> Decorator:
    """How many requests run side by side."""
    return click.option(
        "--max-sequences",
        "model__max_sequences",
        type=click.IntRange(1, 128),
        metavar="N",
        help="Requests that a model works on at the same time. [default: 8]",
    )


def generation_settings() -> Decorator:
    """How an answer is made."""
    return together(
        click.option("--system", metavar="TEXT", help="What the model is told before the conversation."),
        click.option("--max-tokens", type=click.IntRange(min=0), metavar="N", help="Longest answer."),
        click.option(
            "--temperature",
            type=click.FloatRange(0.0, 100.0),
            metavar="T",
            help="0 always takes the likeliest token; higher is more varied.",
        ),
        click.option("--seed", type=int, metavar="N", help="Repeats what chance decided, where temperature is not 0."),
    )


def given(**options: Any) -> dict[str, Any]:
    """Those of `options` that were given."""
    return {name: value for name, value in options.items() if value is not None}
