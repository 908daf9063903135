"""What there is on this machine, and which models of the configuration use it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from infs.cli.model_checks import place_of
from infs.cli.settings import CommandLine, read_settings
from infs.config import Config, ModelConfig, find_file
from infs.demo import MODEL_ID
from infs.engines.registry import file_rules
from infs.errors import InfsError, SourceError
from infs.store import Store
from infs.store.catalogue import Entry
from infs.store.extras import wanted_extras
from infs.store.folders import list_folder
from infs.store.names import cache_name, part_names
from infs.store.selection import BESIDE, FileRule, Wish
from infs.store.source import HubSource, Source, UrlSource, find_source, is_url, parse_file, public_url

PARTIAL = (".part", ".incomplete", ".incomplete.json")


class Configured(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the configuration.

    Attributes:
        source: where its files come from, for people; empty for one that has none.
        path: what its engine is given; ``None`` while that is not here.
        files: all files of it that are here, those beside the model included.
        problem: why nothing can be said of it; empty where something can.
    """

    name: str
    config: ModelConfig
    source: str = ""
    origin: Source | None = None
    engine: str | None = None
    path: Path | None = None
    files: list[Path] = []
    problem: str = ""

    @property
    def there(self) -> bool:
        """Whether it can be loaded without a download."""
        return not self.problem and (self.path is not None or not self.source)


class Here:
    """The configuration, the store, what lies in the caches, and what belongs together of all that.

    Attributes:
        explicit: whether somebody has configured something; else there is only the demo model.
        environ: what the configuration was read with.
        directory: where it was looked for.
    """

    def __init__(self, line: CommandLine, environ: Mapping[str, str], directory: Path) -> None:
        self.environ = environ
        self.directory = directory
        self.config_file = line.config_file or (Path(named) if (named := environ.get("INFS_CONFIG")) else None)
        self.config: Config = read_settings(line, environ, directory)
        self.explicit = find_file(self.config_file, directory) is not None or set(self.config.models) != {MODEL_ID}
        self.rules = file_rules()
        self.store = Store(self.config.cache_path, hub=self.config.hub, environ=environ, rules=self.rules)
        # Judges a repository by what is in the cache of it, where it was never looked at, or by another tool.
        offline = msgspec.structs.replace(self.config.hub, offline=True)
        self._offline = Store(self.config.cache_path, hub=offline, environ=environ, rules=self.rules)
        self.entries = self.store.catalogue()
        self.models = {name: self._configured(name, model) for name, model in self.config.models.items()}
        used = {name: {_real(path) for path in self._uses(model)} for name, model in self.models.items()}
        self._users = {id(entry): list(self._users_of(entry, used)) for entry in self.entries}

    # --- the configuration ---

    def _configured(self, name: str, config: ModelConfig) -> Configured:
        """What can be said of a model; a mistake in one hides no other."""
        try:
            origin = find_source(config, self.store.cache, key=f"models.{name}")
            path, engine = self.find(config), self._offline.engine_of(config)
        except (InfsError, OSError) as error:
            return Configured(name=name, config=config, source=config.url or config.file or "", problem=str(error))
        return Configured(
            name=name,
            config=config,
            source="" if origin is None else str(config.file) if config.file is not None else place_of(origin),
            origin=origin,
            engine=engine,
            path=path,
            files=[] if path is None else [*self.files_of(path), *self.extras_of(config, engine, path).values()],
        )

    def find(self, config: ModelConfig) -> Path | None:
        """Where the files of a model are, if all that one can tell here says that they are.

        Raises:
            ConfigError: the source cannot be understood.
        """
        return self._offline.find(config)

    def extras_of(self, config: ModelConfig, engine: str | None, path: Path) -> dict[str, Path]:
        """The files beside the model at `path` that `config` names and that are here, by their keys."""
        rule = self.rules.get(engine or "")
        found: dict[str, Path] = {}
        for key, text in wanted_extras(rule, config).items():
            with contextlib.suppress(InfsError, OSError):
                there = _beside(rule, path).get(key) if text == BESIDE else self.find(ModelConfig(url=text))
                if there is not None:
                    found[key] = there
        return found

    def files_of(self, path: Path) -> list[Path]:
        """The files of the model at `path`: those of its entry in the catalogue, or all parts, or all of a folder."""
        entry = self.entry_at(path)
        if entry is not None:
            return [file.path for file in entry.files]
        if path.is_dir():
            with contextlib.suppress(SourceError):
                return [path / file.path for file in list_folder(path)]
            return []
        return [part for name in part_names(path.name) if (part := path.with_name(name)).is_file()]

    def _uses(self, model: Configured) -> Iterator[Path]:
        if model.path is not None:
            yield model.path
        yield from model.files
        rule = self.rules.get(model.engine or "")
        for text in {} if rule is None else rule.extras(model.config).values():
            if text != BESIDE and not is_url(text):
                with contextlib.suppress(InfsError):
                    yield parse_file(text, self.store.cache).path

    # --- both ---

    def users(self, entry: Entry) -> list[str]:
        """The ids of the configured models that use something of `entry`, or will go on with it."""
        return self._users[id(entry)]

    def _users_of(self, entry: Entry, used: Mapping[str, set[Path]]) -> Iterator[str]:
        paths = {_real(entry.path)}
        for file in entry.files:
            paths |= {_real(file.path), file.content}
        for name, model in self.models.items():
            if paths & used[name] or (not entry.complete and self._continues(model, entry)):
                yield name

    def _continues(self, model: Configured, entry: Entry) -> bool:
        """Whether the next download of `model` goes on with what is there of `entry`."""
        if model.path is not None:
            return False
        if isinstance(model.origin, HubSource):
            return entry.kind == "hub" and entry.repository == model.origin.repo
        if isinstance(model.origin, UrlSource):
            folder = self.store.cache / "downloads" / cache_name(model.origin.url).parent
            return entry.kind == "download" and entry.path.parent == folder
        return False

    def entry_at(self, path: Path) -> Entry | None:
        """The entry that an engine is given `path` for."""
        return next((entry for entry in self.entries if entry.format and _real(entry.path) == _real(path)), None)

    def matching(self, pattern: str) -> list[Entry]:
        """The entries that `pattern` names: by a reference, a repository, or the id of a model that uses them."""
        patterns = {pattern, public_url(pattern)} if is_web(pattern) else {pattern}
        return [
            entry
            for entry in self.entries
            if any(fits([*names_of(entry), *self.users(entry)], each) for each in patterns)
        ]

    def configured(self, pattern: str) -> list[Configured]:
        """The models of the configuration that `pattern` names."""
        return [
            model for model in self.models.values() if fits([model.name, model.source, model.config.url or ""], pattern)
        ]


def names_of(entry: Entry) -> list[str]:
    """All that a user may call `entry`."""
    scheme = {"hub": "hf:", "lmstudio": "lmstudio:"}.get(entry.kind, "")
    names = [entry.reference, entry.reference.removeprefix(scheme)]
    if scheme:
        names += [entry.repository, f"{scheme}{entry.repository}"]
        if entry.label:
            names += [f"{name}:{entry.label}" for name in names[-2:]]
    return names


def fits(names: Iterable[str], pattern: str) -> bool:
    """Whether `pattern` is one of `names`, or a glob pattern for one; capitals make no difference."""
    wanted = pattern.casefold()
    return any(name.casefold() == wanted or fnmatch.fnmatchcase(name.casefold(), wanted) for name in names if name)


def is_web(text: str) -> bool:
    """Whether `text` is the URL of a web server, which may hold what no list shows."""
    return text.lower().startswith(("http://", "https://"))


def is_partial(name: str) -> bool:
    """Whether a file of that name is a download that has not ended."""
    return name.endswith(PARTIAL)


def _real(path: Path) -> Path:
    """`path` without links in its folders: it may be written in several ways, and be a link itself."""
    return Path(os.path.realpath(path.parent)) / path.name


def _beside(rule: FileRule | None, path: Path) -> dict[str, Path]:
    """What lies beside the model at `path`: in its folder, or anywhere in its snapshot of the hub."""
    above = [folder for folder in path.parents if folder.parent.name == "snapshots"]
    root = above[0] if above else path.parent
    wish = Wish(path=path.relative_to(root).as_posix())
    found = [] if rule is None else rule.select(list_folder(root, deep=bool(above)), wish)
    return {key: root / name for each in found for key, name in each.beside.items()}
