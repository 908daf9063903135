"""What ``infs doctor`` does, once the command line is understood."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec

from infs.cli.checkup import engines, machine, software, storage, surroundings
from infs.cli.checkup.findings import Check, Finding, Patient, problem
from infs.cli.words import counted

__all__ = ["Patient", "examine", "print_findings"]

CHECKS: dict[str, Check] = {
    "software": software.check_versions,
    "processor": machine.check_processor,
    "memory": machine.check_memory,
    "GPUs": machine.check_gpus,
    "engines": engines.check_engines,
    "extras": software.check_extras,
    "caches": storage.check_caches,
    "configuration": surroundings.check_configuration,
    "environment": surroundings.check_environment,
    "hub": surroundings.check_hub,
    "server": surroundings.check_server,
}
COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
WIDTH = max(map(len, COLOURS))


def examine(patient: Patient, *, quiet: bool = False) -> list[Finding]:
    """All findings. A check that fails itself is one too, and keeps no other from being made."""
    found: list[Finding] = []
    with _waiting(quiet=quiet):
        for name, check in CHECKS.items():
            try:
                found += check(patient)
            except Exception as error:
                what = f"This could not be looked at: {type(error).__name__}: {error}."
                found.append(problem(name, what, "Please report that"))
    return found


@contextmanager
def _waiting(*, quiet: bool) -> Iterator[None]:
    """Says on a terminal that it takes some seconds."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("Looking at this machine"):
        yield


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """Print them, with how many there are of each level."""
    counts = {level: sum(one.level == level for one in findings) for level in COLOURS}
    if as_json:
        data = {"findings": findings, **{f"{level}s": count for level, count in counts.items() if level != "ok"}}
        click.echo(msgspec.json.format(msgspec.json.encode(data)).decode())
        return
    for one in findings:
        level = click.style(one.level.ljust(WIDTH), fg=COLOURS[one.level])
        click.echo(f"{level}  {one.area}: {one.what}")
        if one.todo:
            click.echo(f"{'':{WIDTH}}  {one.todo.rstrip('.')}.")
    click.echo(f"\n{counted(counts['problem'], 'problem')}, {counted(counts['note'], 'note')}.")
