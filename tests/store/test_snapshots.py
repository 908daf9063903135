"""Models chosen in repositories: by quantisation, as snapshots of many files, with files beside them, and offline."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import huggingface_hub
import msgspec
import pytest

from infs.config import ModelConfig
from infs.errors import ConfigError, SourceError, SourceNotFound, StorageFull
from infs.store import Fetched
from infs.store.rules import FORMATS, GGUF, ONNX, TRANSFORMERS
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import COMMIT, HubServer, Server, below

REPO = "org/repo"
ALL = dict(zip(("llama-cpp", "transformers", "onnx"), FORMATS, strict=True))
SNAPSHOT = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one" * 100,
    "model-00002-of-00002.safetensors": b"two" * 100,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.json": b'{"a": 1}',
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"read me",
    "pytorch_model.bin": b"old",
}
WANTED = sorted(set(SNAPSHOT) - {"README.md", "pytorch_model.bin"})
MODEL = ModelConfig(url="hf:org/repo")


def put(hub: HubServer, files: dict[str, bytes], repo: str = REPO) -> None:
    for name, content in files.items():
        hub.put(repo, name, content)


def names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in below(folder)]


# --- by quantisation ---


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("hf:org/repo:Q4_K_M", b"four"),
        ("hf:org/repo@v1:q8_0", b"eight"),
        ("hf:org/repo/big:BF16", b"first"),
        ("hf:org/repo:BF16", b"first"),
    ],
)
async def test_a_file_is_named_by_its_quantisation(
    hub: HubServer, make_store: MakeStore, events: list[Progress], url: str, content: bytes
) -> None:
    put(hub, {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight", "mmproj-BF16.gguf": b"projector"})
    put(hub, {"big/m-BF16-00001-of-00002.gguf": b"first", "big/m-BF16-00002-of-00002.gguf": b"second"})
    model = ModelConfig(url=url)
    store = make_store(hub.url)
    fetched = await store.store.fetch("m", model, events.append)
    assert fetched is not None
    assert (fetched.path.read_bytes(), fetched.engine, fetched.extras) == (content, "llama-cpp", {})
    assert not below(fetched.path.parents[0], "mmproj*")
    asked = len(hub.requests)
    assert await make_store(hub.url).fetch("m", model, events.append) == fetched.path
    assert make_store(hub.url).find(model) == fetched.path
    assert len(hub.requests) == asked
    offline = make_store(hub.url, offline=True)
    assert offline.find(model) == fetched.path
    assert make_store(hub.url).store.engine_of(model) == "llama-cpp"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf:org/repo:Q5_K_M", r"no model with 'Q5_K_M' in its name. There are:\n  hf:org/repo/a-Q4_0.gguf\n"),
        ("hf:org/repo@v1:Q4_0", r"holds 2 models; .*:\n  hf:org/repo@v1/a-Q4_0.gguf\n  hf:org/repo@v1/b-Q4_0.gguf"),
        ("hf:org/half", r"not complete; what is missing: m-00002-of-00002.gguf"),
    ],
)
async def test_quantisations_that_are_not_one_file(
    hub: HubServer, make_store: MakeStore, events: list[Progress], url: str, said: str
) -> None:
    put(hub, {"a-Q4_0.gguf": b"a", "b-Q4_0.gguf": b"b"})
    put(hub, {"m-00001-of-00002.gguf": b"a"}, "org/half")
    with pytest.raises(SourceError, match=said):
        await make_store(hub.url).fetch("m", ModelConfig(url=url), events.append)


async def test_patterns_narrow_what_there_is(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    put(hub, {"a-Q4_0.gguf": b"a", "b-Q4_0.gguf": b"b"})
    for patterns, content in (({"allow_patterns": ["a-*"]}, b"a"), ({"ignore_patterns": ["a-*"]}, b"b")):
        model = msgspec.structs.replace(MODEL, **patterns)
        path = await make_store(hub.url).fetch("m", model, events.append)
        assert path is not None
        assert path.read_bytes() == content
        assert make_store(hub.url).find(model) == path


# --- snapshots ---


async def test_a_snapshot_is_a_folder_that_the_hubs_library_reads(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    put(hub, SNAPSHOT)
    store = make_store(hub.url, rules=ALL)
    fetched = await store.store.fetch("m", MODEL, events.append)
    folder = cache / "hub" / "models--org--repo" / "snapshots" / COMMIT
    assert fetched == Fetched(path=folder, engine="transformers")
    assert names_in(folder) == WANTED
    assert all((folder / name).read_bytes() == SNAPSHOT[name] for name in WANTED)
    assert "config.json (2 of 6)" in {event.detail.partition(":")[0] for event in events}
    found = huggingface_hub.snapshot_download(REPO, cache_dir=cache / "hub", local_files_only=True)
    assert Path(found) == folder
    info = huggingface_hub.scan_cache_dir(cache / "hub")
    assert (info.warnings, [revision.refs for repo in info.repos for revision in repo.revisions]) == ([], [{"main"}])
    asked = len(hub.requests)
    assert make_store(hub.url, rules=ALL).find(MODEL) == folder
    (folder / "tokenizer.json").unlink()
    assert make_store(hub.url, rules=ALL).find(MODEL) is None
    assert await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append) == folder
    assert len(hub.cdn.requests) == len(WANTED)
    assert len(hub.requests) > asked


async def test_a_snapshot_of_the_hubs_library_is_used(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    put(hub, SNAPSHOT)
    for name in WANTED:
        huggingface_hub.hf_hub_download(REPO, name, cache_dir=cache / "hub", endpoint=hub.url, token=False)
    loaded = len(hub.cdn.requests)
    path = await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append)
    assert path == cache / "hub" / "models--org--repo" / "snapshots" / COMMIT
    assert len(hub.cdn.requests) == loaded


async def test_patterns_say_what_a_snapshot_has(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    put(hub, SNAPSHOT)
    model = msgspec.structs.replace(MODEL, allow_patterns=["*"], ignore_patterns=["*.bin"])
    path = await make_store(hub.url, rules=ALL).fetch("m", model, events.append)
    assert path is not None
    assert names_in(path) == sorted(set(SNAPSHOT) - {"pytorch_model.bin"})


@pytest.mark.parametrize(("url", "left_out"), [("hf:org/onnx", "model_q4.onnx"), ("hf:org/onnx:q4", "model.onnx")])
async def test_an_onnx_folder(
    hub: HubServer, make_store: MakeStore, events: list[Progress], url: str, left_out: str
) -> None:
    names = ["config.json", "onnx/model.onnx", "onnx/model_q4.onnx", "tokenizer.json"]
    put(hub, {name: name.encode() for name in names}, "org/onnx")
    fetched = await make_store(hub.url, rules=ALL).store.fetch("m", ModelConfig(url=url), events.append)
    assert fetched is not None
    assert fetched.engine == "onnx"
    assert names_in(fetched.path) == [name for name in names if name != f"onnx/{left_out}"]


async def test_an_engine_of_ones_own_gets_everything(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    put(hub, SNAPSHOT)
    model = msgspec.structs.replace(MODEL, engine="own")
    fetched = await make_store(hub.url).store.fetch("m", model, events.append)
    assert fetched is not None
    assert (fetched.engine, names_in(fetched.path)) == ("own", sorted(SNAPSHOT))


async def test_files_that_no_engine_here_can_load(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    put(hub, SNAPSHOT)
    with pytest.raises(SourceNotFound, match=r"holds a Transformers model \(safetensors\); no engine .* llama-cpp"):
        await make_store(hub.url).fetch("m", MODEL, events.append)
    alone = ModelConfig(url=f"{hub.cdn.url}/model.safetensors")
    with pytest.raises(SourceNotFound, match="is no model of an engine"):
        await make_store(hub.url).fetch("m", alone, events.append)
    assert hub.cdn.requests == []


async def test_a_snapshot_that_does_not_fit_is_not_begun(
    hub: HubServer, make_store: MakeStore, events: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, SNAPSHOT)

    def usage(path: object) -> object:
        return type("Usage", (), {"free": 500})

    monkeypatch.setattr("infs.store.disk.shutil.disk_usage", usage)
    with pytest.raises(StorageFull, match="500 bytes free"):
        await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append)
    assert hub.cdn.requests == []


async def test_a_snapshot_counts_when_all_of_it_is_there(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    """One that was interrupted is not found behind its revision."""
    put(hub, SNAPSHOT)
    lost = hub.repos[REPO]["model-00002-of-00002.safetensors"]
    hub.repos[REPO]["model-00002-of-00002.safetensors"] = b"changed on the way"
    with pytest.raises(SourceError):
        await make_store(hub.url, rules=ALL, attempts=1).fetch("m", MODEL, events.append)
    assert not (cache / "hub" / "models--org--repo" / "refs" / "main").exists()
    hub.repos[REPO]["model-00002-of-00002.safetensors"] = lost
    assert await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append) is not None


# --- without network ---


@pytest.mark.parametrize("how", ["setting", "HF_HUB_OFFLINE", "unreachable"])
async def test_what_was_fetched_once_is_found_without_network(
    hub: HubServer,
    make_store: MakeStore,
    events: list[Progress],
    cache: Path,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even where the notes of infs are gone."""
    put(hub, SNAPSHOT)
    path = await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append)
    for note in (cache / "notes").iterdir():
        note.unlink()
    hub.refused[REPO] = (500, "")
    asked = len(hub.requests)
    environ = {"HF_HUB_OFFLINE": "1"} if how == "HF_HUB_OFFLINE" else {}
    store = make_store(hub.url, rules=ALL, offline=how == "setting", environ=environ, attempts=1)
    with caplog.at_level(logging.WARNING):
        assert await store.fetch("m", MODEL, events.append) == path
    assert len(hub.requests) == asked + (how == "unreachable")
    assert ("is used" in caplog.text) == (how == "unreachable")
    assert path is not None
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceNotFound, match=r"not complete; .*model-00002"):
        await store.fetch("m", MODEL, events.append)
    assert store.find(MODEL) is None


async def test_offline_nothing_is_downloaded(
    hub: HubServer, web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    put(hub, SNAPSHOT)
    store = make_store(hub.url, offline=True)
    url = web.add("/m.gguf", b"GGUF")
    for wanted in ("hf:org/repo", "hf:org/repo:Q4_0", "hf:org/repo/m.gguf", url):
        with pytest.raises(SourceNotFound, match=r"offline mode \(hub\.offline, or HF_HUB_OFFLINE=1\) forbids"):
            await store.fetch("m", ModelConfig(url=wanted), events.append)
    assert hub.requests == web.requests == []
    await make_store().fetch("m", ModelConfig(url=url), events.append)
    assert await store.fetch("m", ModelConfig(url=url), events.append) is not None


async def test_a_damaged_note_is_asked_for_again(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    put(hub, SNAPSHOT)
    path = await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append)
    for note in (cache / "notes").iterdir():
        data = json.loads(note.read_text())
        if "chosen" in data:
            data["chosen"]["selection"]["files"] = ["../../../../etc/passwd"]
            note.write_text(json.dumps(data))
    assert make_store(hub.url, rules=ALL).find(MODEL) is None
    assert await make_store(hub.url, rules=ALL).fetch("m", MODEL, events.append) == path


async def test_a_damaged_file_is_fetched_again(
    hub: HubServer, web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    put(hub, {"m.gguf": b"content"})
    for url in ("hf:org/repo", web.add("/m.gguf", b"content")):
        model = ModelConfig(url=url)
        path = await make_store(hub.url).fetch("m", model, events.append)
        assert path is not None
        path.resolve().write_bytes(b"cut")
        assert await make_store(hub.url).fetch("m", model, events.append) == path
        assert path.read_bytes() == b"content"


# --- beside the model ---


@pytest.mark.parametrize(
    ("url", "projector", "content"),
    [
        ("hf:org/repo", "auto", b"f16"),
        ("hf:org/repo/m.gguf", "auto", b"f16"),
        ("hf:org/repo", "hf:org/repo/mmproj-Q8_0.gguf", b"q8"),
        ("{web}/m.gguf", "{web}/projector.gguf", b"web"),
        ("hf:org/repo", "/models/own.gguf", None),
    ],
)
async def test_a_projector_is_fetched_beside_its_model(
    hub: HubServer,
    web: Server,
    make_store: MakeStore,
    events: list[Progress],
    url: str,
    projector: str,
    content: bytes | None,
) -> None:
    put(hub, {"m.gguf": b"model", "mmproj-F16.gguf": b"f16", "mmproj-Q8_0.gguf": b"q8"})
    web.add("/m.gguf", b"model")
    web.add("/projector.gguf", b"web")
    model = ModelConfig(url=url.format(web=web.url), options={"projector": projector.format(web=web.url)})
    fetched = await make_store(hub.url).store.fetch("m", model, events.append)
    assert fetched is not None
    assert fetched.path.read_bytes() == b"model"
    assert {key: path.read_bytes() for key, path in fetched.extras.items()} == (
        {} if content is None else {"options.projector": content}
    )
    asked = len(hub.requests) + len(web.requests)
    assert await make_store(hub.url).store.fetch("m", model, events.append) == fetched
    assert len(hub.requests) + len(web.requests) == asked


async def test_a_projector_that_is_not_there(
    hub: HubServer, make_store: MakeStore, events: list[Progress], tmp_path: Path
) -> None:
    put(hub, {"m.gguf": b"model"})
    for url in ("hf:org/repo", "hf:org/repo/m.gguf"):
        with pytest.raises(SourceNotFound, match=r"models\.m\.options\.projector: there is no such file beside"):
            await make_store(hub.url).fetch("m", ModelConfig(url=url, options={"projector": "auto"}), events.append)
    with pytest.raises(ConfigError, match=r"models\.m\.options\.projector = 'hf:x'"):
        await make_store(hub.url).fetch(
            "m", ModelConfig(url="hf:org/repo", options={"projector": "hf:x"}), events.append
        )
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "mmproj-m.gguf").write_bytes(b"GGUF")
    local = ModelConfig(file=str(tmp_path / "m.gguf"), options={"projector": "auto"})
    fetched = await make_store().store.fetch("m", local, events.append)
    assert fetched is not None
    assert fetched.extras == {"options.projector": tmp_path / "mmproj-m.gguf"}


async def test_two_who_want_the_same_with_other_extras(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    put(hub, {"m.gguf": b"model", "mmproj-F16.gguf": b"f16"})
    store = make_store(hub.url).store
    models = [MODEL, msgspec.structs.replace(MODEL, options={"projector": "auto"})]
    found = await asyncio.gather(*(store.fetch("m", model, events.append) for model in models))
    assert [len(each.extras) for each in found if each is not None] == [0, 1]


def test_rules_are_what_their_formats_say() -> None:
    assert [rule.format for rule in (GGUF, TRANSFORMERS, ONNX)] == [rule.format for rule in FORMATS]
    assert [rule.recognises(b"GGUF\x03") for rule in FORMATS] == [True, False, False]
    assert [rule.extras(ModelConfig(options={"projector": "auto"})) for rule in FORMATS[1:]] == [{}, {}]
