"""The server of a command, checked as far as that is possible before the first request."""

from __future__ import annotations

import logging

from infs.config import Config
from infs.errors import ConfigError
from infs.server import InferenceServer
from infs.store import Store
from infs.store.source import FileSource, find_source

log = logging.getLogger("infs.cli")


def make_server(config: Config) -> InferenceServer:
    """A server for `config`. A file that is not there yet is only warned of: it may come before its first request.

    Raises:
        ConfigError: a model is configured wrongly.
        EngineNotFound, MissingExtra: its engine is not there.
    """
    cache = Store(config.cache_path, hub=config.hub).cache
    sources = {name: find_source(model, cache, key=f"models.{name}") for name, model in config.models.items()}
    server = InferenceServer.from_config(config)
    server.check_installed()
    for name, source in sources.items():
        if isinstance(source, FileSource) and not source.path.exists():
            log.warning("models.%s.file: there is no %s; requests for it will fail until there is.", name, source.path)
    return server


def only_model(config: Config) -> str:
    """The id of the one model that a command works with.

    Raises:
        ConfigError: there are several.
    """
    if len(config.models) > 1:
        raise ConfigError(f"The configuration has several models; name one of: {', '.join(config.models)}.")
    return next(iter(config.models))
