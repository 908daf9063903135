"""The cache that the tools of the hub share on this machine, in its own layout.

    models--org--repo/
        refs/main                   the commit that a branch or tag was at, when it was last asked for
        blobs/<etag>                content
        snapshots/<commit>/<path>   a link to the content (a file, where links are not allowed)
    .locks/models--org--repo/<etag>.lock

What infs downloads is found there by the others, and the other way round.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from infs.store.disk import write_text
from infs.store.source import HubSource

_COMMIT = re.compile(r"[0-9a-f]{40}")


def shared_cache(environ: Mapping[str, str]) -> Path:
    """Where the tools of the hub keep their files."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return Path(os.path.expandvars(environ[variable])).expanduser()
    return hub_home(environ) / "hub"


def hub_home(environ: Mapping[str, str]) -> Path:
    """Where the tools of the hub keep all that is theirs."""
    if environ.get("HF_HOME"):
        return Path(os.path.expandvars(environ["HF_HOME"])).expanduser()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


def is_commit(revision: str) -> bool:
    """Whether `revision` is a commit, which stays what it is, rather than a branch or tag."""
    return _COMMIT.fullmatch(revision) is not None


class HubCache:
    """One such cache, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, source: HubSource) -> Path | None:
        """The file of `source`, if it is there."""
        commit = source.revision
        if not is_commit(commit):
            try:
                commit = (self._repo(source) / "refs" / source.revision).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                return None
        path = self.snapshot(source, commit)
        return path if is_commit(commit) and path.is_file() else None

    def snapshot(self, source: HubSource, commit: str) -> Path:
        """Where the file of `source` is found, at `commit`."""
        return self._repo(source).joinpath("snapshots", commit, *source.path.split("/"))

    def blob(self, source: HubSource, etag: str) -> Path:
        """Where content lies."""
        return self._repo(source) / "blobs" / etag

    def lock(self, source: HubSource, etag: str) -> Path:
        """The file that all tools lock while they fetch that content."""
        return self._root / ".locks" / self._folder(source) / f"{etag}.lock"

    def link(self, source: HubSource, commit: str, etag: str) -> Path:
        """Make the content `etag` the file of `source` at `commit`, and that the newest that its revision had.

        Raises:
            OSError: the cache cannot be written to.
        """
        path, blob = self.snapshot(source, commit), self.blob(source, etag)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            _link(path, blob)
        if not is_commit(source.revision):
            write_text(self._repo(source) / "refs" / source.revision, commit)
        return path

    def _folder(self, source: HubSource) -> str:
        return "--".join(["models", *source.repo.split("/")])

    def _repo(self, source: HubSource) -> Path:
        return self._root / self._folder(source)


def _link(path: Path, blob: Path) -> None:
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        # Windows allows links to some users only.
        if blob.is_symlink():
            shutil.copyfile(blob, path)
        else:
            os.replace(blob, path)
