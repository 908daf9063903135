"""What ``infs serve`` does, once the command line is understood."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from infs.cli.banner import banner
from infs.cli.logs import logging_to_stderr
from infs.cli.servers import make_server
from infs.config import Config
from infs.version import VERSION

log = logging.getLogger("infs.cli")


def serve_config(read: Callable[[], Config]) -> None:
    """Serve what `read` says until a signal ends it; SIGHUP and ``POST /admin/reload`` have it read again.

    Raises:
        InfsError: it could not be started.
    """
    config = read()
    with logging_to_stderr(config.log), suppress(KeyboardInterrupt):
        from infs.http import create_app
        from infs.http.serving import serve

        server = make_server(config)
        server.read_config = read
        app = create_app(server, config.server)
        asyncio.run(serve(app, config.server, on_ready=lambda url: _say_ready(url, config)))


def _say_ready(url: str, config: Config) -> None:
    """Tell people, or the program that reads the log, where it is."""
    if config.log.format == "json":
        log.info("infs %s is ready", VERSION, extra={"url": url, "api": f"{url}/v1", "models": list(config.models)})
        return
    with suppress(OSError):  # nobody reads it; the server goes on
        click.echo(banner(url, config, windows=sys.platform == "win32"))
