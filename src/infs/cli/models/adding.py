"""Adds models to a configuration file, of which everything else stays as it is."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infs.cli.failures import Failed, WrongCall
from infs.cli.starting import model_key, toml
from infs.config import parse_model


class TomlFile:
    """The configuration file at `path`, which need not be there yet.

    Raises:
        WrongCall: it is not TOML.
        Failed: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() != ".toml":
            raise WrongCall(f"{path}: only a TOML file can be added to, such as infs.toml.")
        try:
            with path.open(encoding="utf-8", newline="") as file:
                self._text = file.read()
        except FileNotFoundError:
            self._text = ""
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(f"{path} cannot be read: {error}.") from error
        self._data = self._parsed(self._text)

    def check_free(self, names: Iterable[str]) -> None:
        """Raise unless all of `names` are free, may be ids, and can be added."""
        for name in names:
            if name in self._models():
                raise WrongCall(f"{self.path} has a model {name!r} already; give another id: --add ID.")
            parse_model(name, {}, "--add")
            self._with(name, {})

    def add(self, name: str, settings: Mapping[str, str]) -> None:
        """Append the model called `name`.

        Raises:
            Failed: the file cannot be written.
        """
        added = self._with(name, settings)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(added)
        except OSError as error:
            raise Failed(f"{self.path} cannot be written: {error.strerror or error}.") from error
        self._text += added
        self._data = self._parsed(self._text)

    def _with(self, name: str, settings: Mapping[str, str]) -> str:
        """What has to be appended, which must change nothing of what the file says now."""
        end = "\r\n" if "\r\n" in self._text else "\n"
        gap = "" if not self._text else "\n" if self._text.endswith("\n") else "\n\n"
        added = (gap + table_of(name, settings)).replace("\n", end)
        wanted = {**self._data, "models": {**self._models(), name: dict(settings)}}
        try:
            same = tomllib.loads(self._text + added) == wanted
        except tomllib.TOMLDecodeError:
            same = False
        if not same:
            raise WrongCall(f"{self.path}: its models are written in a way that nothing can be appended to.")
        return added

    def _models(self) -> dict[str, Any]:
        models = self._data.get("models", {})
        return models if isinstance(models, dict) else {}

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise WrongCall(f"{self.path} is not valid TOML: {error}.") from error


def table_of(name: str, settings: Mapping[str, str]) -> str:
    """The lines of a model in a configuration file."""
    return "".join([f"[models.{model_key(name)}]\n", *(f"{key} = {toml(value)}\n" for key, value in settings.items())])
