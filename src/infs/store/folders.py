"""What folders on this machine hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from infs.errors import SourceError
from infs.store.selection import RepoFile

MOST_FILES = 20_000


def list_folder(folder: Path, *, deep: bool = True) -> list[RepoFile]:
    """The files below `folder` (with `deep`, in its folders too), sorted; hidden ones and links to folders left out.

    Raises:
        SourceError: it cannot be read, or holds more files than any model has.
    """
    found: list[RepoFile] = []
    try:
        for at, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [] if not deep else [name for name in folders if not name.startswith(".")]
            found += [_entry(folder, Path(at) / name) for name in names if not name.startswith(".")]
            if len(found) > MOST_FILES:
                raise SourceError(f"{folder} holds more than {MOST_FILES} files: name the folder of the model itself.")
    except OSError as error:
        raise SourceError(f"{error.filename or folder} cannot be read: {error.strerror or error}.") from error
    # A link that leads nowhere is a file that is not there.
    return sorted((file for file in found if file.size is not None), key=lambda file: file.path)


def _entry(folder: Path, path: Path) -> RepoFile:
    return RepoFile(path.relative_to(folder).as_posix(), size_of(path) if path.is_file() else None)


def size_of(path: Path) -> int:
    """The bytes of the file `path`; 0 when it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's home folder, as `environ` says."""
    named = environ.get("HOME") or environ.get("USERPROFILE")
    return Path(named) if named else Path.home()


def _raise(error: OSError) -> None:
    raise error
