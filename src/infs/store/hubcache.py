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

from msgspec import Struct

from infs.errors import SourceError
from infs.store.disk import write_text
from infs.store.folders import list_folder
from infs.store.selection import RepoFile
from infs.store.source import HubSource

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MODELS = "models--"
PARTIAL = (".incomplete", ".incomplete.json")


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


class Snapshot(Struct, frozen=True, kw_only=True):
    """What is there of a repository at a commit: its files, and the branches and tags that are at that commit."""

    repo: str
    commit: str
    folder: Path
    files: list[RepoFile]
    revisions: list[str] = []


class HubCache:
    """One such cache, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, source: HubSource) -> Path | None:
        """The file of `source`, if it is there."""
        commit = self.commit(source)
        path = None if commit is None else self.snapshot(source, commit)
        return path if path is not None and path.is_file() else None

    def commit(self, source: HubSource) -> str | None:
        """The commit of the revision of `source`, as far as that is known here."""
        if is_commit(source.revision):
            return source.revision
        try:
            commit = (self._repo(source) / "refs" / source.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return commit if is_commit(commit) else None

    def snapshot(self, source: HubSource, commit: str) -> Path:
        """Where the file or folder of `source` is found, at `commit`."""
        return self._repo(source).joinpath("snapshots", commit, *source.path.split("/"))

    def blob(self, source: HubSource, etag: str) -> Path:
        """Where content lies."""
        return self._repo(source) / "blobs" / etag

    def lock(self, source: HubSource, etag: str) -> Path:
        """The file that all tools lock while they fetch that content."""
        return self.root / ".locks" / self._repo(source).name / f"{etag}.lock"

    def link(self, source: HubSource, commit: str, etag: str) -> Path:
        """Make the content `etag` the file of `source` at `commit`.

        Raises:
            OSError: the cache cannot be written to.
        """
        path, blob = self.snapshot(source, commit), self.blob(source, etag)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            _link(path, blob)
        return path

    def point(self, source: HubSource, commit: str) -> None:
        """Note that the revision of `source` is at `commit`: from now on it is found there, also offline.

        Raises:
            OSError: the cache cannot be written to.
        """
        if not is_commit(source.revision):
            write_text(self._repo(source) / "refs" / source.revision, commit)

    # --- what there is ---

    def repositories(self) -> list[str]:
        """The model repositories of which there is something."""
        folders = _folders(self.root)
        names = [
            each.name.removeprefix(_MODELS).replace("--", "/") for each in folders if each.name.startswith(_MODELS)
        ]
        return [name for name in names if name.count("/") <= 1 and name.strip("/") == name]

    def snapshots(self, repo: str) -> list[Snapshot]:
        """What is there of a repository, by commits; links whose content is gone are left out."""
        folder = self.repository(repo)
        revisions = self._revisions(folder)
        found = []
        for each in _folders(folder / "snapshots"):
            try:
                files = list_folder(each)
            except SourceError:
                continue
            named = sorted(name for name, commit in revisions.items() if commit == each.name)
            found.append(Snapshot(repo=repo, commit=each.name, folder=each, files=files, revisions=named))
        return [snapshot for snapshot in found if snapshot.files]

    def partial(self, repo: str) -> list[Path]:
        """Downloads of a repository that are not complete, of infs and of other tools."""
        try:
            blobs = sorted((self.repository(repo) / "blobs").iterdir())
        except OSError:
            return []
        return [each for each in blobs if each.name.endswith(PARTIAL) and each.is_file() and not each.is_symlink()]

    def repository(self, repo: str) -> Path:
        """The folder of a repository."""
        return self.root / "--".join(["models", *repo.split("/")])

    def _revisions(self, folder: Path) -> dict[str, str]:
        """The commits of branches and tags."""
        found = {}
        for path in sorted((folder / "refs").rglob("*")):
            try:
                found[path.relative_to(folder / "refs").as_posix()] = path.read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                continue
        return found

    def _repo(self, source: HubSource) -> Path:
        return self.repository(source.repo)


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder`, without links to such."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
    except OSError:
        return []


def _link(path: Path, blob: Path) -> None:
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        # Windows allows links to some users only.
        if blob.is_symlink():
            shutil.copyfile(blob, path)
        else:
            os.replace(blob, path)
