"""Which models a running server has loaded, where one can be asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import click

from infs.cli.remote import Place, connected, find_place
from infs.errors import InfsError

KNOCK = 0.3  # seconds for a server to take a connection
PATIENCE = 2.0  # seconds for its answer; without one the list is as good


def loaded_states(config_file: Path | None, environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The states of models by their ids, as the server of the configuration says; empty where none answers."""
    with suppress(InfsError, click.ClickException, OSError, TimeoutError):
        place = find_place(None, None, config_file, environ, directory)
        if _listens(place.url):
            return asyncio.run(_ask(place))
    return {}


def _listens(url: str) -> bool:
    """Whether anybody is there at all: that is found out before a library for HTTP is imported."""
    parts = urlsplit(url)
    try:
        address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection(address, KNOCK).close()
    except (OSError, ValueError):
        return False
    return True


async def _ask(place: Place) -> dict[str, str]:
    async with asyncio.timeout(PATIENCE), connected(place) as remote:
        status, _ = await remote.status()
    return {name: model.state for name, model in status.models.items()}
