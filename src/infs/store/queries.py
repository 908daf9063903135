"""What is looked for: a source, and what else the configuration says of the files. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from infs.config import ModelConfig
from infs.errors import ConfigError
from infs.store.names import part_names
from infs.store.selection import Place, Selection, Wish
from infs.store.source import HubSource, LmStudioSource, Source


class Query(Struct, frozen=True):
    """What is looked for.

    Attributes:
        source: where it comes from.
        engine: the one that is configured.
        wish: what else the configuration says about the files.
        beside: whether a file beside the model is wanted as well.
        key: how the configuration names `source`, for messages.
    """

    source: Source
    engine: str | None = None
    wish: Wish = Wish()
    beside: bool = False
    key: str = "url"

    @property
    def listed(self) -> bool:
        """Whether one has to look what else a repository holds."""
        return isinstance(self.source, HubSource) and (self.source.folder or self.beside)

    def check_patterns(self) -> None:
        """Raise `ConfigError` for patterns where there is only one file."""
        if self.wish.allow is not None or self.wish.ignore:
            raise ConfigError(f"{self.key} names one file, so allow_patterns and ignore_patterns have no meaning.")


def wish_of(config: ModelConfig, source: Source) -> Wish:
    """What `config` says about the files of `source`."""
    quant = source.quant if isinstance(source, HubSource | LmStudioSource) else ""
    allow = None if config.allow_patterns is None else tuple(config.allow_patterns)
    return Wish(quant=quant, allow=allow, ignore=tuple(config.ignore_patterns or ()))


def hub_parts(source: HubSource) -> list[HubSource]:
    """The files of a model of which `source` is a part."""
    return [msgspec.structs.replace(source, path=path) for path in part_names(source.path)]


def folder_of(source: HubSource) -> HubSource:
    """The folder that is listed for `source`: itself, or the repository of a file."""
    return source if source.folder else msgspec.structs.replace(source, path="", folder=True)


def in_folder(source: HubSource, name: str) -> HubSource:
    """The file `name` of the folder that is listed for `source`."""
    above = folder_of(source).path
    return HubSource(source.repo, source.revision, f"{above}/{name}" if above else name)


def wish_in(source: HubSource, query: Query) -> Wish:
    """What is wanted of the folder that is listed for `source`."""
    return query.wish if source.folder else msgspec.structs.replace(query.wish, path=source.path)


def place_of(source: HubSource) -> Place:
    """How to speak about the folder that is listed for `source`."""

    def write(selection: Selection) -> str:
        if selection.main or not selection.label:
            return str(in_folder(source, selection.main)).rstrip("/")
        return str(msgspec.structs.replace(folder_of(source), quant=selection.label))

    return Place(str(source), "url", write)
