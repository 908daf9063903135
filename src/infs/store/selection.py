"""Which of the files that there are make a model: asked of the rule of each engine. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from infs.config import ModelConfig
from infs.errors import SourceError, SourceNotFound

BESIDE = "auto"  # stands for the file that lies beside the model, in the place of its name
MOST_LISTED = 10


class RepoFile(Struct, frozen=True):
    """A file of a repository or folder: its path there, with forward slashes, and its bytes where they are known."""

    path: str
    size: int | None = None


class Wish(Struct, frozen=True):
    """What the configuration says about the files.

    Attributes:
        quant: the quantisation, as in ``Q4_K_M``; empty for any.
        path: the one file that is meant (of a split model: any of its parts); empty for any.
        allow, ignore: patterns of the files that count, and of those that do not; without `allow`, all count.
    """

    quant: str = ""
    path: str = ""
    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()


class Selection(Struct, frozen=True, kw_only=True):
    """The files of one model.

    Attributes:
        main: what its engine is given: a file, or ``""`` for the folder.
        files: all that it needs, `main` first where that is a file.
        label: its quantisation, where the names tell it.
        missing: what it needs and is not there.
        beside: files that it does not need and can make use of, by the key of the configuration that names them.
    """

    main: str
    files: tuple[str, ...]
    label: str = ""
    missing: tuple[str, ...] = ()
    beside: dict[str, str] = {}

    @property
    def all_files(self) -> list[str]:
        """`files`, and those beside."""
        return list(dict.fromkeys([*self.files, *self.beside.values()]))


class FileRule(Protocol):
    """What the models of an engine consist of."""

    @property
    def format(self) -> str:
        """What such a model is called, for messages: ``"GGUF model"``."""

    @property
    def mark(self) -> str:
        """The kind of file without which there is none: ``".gguf file"``."""

    def select(self, files: Sequence[RepoFile], wish: Wish) -> list[Selection]:
        """The models in `files` that fit to `wish.quant` and `wish.path`; empty when there are none."""

    def recognises(self, beginning: bytes) -> bool:
        """Whether a file that begins like this (64 bytes) is such a model by itself, whatever it is called."""

    def extras(self, config: ModelConfig) -> Mapping[str, str]:
        """Files beside the model's own that `config` names, by their keys, as in ``options.projector``."""


class Chosen(Struct, frozen=True):
    """A model, and the engine that it is for."""

    engine: str
    selection: Selection


class Place(Struct, frozen=True):
    """Where files were looked for: its name for messages, the key that names it, and how one writes a model of it."""

    name: str
    key: str
    write: Callable[[Selection], str]


def counted(files: Iterable[RepoFile], wish: Wish) -> list[RepoFile]:
    """Those of `files` that the patterns let through."""
    return [
        file
        for file in files
        if (wish.allow is None or _fits(file.path, wish.allow)) and not _fits(file.path, wish.ignore)
    ]


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, f"{each}*" if each.endswith("/") else each) for each in patterns)


def choose_engine(
    rules: Mapping[str, FileRule],
    files: Iterable[RepoFile],
    wish: Wish,
    place: Place,
    *,
    engine: str | None = None,
    known: Sequence[FileRule] = (),
) -> Chosen:
    """The one model in `files`, and its engine: the first in the order of `rules` that can load something there.

    Args:
        rules: by the names of engines. An `engine` without a rule gets all files as they are.
        engine: the one that is configured.
        known: what else models may consist of, to say so where no engine can load them.

    Raises:
        SourceNotFound: there is no model, or one that is not complete.
        SourceError: there are several.
    """
    there = counted(files, wish)
    if engine is not None and engine not in rules:
        return Chosen(engine, _everything(there, wish, place))
    asked = {engine: rules[engine]} if engine is not None else rules
    for name, rule in asked.items():
        found = rule.select(there, wish)
        if found:
            return Chosen(name, _only(found, place))
    raise _nothing(there, wish, place, asked, [*rules.values(), *known])


def no_engine(name: str, rules: Mapping[str, FileRule]) -> SourceNotFound:
    """The error for a single file that no engine claims, by its name or content."""
    return SourceNotFound(
        f"{name} is no model of an engine that is known here ({_engines(rules)}): correct the name, or set `engine` "
        f"to the one that loads it."
    )


def _everything(files: Sequence[RepoFile], wish: Wish, place: Place) -> Selection:
    """All files, for an engine of which it is not known what it needs."""
    if wish.quant:
        raise SourceError(f"{place.name} names a quantisation, and its engine has no rule for them: name the file.")
    if not files:
        raise SourceNotFound(f"{place.name} holds no file that counts: check the name, and the patterns.")
    return Selection(main="", files=tuple(file.path for file in files))


def _only(found: list[Selection], place: Place) -> Selection:
    if len(found) > 1:
        listed = _listed([place.write(each) for each in found])
        raise SourceError(f"{place.name} holds {len(found)} models; write one of these as {place.key}:\n{listed}")
    missing = found[0].missing
    if missing:
        more = f" (and {len(missing) - 3} more)" if len(missing) > 3 else ""
        raise SourceNotFound(f"{place.name} is not complete; what is missing: {', '.join(missing[:3])}{more}.")
    return found[0]


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return "\n".join(f"  {line}" for line in lines[:MOST_LISTED] + more)


def _nothing(
    files: list[RepoFile], wish: Wish, place: Place, asked: Mapping[str, FileRule], known: Sequence[FileRule]
) -> SourceNotFound:
    without = Wish(allow=wish.allow, ignore=wish.ignore)
    models = [each for rule in asked.values() for each in rule.select(files, without)]
    if models:
        what = f"with {wish.quant!r} in its name" if wish.quant else f"called {wish.path!r}"
        listed = _listed([place.write(each) for each in models])
        return SourceNotFound(f"{place.name}: there is no model {what}. There are:\n{listed}")
    others = dict.fromkeys(rule.format for rule in known if rule.select(files, without))
    if others:
        what = f"{place.name} holds a {' and a '.join(others)}"
        return SourceNotFound(f"{what}; no engine for that is chosen or known here. Known are: {_engines(asked)}.")
    marks = dict.fromkeys(rule.mark for rule in asked.values())
    wanted = " and ".join(f"no {mark}" for mark in marks) or "nothing that an engine known here loads"
    return SourceNotFound(f"{place.name} holds {wanted}: name a repository or folder that does, or the file itself.")


def _engines(rules: Mapping[str, FileRule]) -> str:
    return ", ".join(f"{name} ({rule.format})" for name, rule in rules.items()) or "none"
