"""What ``infs models remove`` does, once the command line is understood."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click
import msgspec

from infs.cli.failures import Failed, WrongCall
from infs.cli.models.here import Configured, Here
from infs.cli.starting import is_terminal
from infs.cli.tables import Table, plain_lines
from infs.cli.words import counted
from infs.errors import InfsError
from infs.store.catalogue import Entry, disk_use
from infs.store.progress import size_text

OWNERS = {
    "ollama": "belongs to Ollama; remove it with ollama rm",
    "lmstudio": "belongs to LM Studio; remove it there",
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be deleted, and why other things that were named are not."""

    entries: list[Entry]
    refused: list[str]


def remove_models(
    here: Here, patterns: Sequence[str], *, unused: bool, partial: bool, dry_run: bool, yes: bool
) -> None:
    """Delete what fits to `patterns` and to all that is asked for besides.

    Raises:
        WrongCall: nobody can be asked, or without a configuration everything would count as unused.
        Failed: nothing fits, or something could not be deleted.
    """
    if unused and not here.explicit:
        raise WrongCall("There is no configuration here, so no model counts as used: name one with --config.")
    wrong = [model.problem for model in here.models.values() if model.problem]
    if unused and wrong:
        raise WrongCall(f"What is unused cannot be told while the configuration is wrong: {wrong[0]}")
    plan = plan_removal(here, patterns, unused=unused, partial=partial)
    for line in plan.refused:
        click.echo(line, err=True)
    if plan.entries:
        _print_plan(here, plan.entries)
        if not dry_run:
            _confirm(plan.entries, yes=yes)
            _remove(here, plan.entries)
    elif not plan.refused:
        click.echo("There is nothing to remove.")
    if plan.refused:
        raise Failed("Not all that was named can be removed.")


def plan_removal(here: Here, patterns: Sequence[str], *, unused: bool, partial: bool) -> Plan:
    """What `patterns` and the rest mean; each pattern must fit to something.

    Raises:
        Failed: one fits to nothing.
    """
    chosen: list[Entry] = [] if patterns else [entry for entry in here.entries if entry.removable]
    refused: list[str] = []
    for pattern in patterns:
        found = here.matching(pattern)
        in_place = [_in_place(model) for model in here.configured(pattern) if _is_in_place(here, model)]
        if not found and not in_place:
            raise Failed(_nothing(here, pattern))
        removable = [entry for entry in found if entry.removable]
        chosen += removable
        # A pattern for many may well fit to what must stay; only what it names alone was meant.
        if not removable:
            refused += [f"{entry.reference} {OWNERS.get(entry.kind, 'belongs to another tool')}." for entry in found]
            refused += in_place
    kept = [
        entry
        for entry in {id(entry): entry for entry in chosen}.values()
        if not (unused and here.users(entry)) and not (partial and entry.complete)
    ]
    return Plan(entries=kept, refused=list(dict.fromkeys(refused)))


def _is_in_place(here: Here, model: Configured) -> bool:
    """Whether its files are somebody's own, and in no cache."""
    return model.path is not None and not any(model.name in here.users(entry) for entry in here.entries)


def _in_place(model: Configured) -> str:
    return f"{model.name} is used in place, and infs did not put it there: delete {model.path} yourself."


def _nothing(here: Here, pattern: str) -> str:
    if here.configured(pattern):
        return f"Nothing of {pattern} is on this machine."
    return f"Nothing fits to {pattern}; infs models list shows what there is."


def _print_plan(here: Here, entries: list[Entry]) -> None:
    rows = [
        [
            entry.reference,
            entry.revisions[0] if entry.revisions else entry.commit[:7] or "-",
            str(len(entry.files)),
            size_text(entry.bytes),
            "complete" if entry.complete else "partial",
        ]
        for entry in entries
    ]
    header = ["MODEL", "REVISION", "FILES", "SIZE", "STATE"]
    click.echo("\n".join(plain_lines(Table(header=header, rows=rows, right=("FILES", "SIZE")))))
    click.echo(f"\nThis frees {size_text(_frees(here, entries))}.")
    for entry in entries:
        users = here.users(entry)
        if users:
            click.echo(f"Warning: {', '.join(users)} of the configuration uses {entry.reference}.", err=True)


def _frees(here: Here, entries: list[Entry]) -> int:
    """The bytes that nothing else holds."""
    chosen = {id(entry) for entry in entries}
    return disk_use(here.entries) - disk_use(entry for entry in here.entries if id(entry) not in chosen)


def _confirm(entries: list[Entry], *, yes: bool) -> None:
    if yes:
        return
    if not is_terminal():
        raise WrongCall("Nobody can be asked here whether to delete that: give --yes.")
    if not click.confirm(f"Remove {counted(len(entries), 'model')}?", default=False):
        raise Failed("Nothing is removed.")


def _remove(here: Here, entries: list[Entry]) -> None:
    freed, failed = asyncio.run(_remove_all(here, entries))
    click.echo(f"{counted(len(entries) - len(failed), 'model')} removed, {size_text(freed)} freed.")
    if failed:
        raise Failed(" ".join(failed))


async def _remove_all(here: Here, entries: list[Entry]) -> tuple[int, list[str]]:
    """The bytes that are free now, and what went wrong."""
    freed, failed = 0, []
    try:
        for entry in entries:
            try:
                freed += await here.store.remove(entry)
            except InfsError as error:
                failed.append(error.message)
    finally:
        await here.store.close()
    return freed, failed
