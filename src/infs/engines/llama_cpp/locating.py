"""Where the files are that options name."""

from __future__ import annotations

from pathlib import Path

from infs.errors import LoadFailed
from infs.store.source import parse_file


def locate(text: str, cache: Path | None, key: str) -> Path:
    """The file that the configuration calls `text`, under `key`; a relative path starts at `cache`.

    Raises:
        LoadFailed: it is not there.
    """
    path = parse_file(text, cache or Path.cwd(), key).path
    if not path.is_file():
        raise LoadFailed(f"{key}: {path} is not there.", param=key)
    return path
