"""What ``infs ps`` does, once the command line is understood."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from infs.cli.progress import line_of, time_text
from infs.cli.remote import Place, connected
from infs.cli.tables import Table, plain_lines, rich_table
from infs.status import DownloadStatus, MemoryStatus, ModelStatus, ProgressStatus, ServerStatus
from infs.store.progress import size_text

if TYPE_CHECKING:
    from rich.console import Group

HEADER = ["MODEL", "STATE", "ENGINE", "INSTANCES", "RUNNING", "QUEUED", "MEMORY", "IDLE"]
RIGHT = ("INSTANCES", "RUNNING", "QUEUED")
NONE = "-"


def list_once(place: Place, *, as_json: bool) -> None:
    """Print what the server at `place` has loaded."""
    asyncio.run(_list_once(place, as_json=as_json))


def watch_list(place: Place, interval: float, *, as_json: bool) -> None:
    """Go on printing it every `interval` seconds until Ctrl-C; on a terminal, in the same place."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(place, interval, as_json=as_json))


async def _list_once(place: Place, *, as_json: bool) -> None:
    async with connected(place) as remote:
        status, data = await remote.status()
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(_rich(place, status))
    else:
        click.echo(_plain(status))


async def _watch(place: Place, interval: float, *, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json:
        await _watch_live(place, interval)
        return
    async with connected(place) as remote:
        while True:
            status, data = await remote.status()
            said = json.dumps(data) if as_json else f"{time.strftime('%H:%M:%S')}\n{_plain(status)}\n"
            click.echo(said)
            await pause(interval)


async def pause(seconds: float) -> None:
    """Wait until the next look."""
    await asyncio.sleep(seconds)


async def _watch_live(place: Place, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    async with connected(place) as remote:
        status, _ = await remote.status()
        with Live(_rich(place, status), console=Console(highlight=False), auto_refresh=False) as live:
            while True:
                live.update(_rich(place, status), refresh=True)
                await pause(interval)
                status, _ = await remote.status()


# --- what is shown --------------------------------------------------------------------------------------------


def _plain(status: ServerStatus) -> str:
    if not status.models:
        return "The server has no models."
    return "\n".join([*plain_lines(models_table(status)), *remarks(status)])


def _rich(place: Place, status: ServerStatus) -> Group:
    from rich.console import Group
    from rich.text import Text

    head = Text(f"{place.url}, infs {status.version}", style="dim")
    return Group(head, rich_table(models_table(status)), *(Text(line) for line in remarks(status)))


def models_table(status: ServerStatus) -> Table:
    """A row for each model."""
    return Table(header=HEADER, rows=[_row(name, model) for name, model in status.models.items()], right=RIGHT)


def _row(name: str, model: ModelStatus) -> list[str]:
    running = sum(instance.running for instance in model.instances)
    places = sum(instance.places for instance in model.instances)
    return [
        name,
        model.state,
        model.engine or NONE,
        str(len(model.instances)),
        f"{running}/{places}" if model.instances else NONE,
        str(model.queued),
        _memory(model),
        _idle(model),
    ]


def _memory(model: ModelStatus) -> str:
    """What its instances have reserved, of the host first: ``"1.2 GB, cuda:0 5.0 GB"``."""
    host = sum(instance.memory.host for instance in model.instances)
    devices: dict[str, int] = {}
    for instance in model.instances:
        for device, size in instance.memory.devices.items():
            devices[device] = devices.get(device, 0) + size
    parts = [size_text(host)] if host else []
    return ", ".join([*parts, *(f"{device} {size_text(size)}" for device, size in devices.items() if size)]) or NONE


def _idle(model: ModelStatus) -> str:
    """How long nothing has run in it, and when it will be unloaded: ``"12 s of 5 min 0 s"``."""
    idle = [instance.idle_for for instance in model.instances if instance.idle_for is not None]
    if not idle or len(idle) < len(model.instances):
        return NONE
    return time_text(min(idle)) if model.ttl is None else f"{time_text(min(idle))} of {time_text(model.ttl)}"


def remarks(status: ServerStatus) -> list[str]:
    """Lines about what goes on: loading, downloads, memory, what went wrong."""
    lines = [line_of(model.progress, name) for name, model in status.models.items() if model.progress is not None]
    shown = {model.progress.detail for model in status.models.values() if model.progress is not None}
    lines += [_download(one) for one in status.downloads if one.what not in shown]
    lines += [_limit(name, memory) for name, memory in status.memory.items() if memory.reserved or memory.limit]
    lines += [f"{name}: {model.last_error}" for name, model in status.models.items() if model.last_error]
    return [*lines, "The server is shutting down."] if status.closing else lines


def _download(one: DownloadStatus) -> str:
    fields: dict[str, Any] = {"done": one.done, "total": one.total, "rate": one.rate, "remaining": one.remaining}
    return line_of(ProgressStatus(stage="download", unit="bytes", detail=one.what, **fields), one.what)


def _limit(name: str, memory: MemoryStatus) -> str:
    title = "Memory" if name == "host" else f"Memory of {name}"
    most = "" if memory.limit is None else f" of {size_text(memory.limit)}"
    return f"{title}: {size_text(memory.reserved)}{most} reserved"
