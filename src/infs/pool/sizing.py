"""What is assumed of engines that cannot tell how much memory they take."""

from __future__ import annotations

from pathlib import Path

from infs.engines.base import MemoryUse

PROCESS = 200_000_000  # bytes of a Python process with a library in it, about
CONTEXT = 0.2  # what computing takes, as a share of the files


def without_estimate(path: Path | None) -> MemoryUse:
    """What loading the files at `path` takes, by their size: for an engine that cannot tell."""
    files = [] if path is None else [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return MemoryUse(
        host=int(size * (1 + CONTEXT)) + PROCESS,
        parts={"weights": size, "compute": int(size * CONTEXT), "process": PROCESS},
    )
