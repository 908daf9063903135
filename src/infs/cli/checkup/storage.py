"""Where models are kept: sizes, free space, and disks that are slow or do not last."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from infs.cli.checkup.findings import Finding, Patient, note, ok, problem
from infs.cli.model_checks import size_of
from infs.config import Config, find_file, load_config
from infs.errors import ConfigError
from infs.store import Store
from infs.store.hubcache import shared_cache
from infs.store.progress import size_text

SMALL = 10 * 10**9  # bytes; a model of medium size
REMOTE = ("nfs", "cifs", "smb", "9p", "afp", "webdav", "fuse.sshfs", "drvfs", "fuse.rclone")
MOVE = "Set cache_path in the configuration to a folder on another disk"


def check_caches(patient: Patient) -> list[Finding]:
    """The cache of infs, and the one that the tools of the hub share."""
    try:
        config = load_config(find_file(patient.config_file, patient.directory), environ=patient.environ)
        store = Store(config.cache_path, hub=config.hub, environ=patient.environ)
    except ConfigError as error:
        return [note("cache", "The configuration is wrong, so nobody knows where the cache is.", error.message)]
    return [
        finding
        for area, folder in caches(config, store.cache, patient.environ).items()
        for finding in check_folder(area, folder)
    ]


def caches(config: Config, own: Path, environ: Mapping[str, str]) -> dict[str, Path]:
    """The folders that models are kept in, by what they are."""
    return {"cache": own} if config.cache_path is not None else {"cache": own, "hub cache": shared_cache(environ)}


def check_folder(area: str, folder: Path) -> list[Finding]:
    """One folder: that it can be written to, what it holds, and what its disk is."""
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return [problem(area, f"{folder} cannot be written to: {error.strerror or error}.", MOVE, path=str(folder))]
    size = size_of(folder) if folder.exists() else 0
    kind = file_system(there)
    facts = {"path": str(folder), "size": size, "free": free, "file_system": kind}
    what = f"{folder} holds {size_text(size)}, and its disk has {size_text(free)} free."
    found = [note(area, what, MOVE, **facts) if free < SMALL else ok(area, what, **facts)]
    if kind.startswith(REMOTE):
        found.append(note(area, f"{folder} is on another machine or system ({kind}), so loading is slow.", MOVE))
    if kind == "tmpfs":
        found.append(note(area, f"{folder} is in main memory, and gone after a restart.", MOVE))
    return found


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest one above it that is there."""
    return next((one for one in (folder, *folder.parents) if one.is_dir()), folder)


def file_system(folder: Path) -> str:
    """The kind of file system that `folder` is on; empty where the system does not say."""
    path = os.path.realpath(folder)
    best = ("", "")
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        inside = path == mount or path.startswith(mount.rstrip("/\\") + os.sep)
        if inside and len(mount) >= len(best[0]):
            best = (mount, partition.fstype.lower())
    return best[1]
