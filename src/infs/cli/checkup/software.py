"""Which software is there: infs itself, Python, libraries that may be there or not."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from infs.cli.checkup.findings import Finding, Patient, note, ok
from infs.version import VERSION

_EXTRA = re.compile(r"""^(?P<name>[A-Za-z0-9._-]+).*;.*extra\s*==\s*["'](?P<extra>[^"']+)["']""")
NOT_FOR_USERS = ("test",)


def check_versions(patient: Patient) -> list[Finding]:
    """infs and Python."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    python = platform.python_version()
    what = f"infs {VERSION}, Python {python} ({sys.executable}), {system}."
    return [ok("infs", what, version=VERSION, python=python, system=platform.system(), machine=platform.machine())]


def check_extras(patient: Patient) -> list[Finding]:
    """What the extras of infs bring; those of engines are looked at with the engines."""
    return [_check_extra(extra, names) for extra, names in extras().items()]


def extras() -> dict[str, list[str]]:
    """The packages of each extra that users may want, by its name."""
    found: dict[str, list[str]] = {}
    for requirement in requires("infs") or []:
        match = _EXTRA.match(requirement)
        if match and match["extra"] not in NOT_FOR_USERS:
            found.setdefault(match["extra"], []).append(match["name"])
    return found


def _check_extra(extra: str, names: list[str]) -> Finding:
    there = {name: installed for name in names if (installed := installed_version(name)) is not None}
    missing = [name for name in names if name not in there]
    said = ", ".join(f"{name} {number}" for name, number in there.items())
    if not missing:
        return ok(f"extra {extra}", f"{said}.", **there)
    what = f"{', '.join(missing)} is not installed{f' ({said} is)' if said else ''}."
    return note(f"extra {extra}", what, f'If you need it: pip install "infs[{extra}]"', missing=missing, **there)


def installed_version(name: str) -> str | None:
    """The version of a package; ``None`` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
