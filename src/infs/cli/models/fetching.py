"""What ``infs models prepare`` and ``infs models pull`` do, once the command line is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import msgspec

from infs.cli.failures import Failed, WrongCall
from infs.cli.logs import logging_to_stderr
from infs.cli.model_checks import place_of, size_of
from infs.cli.models.adding import TomlFile, table_of
from infs.cli.models.bars import Views, views
from infs.cli.models.here import Here
from infs.cli.settings import id_of
from infs.cli.words import counted
from infs.config import ModelConfig
from infs.errors import InfsError, SourceError
from infs.store import Store
from infs.store.folders import list_folder
from infs.store.names import part_names
from infs.store.progress import size_text
from infs.store.source import find_source, parse_url
from infs.types import Progress

KEPT = "What came so far is kept; the same command goes on from there."


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended for one model. `fetched`: it was not all there before."""

    path: Path | None = None
    fetched: bool = False
    bytes: int = 0
    error: InfsError | None = None

    @property
    def said(self) -> str:
        """In a few words."""
        if self.error is not None:
            return " ".join(self.error.message.split())
        if self.path is None:
            return "it needs no files"
        return f"{'fetched' if self.fetched else 'here already'}, {size_text(self.bytes)}"


def prepare_models(here: Here, patterns: Sequence[str], *, jobs: int, quiet: bool) -> None:
    """Have the files of the configured models that fit to `patterns` (without any: of all) here, and checked.

    Raises:
        Failed: nothing fits, or one could not be had; the others are here then.
    """
    chosen = {
        model.name: model.config
        for model in here.models.values()
        if not patterns or any(model in here.configured(pattern) for pattern in patterns)
    }
    for pattern in patterns:
        if not here.configured(pattern):
            raise Failed(f"No configured model fits to {pattern}; there are: {', '.join(here.models)}.")
    outcomes = _fetch(here, chosen, jobs=jobs, quiet=quiet)
    click.echo(_summary(outcomes))
    _end(outcomes)


def pull_models(
    here: Here, references: Sequence[str], *, add: str | None, config_file: Path, jobs: int, quiet: bool
) -> None:
    """Have the files of `references` here, print their paths, and say how a configuration names them.

    Args:
        add: the id under which the one reference is written into `config_file`; empty for one after its name;
            ``None`` to write nothing.

    Raises:
        ConfigError: one cannot be understood.
        WrongCall: it cannot be written into the configuration.
        Failed: one could not be had; the others are here then.
    """
    models = {reference: ModelConfig(url=reference) for reference in references}
    for reference in models:
        parse_url(reference, key="REF")
    names = _names(models, add)
    file = TomlFile(config_file) if add is not None else None
    if file is not None:
        file.check_free(names.values())
    outcomes = _fetch(here, models, jobs=jobs, quiet=quiet)
    for reference, outcome in outcomes.items():
        if outcome.error is not None:
            continue
        click.echo(str(outcome.path))
        if file is not None:
            file.add(names[reference], {"url": reference})
            click.echo(f"{names[reference]} is added to {file.path}.", err=True)
        else:
            click.echo(f"\nIn a configuration:\n\n{table_of(names[reference], {'url': reference})}", err=True)
    _end(outcomes)


def _names(models: Mapping[str, ModelConfig], add: str | None) -> dict[str, str]:
    """The ids of references in a configuration."""
    if add and len(models) > 1:
        raise WrongCall(f"--add {add} is the id of one model, and there are {len(models)}.")
    names = {reference: add or id_of(reference) for reference in models}
    if add is not None and len(set(names.values())) < len(names):
        raise WrongCall(f"Two of these would have the same id ({', '.join(names.values())}): add one after the other.")
    return names


def _fetch(here: Here, models: Mapping[str, ModelConfig], *, jobs: int, quiet: bool) -> dict[str, Outcome]:
    """How it ended for each of `models`, at most `jobs` of them at a time."""
    try:
        with logging_to_stderr(here.config.log, quiet_failures=True), views(quiet=quiet) as shown:
            return asyncio.run(_fetch_all(here.store, models, jobs, shown))
    except KeyboardInterrupt:
        click.echo(f"\n{KEPT}", err=True)
        raise


async def _fetch_all(store: Store, models: Mapping[str, ModelConfig], jobs: int, shown: Views) -> dict[str, Outcome]:
    gate = asyncio.Semaphore(jobs)

    async def fetch(name: str, config: ModelConfig) -> Outcome:
        async with gate:
            outcome = await _fetch_one(store, name, config, shown)
        shown.end(_title(store, name, config), outcome.said)
        return outcome

    try:
        found = await asyncio.gather(*(fetch(name, config) for name, config in models.items()))
    finally:
        await store.close()
    return dict(zip(models, found, strict=True))


async def _fetch_one(store: Store, name: str, config: ModelConfig, shown: Views) -> Outcome:
    arrived = False

    def show(progress: Progress) -> None:
        nonlocal arrived
        arrived = arrived or progress.total is None or progress.done < progress.total
        shown.show(_title(store, name, config), progress)

    try:
        fetched = await store.fetch(name, config, show)
    except InfsError as error:
        return Outcome(error=error)
    if fetched is None:
        return Outcome()
    paths = [fetched.path, *fetched.extras.values()]
    return Outcome(path=fetched.path, fetched=arrived, bytes=sum(map(_size, paths)))


def _title(store: Store, name: str, config: ModelConfig) -> str:
    """What is said of a model: a reference may hold what is secret."""
    if name != config.url:
        return name
    source = find_source(config, store.cache)
    return name if source is None else place_of(source)


def _size(path: Path) -> int:
    """Bytes of a model: of a file with all parts, or of a folder."""
    try:
        if path.is_dir():
            return sum(file.size or 0 for file in list_folder(path))
    except SourceError:
        return 0
    return sum(size_of(path.with_name(name)) for name in part_names(path.name))


def _summary(outcomes: Mapping[str, Outcome]) -> str:
    fetched = [each for each in outcomes.values() if each.fetched and each.error is None]
    failed = sum(each.error is not None for each in outcomes.values())
    there = len(outcomes) - len(fetched) - failed
    size = f" ({size_text(sum(each.bytes for each in fetched))})" if fetched else ""
    return f"{counted(len(outcomes), 'model')}: {len(fetched)} fetched{size}, {there} here already, {failed} failed."


def _end(outcomes: Mapping[str, Outcome]) -> None:
    failed = [outcome for outcome in outcomes.values() if outcome.error is not None]
    if failed:
        raise Failed(f"{counted(len(failed), 'model')} of {len(outcomes)} could not be fetched.")
