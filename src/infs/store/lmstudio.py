"""The models that LM Studio has fetched, used in place and never changed: ``<models>/<publisher>/<name>/<files>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from infs.errors import SourceNotFound
from infs.store.disk import read_json
from infs.store.folders import home_of
from infs.store.source import LmStudioSource

MOST_LISTED = 20


class LmStudio:
    """What LM Studio keeps on this machine: in the folder of its settings, and where it does by default."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        home = home_of(environ)
        chosen = read_json(home / ".lmstudio" / "settings.json").get("downloadsFolder")
        named = [Path(chosen)] if isinstance(chosen, str) and chosen and "\0" not in chosen else []
        usual = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
        self.roots = list(dict.fromkeys([*named, *usual]))

    def find(self, source: LmStudioSource) -> Path | None:
        """The folder of the model, or the file that `source` names."""
        for root in self.roots:
            path = root.joinpath(*source.repo.split("/"), *source.path.split("/"))
            if path.is_dir() if not source.path else path.is_file():
                return path
        return None

    def models(self) -> Iterator[tuple[LmStudioSource, Path]]:
        """The folders of all models."""
        for root in self.roots:
            for folder in sorted(root.glob("*/*")):
                if folder.is_dir() and not folder.name.startswith("."):
                    yield LmStudioSource(f"{folder.parent.name}/{folder.name}"), folder

    def missing(self, source: LmStudioSource) -> SourceNotFound:
        """The error that says that `source` is not there, and what is."""
        names = [str(each) for each, _ in self.models()]
        there = f"There are: {', '.join(names[:MOST_LISTED])}" if names else "There are no models of LM Studio"
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        looked = ", ".join(str(root) for root in self.roots)
        return SourceNotFound(f"{source} is not in {looked}. {there}{more}. Fetch it with LM Studio.")
