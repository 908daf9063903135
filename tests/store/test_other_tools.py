"""Models that Ollama and LM Studio have fetched: used in place, and never written to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from infs.config import ModelConfig
from infs.errors import ConfigError, SourceError, SourceNotFound
from infs.store import Fetched
from infs.store.lmstudio import LmStudio
from infs.store.ollama import Ollama
from infs.store.source import OllamaSource
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import below, overwrite

LAYER = "application/vnd.ollama.image."


def put_ollama(root: Path, name: str, tag: str, layers: dict[str, bytes], *, leave_out: str = "") -> dict[str, Path]:
    """A model of Ollama below `root`; returns where its layers are."""
    paths, said = {}, []
    for kind, content in layers.items():
        digest = hashlib.sha256(content).hexdigest()
        paths[kind] = root / "blobs" / f"sha256-{digest}"
        said.append({"mediaType": f"{LAYER}{kind}", "digest": f"sha256:{digest}", "size": len(content)})
        if kind != leave_out:
            overwrite(paths[kind], content)
    manifest = {"schemaVersion": 2, "config": {"digest": "sha256:x"}, "layers": said}
    overwrite(root / "manifests" / name / tag, json.dumps(manifest).encode())
    return paths


def put_lmstudio(root: Path, *names: str) -> None:
    for name in names:
        overwrite(root / name, b"GGUF")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("place", ["home", "OLLAMA_MODELS"])
async def test_a_model_of_ollama_is_used_in_place(
    make_store: MakeStore, events: list[Progress], home: Path, tmp_path: Path, place: str
) -> None:
    own = tmp_path / "elsewhere"
    root = home / ".ollama" / "models" if place == "home" else own
    layers = {"model": b"GGUF one", "template": b"{{ .Prompt }}", "license": b"MIT"}
    paths = put_ollama(root, "registry.ollama.ai/library/small", "latest", layers)
    other = put_ollama(root, "registry.ollama.ai/user/vision", "q8", {"projector": b"GGUF p", "model": b"GGUF v"})
    before = {path: path.stat().st_mtime_ns for path in below(root)}
    store = make_store(environ={} if place == "home" else {"OLLAMA_MODELS": str(own)}).store
    small, vision = ModelConfig(url="ollama:small"), ModelConfig(url="ollama:user/vision:q8")
    assert await store.fetch("m", small, events.append) == Fetched(path=paths["model"], engine="llama-cpp")
    extras = {"options.projector": other["projector"]}
    assert await store.fetch("m", vision, events.append) == Fetched(
        path=other["model"], engine="llama-cpp", extras=extras
    )
    assert (store.find(small), store.engine_of(small)) == (paths["model"], "llama-cpp")
    assert {path: path.stat().st_mtime_ns for path in below(root)} == before


async def test_a_projector_of_ones_own_beside_a_model_of_ollama(
    make_store: MakeStore, events: list[Progress], home: Path
) -> None:
    """What the configuration names counts; a path is the engine's business."""
    root = home / ".ollama" / "models"
    put_ollama(root, "registry.ollama.ai/library/v", "latest", {"model": b"GGUF v", "projector": b"GGUF p"})
    model = ModelConfig(url="ollama:v", options={"projector": "/own.gguf"})
    fetched = await make_store().store.fetch("m", model, events.append)
    assert fetched is not None
    assert fetched.extras == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "ollama:none",
            r"ollama:none:latest is not in .*models\. There are: ollama:small:1b\. .*`ollama pull none:latest`",
        ),
        ("ollama:half", "There are: ollama:small:1b"),
        ("ollama:broken", "There are: ollama:small:1b"),
        ("ollama:evil", "There are: ollama:small:1b"),
    ],
)
async def test_what_ollama_has_not(
    make_store: MakeStore, events: list[Progress], home: Path, url: str, said: str
) -> None:
    root = home / ".ollama" / "models"
    library = "registry.ollama.ai/library"
    put_ollama(root, f"{library}/small", "1b", {"model": b"GGUF"})
    put_ollama(root, f"{library}/half", "latest", {"model": b"GGUF half"}, leave_out="model")
    overwrite(root / "manifests" / library / "broken" / "latest", b'{"layers": [')
    evil = {"layers": [{"mediaType": f"{LAYER}model", "digest": "sha256:../../../../etc/passwd"}]}
    overwrite(root / "manifests" / library / "evil" / "latest", json.dumps(evil).encode())
    with pytest.raises(SourceNotFound, match=said):
        await make_store().fetch("m", ModelConfig(url=url), events.append)
    assert make_store().find(ModelConfig(url=url)) is None


def test_texts_that_ollama_has_of_a_model(tmp_path: Path) -> None:
    layers = {"model": b"GGUF", "template": "{{ größe }}".encode(), "params": b"{}"}
    put_ollama(tmp_path, "registry.ollama.ai/library/small", "1b", layers)
    ollama = Ollama({"OLLAMA_MODELS": str(tmp_path)})
    model = ollama.find(OllamaSource("registry.ollama.ai/library/small", "1b"))
    assert model is not None
    assert [model.text(kind) for kind in ("template", "params", "license")] == ["{{ größe }}", "{}", None]
    assert model.bytes == sum(len(content) for content in layers.values())
    assert list(Ollama({"OLLAMA_MODELS": str(tmp_path / "none")}).models()) == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("lmstudio:pub/one", "pub/one/m-Q4_K_M.gguf"),
        ("lmstudio:pub/two:q8_0", "pub/two/m-Q8_0.gguf"),
        ("lmstudio:pub/two/m-Q4_K_M.gguf", "pub/two/m-Q4_K_M.gguf"),
        ("lmstudio:old/three", "old/three/m.gguf"),
        ("lmstudio:moved/four", "moved/four/m.gguf"),
    ],
)
async def test_a_model_of_lm_studio_is_used_in_place(
    make_store: MakeStore, events: list[Progress], home: Path, tmp_path: Path, url: str, name: str
) -> None:
    put_lmstudio(home / ".lmstudio" / "models", "pub/one/m-Q4_K_M.gguf", "pub/one/mmproj-F16.gguf")
    put_lmstudio(home / ".lmstudio" / "models", "pub/two/m-Q4_K_M.gguf", "pub/two/m-Q8_0.gguf")
    put_lmstudio(home / ".cache" / "lm-studio" / "models", "old/three/m.gguf")
    put_lmstudio(tmp_path / "moved", "moved/four/m.gguf")
    overwrite(home / ".lmstudio" / "settings.json", json.dumps({"downloadsFolder": str(tmp_path / "moved")}).encode())
    model = ModelConfig(url=url)
    path = await make_store().fetch("m", model, events.append)
    assert path is not None
    assert path.as_posix().endswith(name)
    assert make_store().find(model) == path


async def test_a_projector_beside_a_model_of_lm_studio(
    make_store: MakeStore, events: list[Progress], home: Path
) -> None:
    root = home / ".lmstudio" / "models"
    put_lmstudio(root, "pub/one/m.gguf", "pub/one/mmproj-F16.gguf")
    for url in ("lmstudio:pub/one", "lmstudio:pub/one/m.gguf"):
        model = ModelConfig(url=url, options={"projector": "auto"})
        fetched = await make_store().store.fetch("m", model, events.append)
        assert fetched is not None
        assert fetched.extras == {"options.projector": root / "pub" / "one" / "mmproj-F16.gguf"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("lmstudio:pub/none", r"lmstudio:pub/none is not in .*\.lmstudio.*lm-studio.* There are: lmstudio:pub/two\."),
        ("lmstudio:pub/two", r"2 models; write one of these as file"),
        ("lmstudio:pub/two:F16", r"no model with 'F16' in its name"),
        ("lmstudio:pub/two/x.gguf", "There are: lmstudio:pub/two"),
    ],
)
async def test_what_lm_studio_has_not(
    make_store: MakeStore, events: list[Progress], home: Path, url: str, said: str
) -> None:
    put_lmstudio(home / ".lmstudio" / "models", "pub/two/m-Q4_K_M.gguf", "pub/two/m-Q8_0.gguf")
    overwrite(home / ".lmstudio" / "settings.json", b"{")
    with pytest.raises(SourceError, match=said):
        await make_store().fetch("m", ModelConfig(url=url), events.append)


async def test_no_other_tool_is_there(make_store: MakeStore, events: list[Progress], tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="There are no models of Ollama"):
        await make_store().fetch("m", ModelConfig(url="ollama:x"), events.append)
    with pytest.raises(SourceNotFound, match="There are no models of LM Studio"):
        await make_store().fetch("m", ModelConfig(url="lmstudio:x/y"), events.append)
    put_ollama(tmp_path / "home/.ollama/models", "registry.ollama.ai/library/x", "latest", {"model": b"GGUF"})
    with pytest.raises(ConfigError, match="no meaning"):
        await make_store().fetch("m", ModelConfig(url="ollama:x", allow_patterns=["*"]), events.append)
    assert [str(each) for each, _ in LmStudio({"HOME": str(tmp_path / "none")}).models()] == []
