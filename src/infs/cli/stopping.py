"""What ``infs stop`` does, once the command line is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from infs.cli.failures import Failed
from infs.cli.remote import Place, Remote, connected
from infs.cli.words import counted


def stop_models(place: Place, models: Sequence[str], *, now: bool) -> None:
    """Unload `models` on the server at `place`, side by side; all that are loaded, if none are named."""
    asyncio.run(_stop(place, models, now=now))


async def _stop(place: Place, models: Sequence[str], *, now: bool) -> None:
    async with connected(place) as remote:
        wanted = list(dict.fromkeys(models)) or await _loaded(remote)
        if not wanted:
            click.echo("Nothing is loaded.")
        done = await asyncio.gather(*(_unload(remote, model, now=now) for model in wanted), return_exceptions=True)
    failures = [failure for failure in done if isinstance(failure, BaseException)]
    if len(failures) > 1 and all(isinstance(failure, Failed) for failure in failures):
        raise type(failures[0])(" ".join(str(failure) for failure in failures))
    if failures:
        raise failures[0]


async def _loaded(remote: Remote) -> list[str]:
    status, _ = await remote.status()
    return [name for name, model in status.models.items() if model.instances]


async def _unload(remote: Remote, model: str, *, now: bool) -> None:
    ended = await remote.unload(model, now=now)
    click.echo(f"{model} is unloaded ({counted(ended, 'instance')} ended)." if ended else f"{model} was not loaded.")
