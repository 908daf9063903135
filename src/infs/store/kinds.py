"""The kinds of sources that a model's `url` or `file` may name. Pure data."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class FileSource(Struct, frozen=True):
    """A file or folder on this machine; `path` is absolute."""

    path: Path


class UrlSource(Struct, frozen=True):
    """A file on any web server."""

    url: str


class HubSource(Struct, frozen=True):
    """A file of a model repository on the hub, or a folder (`folder`) in which a model has to be chosen.

    `path` has forward slashes and is free of ``..``; the repository itself is the folder ``""``. `quant` is the
    quantisation that is wanted of a folder, as in ``Q4_K_M``; empty for any.
    """

    repo: str
    revision: str
    path: str
    folder: bool = False
    quant: str = ""

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        path = f"/{self.path}" if self.path else ""
        return f"hf:{self.repo}{at}{path}" + (f":{self.quant}" if self.quant else "")


class OllamaSource(Struct, frozen=True):
    """A model that Ollama has fetched: `name` is ``host/user/name``."""

    name: str
    tag: str = "latest"

    def __str__(self) -> str:
        short = self.name.removeprefix(f"{OLLAMA_HOST}/").removeprefix("library/")
        return f"ollama:{short}:{self.tag}"


class LmStudioSource(Struct, frozen=True):
    """A model that LM Studio has fetched: `repo` is ``publisher/name``, `path` a file in there, or empty for any."""

    repo: str
    path: str = ""
    quant: str = ""

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        return f"lmstudio:{self.repo}{path}" + (f":{self.quant}" if self.quant else "")


OLLAMA_HOST = "registry.ollama.ai"
Remote = UrlSource | HubSource
Source = FileSource | UrlSource | HubSource | OllamaSource | LmStudioSource


def is_safe_path(path: str) -> bool:
    """Whether `path` (with forward slashes) stays below the folder that it is appended to, on any system."""
    if "\\" in path or CONTROL.search(path):
        return False
    return all(part.strip() not in ("", ".", "..") for part in path.split("/"))
