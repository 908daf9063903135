"""What there is on this machine, and removing it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import huggingface_hub
import msgspec
import pytest

from infs.config import ModelConfig
from infs.errors import DownloadFailed, SourceError
from infs.store.catalogue import Entry, disk_use
from infs.store.rules import FORMATS
from infs.types import Progress
from tests.store.conftest import MakeStore, PathStore
from tests.store.servers import COMMIT, Answer, HubServer, Server, below, overwrite
from tests.store.test_other_tools import put_lmstudio, put_ollama
from tests.store.test_sharing import until

ALL = dict(zip(("llama-cpp", "transformers", "onnx"), FORMATS, strict=True))
FOUR, EIGHT = b"four" * 1000, b"eight" * 1000
OTHER = "f" * 40


@pytest.fixture
def repo(cache: Path) -> Path:
    return cache / "hub" / "models--org--repo"


@pytest.fixture
def put(hub: HubServer) -> HubServer:
    """A repository with two models in three files, and one with a snapshot."""
    for name, content in {
        "m-Q4_0.gguf": FOUR,
        "m-Q8_0-00001-of-00002.gguf": EIGHT,
        "mmproj-F16.gguf": b"GGUF p",
    }.items():
        hub.put("org/repo", name, content)
    hub.put("org/repo", "m-Q8_0-00002-of-00002.gguf", b"second")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        hub.put("org/folder", name, name.encode() * 10)
    return hub


async def fetch(store: PathStore, *urls: str) -> None:
    for url in urls:
        assert await store.fetch("m", ModelConfig(url=url), lambda event: None) is not None


def by_reference(store: PathStore) -> dict[str, Entry]:
    found = store.store.catalogue()
    assert len({(entry.reference, entry.commit, entry.format, entry.complete) for entry in found}) == len(found)
    return {entry.reference: entry for entry in found}


def second_revision(repo: Path) -> None:
    """The same files at another commit, which a tag is at."""
    for path in below(repo / "snapshots" / COMMIT):
        link = repo / "snapshots" / OTHER / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path.resolve(), link.parent))
    (repo / "refs" / "v2").write_text(OTHER)


async def test_what_there_is(put: HubServer, web: Server, make_store: MakeStore, tmp_path: Path) -> None:
    url = web.add("/dir/m-Q4_0.gguf", FOUR)
    store = make_store(put.url, rules=ALL)
    await fetch(store, "hf:org/repo:Q4_0", "hf:org/repo:Q8_0", "hf:org/repo/mmproj-F16.gguf", "hf:org/folder")
    await fetch(store, f"{url}?token=secret".replace("://", "://user:pa55@"))
    home = tmp_path / "home"
    put_ollama(home / ".ollama" / "models", "registry.ollama.ai/library/o", "1b", {"model": b"GGUF", "template": b"t"})
    put_lmstudio(home / ".lmstudio" / "models", "pub/one/m-Q4_0.gguf", "pub/one/m-Q8_0.gguf")
    found = by_reference(store)
    assert [(each.reference, each.kind, each.format, each.label, each.bytes) for each in found.values()] == [
        ("hf:org/folder", "hub", "Transformers model (safetensors)", "", 420),
        ("hf:org/repo", "hub", "", "", 6),
        ("hf:org/repo/m-Q4_0.gguf", "hub", "GGUF model", "Q4_0", 4000),
        ("hf:org/repo/m-Q8_0-00001-of-00002.gguf", "hub", "GGUF model", "Q8_0", 5006),
        (url, "download", "GGUF model", "Q4_0", 4000),
        ("lmstudio:pub/one/m-Q4_0.gguf", "lmstudio", "GGUF model", "Q4_0", 4),
        ("lmstudio:pub/one/m-Q8_0.gguf", "lmstudio", "GGUF model", "Q8_0", 4),
        ("ollama:o:1b", "ollama", "GGUF model", "", 5),
    ]
    assert all(each.complete and each.used for each in found.values())
    assert [each.kind for each in found.values() if not each.removable] == ["lmstudio", "lmstudio", "ollama"]
    split = found["hf:org/repo/m-Q8_0-00001-of-00002.gguf"]
    assert (split.repository, split.commit, split.revisions, len(split.files)) == ("org/repo", COMMIT, ["main"], 2)
    assert found["ollama:o:1b"].notes == ["template"]
    for reference, entry in found.items():
        if entry.format and entry.kind != "download":
            assert store.find(ModelConfig(url=reference)) == entry.path, reference
    assert store.find(ModelConfig(url=f"{url}?token=secret")) == found[url].path


async def test_content_counts_once(put: HubServer, make_store: MakeStore, repo: Path) -> None:
    store = make_store(put.url)
    await fetch(store, "hf:org/repo:Q4_0")
    second_revision(repo)
    found = by_reference(store)
    assert [(each.bytes, each.revisions) for each in found.values()] == [(4000, ["main"]), (4000, ["v2"])]
    assert list(found) == ["hf:org/repo/m-Q4_0.gguf", "hf:org/repo@v2/m-Q4_0.gguf"]
    assert disk_use(found.values()) == 4000


async def test_a_model_is_removed_and_others_stay(put: HubServer, make_store: MakeStore, repo: Path) -> None:
    store = make_store(put.url)
    await fetch(store, "hf:org/repo:Q4_0", "hf:org/repo:Q8_0")
    second_revision(repo)
    assert await store.store.remove(by_reference(store)["hf:org/repo@v2/m-Q4_0.gguf"]) == 0
    found = by_reference(store)
    assert await store.store.remove(found["hf:org/repo/m-Q4_0.gguf"]) == 4000
    assert await store.store.remove(found["hf:org/repo/m-Q4_0.gguf"]) == 0
    assert list(by_reference(store)) == [
        "hf:org/repo/m-Q8_0-00001-of-00002.gguf",
        "hf:org/repo@v2/m-Q8_0-00001-of-00002.gguf",
    ]
    info = huggingface_hub.scan_cache_dir(repo.parent)
    assert (info.warnings, info.size_on_disk) == ([], 5006)
    for entry in store.store.catalogue():
        await store.store.remove(entry)
    assert below(repo) == []
    assert store.store.catalogue() == []


async def test_a_revision_of_which_nothing_is_left_has_no_name(
    put: HubServer, make_store: MakeStore, repo: Path
) -> None:
    store = make_store(put.url)
    await fetch(store, "hf:org/repo:Q4_0")
    second_revision(repo)
    await store.store.remove(by_reference(store)["hf:org/repo@v2/m-Q4_0.gguf"])
    assert [path.name for path in (repo / "refs").iterdir()] == ["main"]
    assert not huggingface_hub.scan_cache_dir(repo.parent).warnings


async def test_downloads_are_removed_with_their_notes(web: Server, make_store: MakeStore, cache: Path) -> None:
    store = make_store()
    for number in (1, 2):
        web.add(f"/m-0000{number}-of-00002.gguf", FOUR)
    await fetch(store, f"{web.url}/m-00001-of-00002.gguf", web.add("/other.gguf", EIGHT))
    found = by_reference(store)
    assert [entry.bytes for entry in found.values()] == [8000, 5000]
    assert await store.store.remove(found[f"{web.url}/m-00001-of-00002.gguf"]) == 8000
    assert [path.name for path in below(cache / "downloads", "*.gguf")] == ["other.gguf"]
    assert len(list((cache / "downloads").iterdir())) == 1


async def test_what_is_half_there(
    put: HubServer, web: Server, make_store: MakeStore, events: list[Progress], repo: Path
) -> None:
    url = web.add("/m.gguf", FOUR)
    web.answers["/m.gguf"] = [Answer(drop_after=1000)]
    put.cdn.answers[f"/cdn/{hashlib.sha256(FOUR).hexdigest()}"] = [Answer(drop_after=500)]
    store = make_store(put.url, attempts=1)
    for wanted in (url, "hf:org/repo:Q4_0"):
        with pytest.raises(DownloadFailed):
            await store.fetch("m", ModelConfig(url=wanted), events.append)
    # What another tool leaves.
    overwrite(repo / "blobs" / f"{'a' * 64}.incomplete", b"123")
    found = by_reference(store)
    assert {name: (entry.bytes, entry.complete) for name, entry in found.items()} == {
        "hf:org/repo": (503, False),
        url: (1000, False),
    }
    assert [await store.store.remove(entry) for entry in found.values()] == [503, 1000]
    assert store.store.catalogue() == []
    assert below(repo) == []
    assert await store.fetch("m", ModelConfig(url=url), events.append) is not None


async def test_what_is_being_downloaded_stays(
    put: HubServer, web: Server, make_store: MakeStore, events: list[Progress]
) -> None:
    gate = threading.Event()
    url = web.add("/m.gguf", FOUR)
    web.answers["/m.gguf"] = [Answer(stop_after=1000, gate=gate)]
    put.cdn.answers[f"/cdn/{hashlib.sha256(FOUR).hexdigest()}"] = [Answer(stop_after=1000, gate=gate)]
    store = make_store(put.url)
    wanted = [ModelConfig(url=each) for each in (url, "hf:org/repo:Q4_0")]
    fetches = [asyncio.create_task(store.fetch("m", model, events.append)) for model in wanted]
    await until(lambda: len(store.store.catalogue()) == 2)
    for entry in store.store.catalogue():
        with pytest.raises(SourceError, match="is being downloaded"):
            await make_store(put.url).store.remove(entry)
    gate.set()
    assert all(await asyncio.gather(*fetches))


async def test_nothing_outside_of_the_cache_is_removed(
    put: HubServer, web: Server, make_store: MakeStore, cache: Path, repo: Path, tmp_path: Path
) -> None:
    """Whatever links and entries say."""
    store = make_store(put.url)
    await fetch(store, "hf:org/repo:Q4_0", web.add("/m.gguf", FOUR))
    hub_entry, web_entry = store.store.catalogue()
    outside = tmp_path / "outside"
    precious = outside / "precious.gguf"
    overwrite(precious, b"precious")
    file = hub_entry.files[0]
    evil = msgspec.structs.replace(hub_entry, files=[msgspec.structs.replace(file, path=precious)])
    climbing = msgspec.structs.replace(file, path=repo / "snapshots" / COMMIT / ".." / ".." / ".." / "x.gguf")
    entries = [
        evil,
        msgspec.structs.replace(hub_entry, files=[climbing]),
        msgspec.structs.replace(evil, commit="", complete=False),
        msgspec.structs.replace(hub_entry, repository="../../outside"),
        msgspec.structs.replace(hub_entry, commit="../../../outside"),
        msgspec.structs.replace(web_entry, path=precious),
        msgspec.structs.replace(web_entry, path=web_entry.path.parent / "sub" / "m.gguf"),
    ]
    for entry in entries:
        with pytest.raises(SourceError, match="is not a file or folder of"):
            await store.store.remove(entry)
    link = repo / "snapshots" / COMMIT / "link.gguf"
    link.symlink_to(precious)
    (repo / "snapshots" / COMMIT / "sub").symlink_to(outside, target_is_directory=True)
    linked = by_reference(store)["hf:org/repo/link.gguf"]
    assert await store.store.remove(linked) == 0
    assert not link.is_symlink()
    through = msgspec.structs.replace(file, path=repo / "snapshots" / COMMIT / "sub" / "precious.gguf")
    with pytest.raises(SourceError, match="is not a file or folder of"):
        await store.store.remove(msgspec.structs.replace(hub_entry, files=[through]))
    (repo.parent / "models--evil--repo").symlink_to(outside, target_is_directory=True)
    with pytest.raises(SourceError, match="is not a file or folder of"):
        await store.store.remove(msgspec.structs.replace(hub_entry, repository="evil/repo"))
    assert "hf:evil/repo" not in by_reference(store)
    assert precious.read_bytes() == b"precious"
    assert hub_entry.path.is_file()


@pytest.mark.parametrize(("kind", "owner"), [("ollama", "Ollama"), ("lmstudio", "LM Studio")])
async def test_files_of_other_tools_are_theirs(make_store: MakeStore, tmp_path: Path, kind: str, owner: str) -> None:
    put_ollama(tmp_path / "home/.ollama/models", "registry.ollama.ai/library/x", "latest", {"model": b"GGUF"})
    put_lmstudio(tmp_path / "home/.lmstudio/models", "pub/one/m.gguf")
    store = make_store().store
    (entry,) = [entry for entry in store.catalogue() if entry.kind == kind]
    with pytest.raises(SourceError, match=f"belongs to {owner}"):
        await store.remove(entry)
    assert entry.path.is_file()


async def test_files_without_links(
    put: HubServer, make_store: MakeStore, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where links are not allowed: the content lies in the snapshot."""

    def refuse(self: Path, target: str, target_is_directory: bool = False) -> None:
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    store = make_store(put.url)
    await fetch(store, "hf:org/repo:Q4_0")
    (entry,) = store.store.catalogue()
    assert await store.store.remove(entry) == entry.bytes == 4000
    assert below(repo) == []


def test_strange_things_in_the_cache(make_store: MakeStore, cache: Path) -> None:
    for name in (
        "hub/models--a--b--c/snapshots/x/f",
        "hub/models--/x",
        "hub/datasets--a--b/x",
        "hub/version.txt",
        "downloads/x",
    ):
        overwrite(cache / name, b"x")
    overwrite(cache / "hub" / "models--a--b" / "refs" / "main", b"\xff\xfe")
    overwrite(cache / "hub" / "models--a--b" / "snapshots" / COMMIT / "m.gguf", b"x")
    (cache / "hub" / "models--a--b" / "snapshots" / COMMIT / "gone.gguf").symlink_to(cache / "none")
    (cache / "downloads" / "empty-0").mkdir()
    assert [entry.reference for entry in make_store().store.catalogue()] == [f"hf:a/b@{COMMIT}/m.gguf"]
