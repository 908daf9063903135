"""What ``infs models list`` does, once the command line is understood."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from infs.cli.failures import Failed
from infs.cli.model_checks import size_of
from infs.cli.models.here import Configured, Here, is_partial
from infs.cli.models.states import loaded_states
from infs.cli.models.trees import Node, print_tree
from infs.cli.tables import Table, plain_lines
from infs.cli.words import counted
from infs.store.catalogue import Entry, EntryFile, disk_use
from infs.store.progress import size_text

PLACES = {
    "hub": "Hugging Face cache",
    "download": "Downloads of infs",
    "lmstudio": "LM Studio",
    "ollama": "Ollama",
}
NONE = "-"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown: models of the configuration, their states, and entries with the models that use them."""

    models: list[Configured]
    states: dict[str, str]
    entries: list[tuple[Entry, list[str]]]


def list_models(
    here: Here, patterns: Sequence[str], *, view: str | None, as_json: bool, unused: bool, configured: bool
) -> None:
    """Print what there is, as far as it fits to one of `patterns`.

    Raises:
        Failed: there are patterns, and nothing fits to any.
    """
    listed = _chosen(here, patterns, unused=unused, configured=configured)
    if patterns and not (listed.models or listed.entries):
        raise Failed(f"No model fits to {' or '.join(patterns)}; infs models list shows all.")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_data(listed))).decode())
    elif (view or ("tree" if sys.stdout.isatty() else "flat")) == "tree":
        print_tree(_tree(listed))
        click.echo(f"\n{_total(listed)}")
    else:
        click.echo("\n".join([*_flat(listed), _total(listed)]))


def _chosen(here: Here, patterns: Sequence[str], *, unused: bool, configured: bool) -> Listed:
    entries = [(entry, here.users(entry)) for entry in here.entries]
    models = list(here.models.values())
    if patterns:
        named = {id(entry) for pattern in patterns for entry in here.matching(pattern)}
        entries = [pair for pair in entries if id(pair[0]) in named]
        fitting = {model.name for pattern in patterns for model in here.configured(pattern)}
        fitting |= {name for _, users in entries for name in users}
        models = [model for model in models if model.name in fitting]
    if unused:
        entries, models = [pair for pair in entries if not pair[1]], []
    if configured:
        entries = [pair for pair in entries if pair[1]]
    states = loaded_states(here.config_file, here.environ, here.directory) if models else {}
    return Listed(models=models, states=states, entries=entries)


# --- what is said of each -------------------------------------------------------------------------------------


def _state(model: Configured, states: dict[str, str]) -> str:
    if model.problem:
        return "wrong"
    known = states.get(model.name, "idle")
    return "missing" if not model.there else "here" if known == "idle" else known


def _model_size(model: Configured) -> int | None:
    return sum(map(size_of, model.files)) if model.files else None


def _file_state(entry: Entry, file: EntryFile) -> str:
    return "partial" if is_partial(file.path.name) else "complete" if entry.complete else "incomplete"


def _total(listed: Listed) -> str:
    entries = [entry for entry, _ in listed.entries]
    files = len({file.content for entry in entries for file in entry.files})
    unused = disk_use(entries) - disk_use(entry for entry, users in listed.entries if users)
    more = f", {size_text(unused)} that no configured model uses" if unused else ""
    return f"In the caches: {size_text(disk_use(entries))} in {counted(files, 'file')}{more}."


# --- as JSON --------------------------------------------------------------------------------------------------


def _data(listed: Listed) -> dict[str, Any]:
    return {
        "models": [_model_data(model, listed.states) for model in listed.models],
        "entries": [entry_data(entry, users) for entry, users in listed.entries],
        "bytes": disk_use(entry for entry, _ in listed.entries),
    }


def _model_data(model: Configured, states: dict[str, str]) -> dict[str, Any]:
    return {
        "id": model.name,
        "engine": model.engine,
        "source": model.source,
        "there": model.there,
        "state": states.get(model.name),
        "path": None if model.path is None else str(model.path),
        "bytes": _model_size(model),
        "problem": model.problem or None,
    }


def entry_data(entry: Entry, users: list[str]) -> dict[str, Any]:
    """An entry as plain data, for programs."""
    data: dict[str, Any] = msgspec.to_builtins(entry, enc_hook=str)
    data["last_read"] = data.pop("used")
    for file, said in zip(entry.files, data["files"], strict=True):
        said["state"] = _file_state(entry, file)
    return {**data, "bytes": entry.bytes, "used_by": users}


# --- as lines -------------------------------------------------------------------------------------------------


def _flat(listed: Listed) -> list[str]:
    """One line for each file, and for each model of the configuration that has none here."""
    rows = [
        [
            ", ".join(users) or NONE,
            entry.reference,
            file.name,
            size_text(file.bytes),
            _file_state(entry, file),
            str(file.path),
        ]
        for entry, users in listed.entries
        for file in entry.files
    ]
    shown = {file.path for entry, _ in listed.entries for file in entry.files}
    for model in listed.models:
        own = [path for path in model.files if path not in shown]
        rows += [[model.name, model.source, path.name, size_text(size_of(path)), "complete", str(path)] for path in own]
        if not model.files:
            rows.append([model.name, model.source or NONE, NONE, NONE, _state(model, listed.states), NONE])
    rows.sort(key=lambda row: row[1:])
    header = ["USED BY", "REFERENCE", "FILE", "SIZE", "STATE", "PATH"]
    return plain_lines(Table(header=header, rows=rows, right=("SIZE",)))


# --- as a tree ------------------------------------------------------------------------------------------------


def _tree(listed: Listed) -> list[Node]:
    nodes = []
    if listed.models:
        below = [_model_node(model, listed.states) for model in listed.models]
        nodes.append(Node(text="Configuration", said=counted(len(below), "model"), below=below))
    for kind, pairs in itertools.groupby(listed.entries, key=lambda pair: pair[0].kind):
        these = list(pairs)
        below = _repositories(these) if kind == "hub" else [_entry_node(*pair) for pair in these]
        nodes.append(Node(text=PLACES[kind], said=_size(these), below=below))
    return nodes


def _model_node(model: Configured, states: dict[str, str]) -> Node:
    size = _model_size(model)
    said = [model.engine, model.source, None if size is None else size_text(size), _state(model, states)]
    problem = [Node(text=model.problem)] if model.problem else []
    return Node(text=model.name, said=", ".join(filter(None, said)), below=problem)


def _repositories(pairs: list[tuple[Entry, list[str]]]) -> list[Node]:
    """Repositories, the revisions of each, and the models of those."""
    nodes = []
    for repo, inner in itertools.groupby(sorted(pairs, key=lambda pair: pair[0].repository), _repository):
        these = list(inner)
        below = []
        for commit, models in itertools.groupby(sorted(these, key=_commit), _commit):
            found = list(models)
            files = [node for pair in found for node in _hub_files(*pair)]
            below.append(Node(text=_revision(found[0][0], commit), said=_size(found), below=files))
        nodes.append(Node(text=repo, said=_size(these), below=below))
    return nodes


def _repository(pair: tuple[Entry, list[str]]) -> str:
    return pair[0].repository


def _commit(pair: tuple[Entry, list[str]]) -> str:
    return pair[0].commit


def _revision(entry: Entry, commit: str) -> str:
    if not commit:
        return "downloads that have not ended"
    names = ", ".join(entry.revisions)
    return f"{names} ({commit[:7]})" if names else commit[:7]


def _hub_files(entry: Entry, users: list[str]) -> list[Node]:
    return [Node(text=file.name, said=_said(entry, file, users)) for file in entry.files]


def _entry_node(entry: Entry, users: list[str]) -> Node:
    """A model that is no part of a repository, with its files where there are several."""
    if len(entry.files) == 1:
        return Node(text=entry.reference, said=_said(entry, entry.files[0], users))
    below = [Node(text=file.name, said=_said(entry, file, [])) for file in entry.files]
    return Node(text=entry.reference, said=", ".join([size_text(entry.bytes), *_used(users)]), below=below)


def _said(entry: Entry, file: EntryFile, users: list[str]) -> str:
    state = _file_state(entry, file)
    kind = [entry.label] if entry.format and file is entry.files[0] and entry.label else []
    return ", ".join([size_text(file.bytes), *kind, *([state] if state != "complete" else []), *_used(users)])


def _used(users: list[str]) -> list[str]:
    return [f"used by {', '.join(users)}"] if users else []


def _size(pairs: Iterable[tuple[Entry, list[str]]]) -> str:
    return size_text(disk_use(entry for entry, _ in pairs))
