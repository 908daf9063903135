"""The models that Ollama has fetched, used in place and never changed.

manifests/<host>/<user>/<name>/<tag>    what a model consists of, as JSON
blobs/sha256-<digest>                   content: GGUF files, templates, licences

"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from infs.errors import SourceNotFound
from infs.store.folders import home_of, size_of
from infs.store.source import OllamaSource

MOST_LISTED = 20
_LARGEST_MANIFEST = 1 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LAYER = "application/vnd.ollama.image."


class OllamaModel(Struct, frozen=True, kw_only=True):
    """A model, and where its layers are.

    Attributes:
        manifest: the file that names them.
        layers: the files by what they are (``model``, ``projector``, ``template``, ``license``, ``params``, ...), the
            first of each kind; they may be missing.
        bytes: of all layers, as the manifest says.
    """

    source: OllamaSource
    manifest: Path
    layers: dict[str, Path]
    bytes: int

    @property
    def complete(self) -> bool:
        """Whether the model itself, and a projector that belongs to it, are there."""
        needed = [path for kind, path in self.layers.items() if kind in ("model", "projector")]
        return "model" in self.layers and all(path.is_file() for path in needed)

    def text(self, kind: str, most: int = 1 << 20) -> str | None:
        """A layer that is a text, such as ``template`` or ``license``; at most `most` bytes of it."""
        path = self.layers.get(kind)
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(most).decode("utf-8", "replace")


class Ollama:
    """What Ollama keeps on this machine: in ``OLLAMA_MODELS``, else where it does by default."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        own = environ.get("OLLAMA_MODELS")
        self.roots = [Path(own).expanduser()] if own else _usual_roots(environ)

    def find(self, source: OllamaSource) -> OllamaModel | None:
        """The model called so, if it is there and all there."""
        for root in self.roots:
            manifest = root.joinpath("manifests", *source.name.split("/"), source.tag)
            found = _read(root, manifest, source)
            if found is not None and found.complete:
                return found
        return None

    def models(self) -> Iterator[OllamaModel]:
        """All that there are, also those that are not complete."""
        for root in self.roots:
            for manifest in sorted((root / "manifests").glob("*/*/*/*")):
                host, user, name, tag = manifest.parts[-4:]
                found = _read(root, manifest, OllamaSource(f"{host}/{user}/{name}", tag))
                if found is not None:
                    yield found

    def missing(self, source: OllamaSource) -> SourceNotFound:
        """The error that says that `source` is not there, and what is."""
        names = [str(model.source) for model in self.models() if model.complete]
        there = f"There are: {', '.join(names[:MOST_LISTED])}" if names else "There are no models of Ollama"
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        looked = ", ".join(str(root) for root in self.roots)
        name = str(source).removeprefix("ollama:")
        return SourceNotFound(
            f"{source} is not in {looked}. {there}{more}. Fetch it with `ollama pull {name}`, or set OLLAMA_MODELS."
        )


class _Layer(Struct):
    media: str = msgspec.field(name="mediaType")
    digest: str
    size: int = 0


class _Manifest(Struct):
    layers: list[_Layer]


def _usual_roots(environ: Mapping[str, str]) -> list[Path]:
    """The user's own models, and those of Ollama as a service of a Linux system."""
    own = home_of(environ) / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")
    return [own, service] if service.is_dir() else [own]


def _read(root: Path, manifest: Path, source: OllamaSource) -> OllamaModel | None:
    """What `manifest` says; ``None`` when it is not there, or none."""
    try:
        with manifest.open("rb") as file:
            data = msgspec.json.decode(file.read(_LARGEST_MANIFEST), type=_Manifest)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    layers: dict[str, Path] = {}
    for layer in data.layers:
        digest = _DIGEST.fullmatch(layer.digest)
        if digest is not None and layer.media.startswith(_LAYER):
            layers.setdefault(layer.media.removeprefix(_LAYER), root / "blobs" / f"sha256-{digest[1]}")
    return OllamaModel(
        source=source, manifest=manifest, layers=layers, bytes=sum(size_of(path) for path in layers.values())
    )
