"""What ``infs models show`` does, once the command line is understood: what is known of one model."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from infs.cli.failures import Failed, WrongCall
from infs.cli.model_checks import place_of, size_of
from infs.cli.models.asking import Offered, ask_source
from infs.cli.models.described import Description, File, describe_model, describe_offers
from infs.cli.models.here import Configured, Here, fits, names_of
from infs.cli.models.memory import estimate_memory
from infs.config import ModelConfig
from infs.errors import LoadFailed, SourceError, SourceNotFound
from infs.store.catalogue import Entry
from infs.store.disk import Notes
from infs.store.metadata import describe
from infs.store.source import HubSource, Source, UrlSource, find_source, is_url

_SHA256 = re.compile(r"(?:sha256-)?([0-9a-f]{64})")
MOST_NAMED = 10


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is meant: how it is called, its settings, and where it lies, as far as that is known."""

    name: str
    config: ModelConfig
    source: Source | None = None
    path: Path | None = None
    entry: Entry | None = None


def show_model(here: Here, text: str, *, as_json: bool, quick: bool) -> None:
    """Print what is known of the model that `text` names.

    Raises:
        InfsError: there is none, or it cannot be understood.
    """
    target = find_target(here, text)
    if target.path is None:
        offers = _ask(here, target)
        _print_json({"here": False, "offers": [_offer_data(each) for each in offers]}) if as_json else click.echo(
            describe_offers(target.name, offers)
        )
        return
    shown = look_at(here, target, target.path, quick=quick)
    if as_json:
        data: dict[str, Any] = msgspec.to_builtins(shown, enc_hook=str)
        _print_json({"here": True, **data})
    else:
        click.echo(describe_model(shown))
    if shown.problem:
        raise Failed(shown.problem)


def _print_json(data: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(data)).decode())


def _offer_data(offered: Offered) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(offered)
    for key in ("files", "beside"):
        data[key] = [{"name": file.path, "bytes": file.size} for file in getattr(offered, key)]
    return {**data, "bytes": offered.bytes}


# --- which one ------------------------------------------------------------------------------------------------


def find_target(here: Here, text: str) -> Target:
    """What `text` means: the id of a model, a URL, a path, or what something in the caches is called.

    Raises:
        ConfigError: it is a URL of no kind that is known.
        WrongCall: it fits to several.
        Failed: it fits to nothing.
    """
    if text in here.models:
        return _of_configuration(here, here.models[text])
    if is_url(text) or "://" in text:
        return _of_url(here, text)
    path = Path(text).expanduser()
    if path.exists():
        return _of_path(here, text, path.absolute())
    entry = _only(here, text)
    if entry is None:
        hint = f" A model of the hub is written hf:{text}." if re.fullmatch(r"[\w.-]+/[\w./:-]+", text) else ""
        raise Failed(f"{text} is neither a model of the configuration, nor a file, nor in the caches.{hint}")
    return Target(name=entry.reference, config=ModelConfig(url=entry.reference), path=entry.path, entry=entry)


def _of_configuration(here: Here, model: Configured) -> Target:
    if model.problem:
        raise WrongCall(model.problem)
    entry = None if model.path is None else here.entry_at(model.path)
    if not model.source:
        raise Failed(f"The model {model.name!r} has no files.")
    return Target(name=model.name, config=model.config, source=model.origin, path=model.path, entry=entry)


def _of_url(here: Here, text: str) -> Target:
    config = ModelConfig(url=text)
    source = find_source(config, here.store.cache, key="MODEL")
    assert source is not None
    path = here.find(config)
    entry = _only(here, text) if path is None else here.entry_at(path)
    if path is None and entry is not None:
        path = entry.path
    return Target(name=place_of(source), config=config, source=source, path=path, entry=entry)


def _of_path(here: Here, text: str, path: Path) -> Target:
    return Target(name=text, config=ModelConfig(file=str(path)), path=path, entry=here.entry_at(path))


def _only(here: Here, text: str) -> Entry | None:
    """The one entry that is called so; of several, the one at the revision that is meant without one."""
    found = [entry for entry in here.entries if fits(names_of(entry), text)]
    exact = [entry for entry in found if entry.reference == text and entry.format]
    found = exact or [entry for entry in found if entry.format] or found
    if len(found) > 1:
        names = [entry.reference for entry in found[:MOST_NAMED]]
        raise WrongCall(f"{text} may mean {len(found)} models: {', '.join(names)}. Name one of them.")
    return found[0] if found else None


# --- what is known --------------------------------------------------------------------------------------------


def look_at(here: Here, target: Target, path: Path, *, quick: bool) -> Description:
    """All that is known of the model at `path`; headers are read, and nothing is loaded."""
    users = _users(here, target, path)
    config = here.models[users[0]].config if users and target.name not in here.models else target.config
    metadata, problem = None, ""
    try:
        metadata = describe(path)
    except (LoadFailed, SourceError, OSError) as error:
        problem = str(error)
    whole = not (metadata and metadata.missing) and (target.entry is None or target.entry.complete)
    files = dict.fromkeys([*here.files_of(path), *(metadata.files if metadata else [])])
    notes = Notes(here.store.cache / "notes")
    return Description(
        reference=target.name if target.entry is None else target.entry.reference,
        path=str(path),
        complete=whole,
        files=[File(path=str(each), bytes=size_of(each), sha256=_checksum(each, notes)) for each in files],
        metadata=metadata,
        problem=problem,
        configured={name: _settings(here.models[name].config) for name in users},
        memory=estimate_memory(here, target.name, config, path, target.entry, quick=quick)
        if metadata is not None and whole
        else None,
    )


def _users(here: Here, target: Target, path: Path) -> list[str]:
    if target.name in here.models:
        return [target.name]
    return [name for name, model in here.models.items() if model.path is not None and _same(model.path, path)]


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _settings(config: ModelConfig) -> dict[str, Any]:
    """What `config` says that is not as by default, without what is secret in a URL."""
    usual = msgspec.to_builtins(ModelConfig())
    said = {key: value for key, value in msgspec.to_builtins(config).items() if value != usual[key]}
    source = find_source(config, Path(), key="url") if config.url is not None else None
    return {**said, "url": place_of(source)} if isinstance(source, UrlSource) else said


def _checksum(path: Path, notes: Notes) -> str | None:
    """The SHA-256 that is remembered of `path` as it is now, or that its content is called by."""
    real = path.resolve()
    note = notes.get("digests", str(real))
    try:
        state = [real.stat().st_size, real.stat().st_mtime_ns]
    except OSError:
        return None
    digests = note.get("digests")
    if note.get("state") == state and isinstance(digests, dict) and isinstance(digests.get("sha256"), str):
        return str(digests["sha256"])
    named = _SHA256.fullmatch(real.name)
    return named[1] if named else None


# --- what is elsewhere ----------------------------------------------------------------------------------------


def _ask(here: Here, target: Target) -> list[Offered]:
    if isinstance(target.source, HubSource | UrlSource):
        return asyncio.run(ask_source(here, target.config, target.source))
    # The store has the words for what is missing, and tries nothing on the network for these.
    asyncio.run(here.store.fetch(target.name, target.config, lambda progress: None))
    raise SourceNotFound(f"The files of {target.name} came just now; try again.")
