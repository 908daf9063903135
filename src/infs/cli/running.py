"""What ``infs run`` does, once the command line is understood."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from infs.cli.answer import Answer
from infs.cli.logs import logging_to_stderr
from infs.cli.progress import view_on
from infs.cli.servers import make_server, only_model
from infs.cli.session import Session
from infs.config import Config
from infs.types import ChatCompletionRequest, Message, Request, TextCompletionRequest


def answer_once(
    config: Config, prompt: str, *, system: str | None, raw: bool, as_json: bool, quiet: bool, settings: dict[str, Any]
) -> None:
    """Write the answer to `prompt`, or the whole result as JSON, to standard output.

    Raises:
        InfsError: when there is none.
    """
    model = only_model(config)
    request: Request[Any] = (
        TextCompletionRequest(model=model, prompt=prompt, **settings)
        if raw
        else ChatCompletionRequest(model=model, messages=conversation(system, prompt), **settings)
    )
    answer = Answer(silent=as_json)
    with logging_to_stderr(config.log, quiet_failures=True), Session(make_server(config)) as session:
        try:
            result = answer.follow(session.stream(request), view_on(sys.stderr, model, quiet=quiet))
        finally:
            answer.end()
        if as_json:
            click.echo(msgspec.json.encode(result).decode())


def conversation(system: str | None, prompt: str) -> list[Message]:
    """The messages that ask for an answer to `prompt`."""
    told = [Message(role="system", content=system)] if system is not None else []
    return [*told, Message(role="user", content=prompt)]
