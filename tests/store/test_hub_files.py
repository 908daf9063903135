"""Files from a hub, and the cache that its tools share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import huggingface_hub
import pytest
from msgspec.structs import replace

from infs.config import HubConfig, ModelConfig
from infs.errors import (
    ChecksumMismatch,
    ConfigError,
    DownloadFailed,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from infs.store import Store
from infs.types import Progress
from tests.store.conftest import MakeStore
from tests.store.servers import COMMIT, Answer, HubServer, below, overwrite

CONTENT = os.urandom(2_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = "org/repo"
FILE = ModelConfig(url="hf:org/repo/sub/m.gguf")


def cdn_path(content: bytes = CONTENT) -> str:
    return f"/cdn/{hashlib.sha256(content).hexdigest()}"


async def test_a_file_comes_in_the_layout_of_the_shared_cache(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    store = make_store(hub.url)
    assert store.find(FILE) is None
    path = await store.fetch("m", FILE, events.append)
    assert path == cache / "hub" / "models--org--repo" / "snapshots" / COMMIT / "sub" / "m.gguf"
    assert path.read_bytes() == CONTENT
    last = replace(events[-1], rate=None, remaining=None)
    assert last == Progress(stage="download", done=len(CONTENT), total=len(CONTENT), detail="m.gguf: checking")
    assert [(request.method, request.path) for request in hub.requests] == [
        ("HEAD", "/org/repo/resolve/main/sub/m.gguf"),
        ("GET", f"/org/repo/resolve/{COMMIT}/sub/m.gguf"),
    ]
    offline = huggingface_hub.hf_hub_download(REPO, "sub/m.gguf", cache_dir=cache / "hub", local_files_only=True)
    assert Path(offline) == path
    info = huggingface_hub.scan_cache_dir(cache / "hub")
    assert not info.warnings
    assert [repo.repo_id for repo in info.repos] == [REPO]
    assert {ref for repo in info.repos for ref in repo.refs} == {"main"}


async def test_a_file_of_another_tool_is_used(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    fetched = huggingface_hub.hf_hub_download(
        REPO, "sub/m.gguf", cache_dir=cache / "hub", endpoint=hub.url, token=False
    )
    asked = len(hub.requests)
    store = make_store(hub.url)
    assert store.find(FILE) == Path(fetched)
    assert await store.fetch("m", FILE, events.append) == Path(fetched)
    assert len(hub.requests) == asked


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"])
async def test_without_a_cache_path_the_shared_cache_is_used(
    hub: HubServer, tmp_path: Path, events: list[Progress], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    monkeypatch.setattr("infs.store.store.default_cache", lambda: tmp_path / "own")
    below = {"HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}.get(variable, "")
    environ = {variable: str(tmp_path / "shared"), "HF_ENDPOINT": hub.url}
    store = Store(environ=environ)
    fetched = await store.fetch("m", FILE, events.append)
    await store.close()
    assert fetched is not None
    assert fetched.path.is_relative_to(tmp_path / "shared" / below / "models--org--repo")


@pytest.mark.parametrize(
    "url",
    [
        "hf:org/repo@v1/sub/m.gguf",
        "hf:org/repo@refs/pr/1/sub/m.gguf",
        f"hf:org/repo@{COMMIT}/sub/m.gguf",
        "https://huggingface.co/org/repo/blob/main/sub/m.gguf",
        "https://huggingface.co/org/repo/resolve/v1/sub/m.gguf?download=true",
        "{endpoint}/org/repo/blob/main/sub/m.gguf",
        "{endpoint}/org/repo/tree/main/sub",
        "{endpoint}/org/repo",
        "hf:org/repo",
        "hf:org/repo@v1/sub/",
    ],
)
async def test_all_ways_to_name_it(hub: HubServer, make_store: MakeStore, events: list[Progress], url: str) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.put(REPO, "README.md", b"read me")
    hub.put(REPO, "mmproj-m.gguf", b"for use beside a model")
    model = ModelConfig(url=url.format(endpoint=hub.url))
    path = await make_store(hub.url).fetch("m", model, events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    asked = len(hub.requests)
    again = make_store(hub.url)
    assert again.find(model) == path
    assert await again.fetch("m", model, events.append) == path
    assert len(hub.requests) == asked


async def test_two_revisions_share_their_content(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    store = make_store(hub.url)
    for revision in ("main", "v1", "refs/pr/1"):
        await store.fetch("m", ModelConfig(url=f"hf:org/repo@{revision}/sub/m.gguf"), events.append)
    assert len(hub.cdn.gets(cdn_path())) == 1
    refs = cache / "hub" / "models--org--repo" / "refs"
    assert [(refs / name).read_text() for name in ("main", "v1", "refs/pr/1")] == [COMMIT] * 3


async def test_without_links_the_file_itself_is_in_the_snapshot(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str, target_is_directory: bool = False) -> None:
        raise OSError("a privilege is missing")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    hub.put(REPO, "sub/m.gguf", CONTENT)
    path = await make_store(hub.url).fetch("m", FILE, events.append)
    assert path is not None
    assert path.is_file()
    assert not path.is_symlink()
    assert huggingface_hub.try_to_load_from_cache(REPO, "sub/m.gguf", cache_dir=cache / "hub") == str(path)


async def test_the_parts_of_a_split_model(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    for number in (1, 2):
        hub.put(REPO, f"Q8/m-0000{number}-of-00002.gguf", bytes([number]) * 1000)
    path = await make_store(hub.url).fetch("m", ModelConfig(url="hf:org/repo"), events.append)
    assert path is not None
    assert path.name == "m-00001-of-00002.gguf"
    assert path.with_name("m-00002-of-00002.gguf").read_bytes() == bytes([2]) * 1000


# --- resuming ---


async def test_a_dropped_connection_is_resumed(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.cdn.answers[cdn_path()] = [Answer(drop_after=700_000)]
    path = await make_store(hub.url).fetch("m", FILE, events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert [get.headers.get("range") for get in hub.cdn.gets(cdn_path())] == [None, "bytes=700000-"]
    assert hub.cdn.sent[cdn_path()] == len(CONTENT)


async def leave_part(hub: HubServer, make_store: MakeStore) -> None:
    """What a process leaves that got 700 kB and no more."""
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.cdn.answers[cdn_path()] = [Answer(drop_after=700_000)]
    with pytest.raises(DownloadFailed):
        await make_store(hub.url, attempts=1).fetch("m", FILE, lambda event: None)


async def test_a_download_goes_on_in_another_process(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    await leave_part(hub, make_store)
    path = await make_store(hub.url).fetch("m", FILE, events.append)
    assert path is not None
    assert hub.cdn.sent[cdn_path()] == len(CONTENT)
    blobs = cache / "hub" / "models--org--repo" / "blobs"
    assert [blob.name for blob in blobs.iterdir()] == [SHA256]


async def test_a_complete_partial_file_is_not_asked_for_again(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    """The process died between the last byte and the new name."""
    await leave_part(hub, make_store)
    overwrite(below(cache, "*.incomplete")[0], CONTENT)
    path = await make_store(hub.url).fetch("m", FILE, events.append)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert len(hub.cdn.requests) == 1


async def test_content_is_checked_though_nobody_asked_for_it(
    hub: HubServer, make_store: MakeStore, events: list[Progress], cache: Path
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.cdn.add(cdn_path(), bytes(len(CONTENT)))
    with pytest.raises(ChecksumMismatch, match=SHA256):
        await make_store(hub.url).fetch("m", FILE, events.append)
    assert below(cache, "*incomplete*") == []
    assert make_store(hub.url).find(FILE) is None


async def test_a_size_that_is_not_the_hubs(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.cdn.add(cdn_path(), CONTENT + b"more")
    with pytest.raises(DownloadFailed, match="another file"):
        await make_store(hub.url).fetch("m", FILE, events.append)


async def test_a_checksum_that_contradicts_the_hub_downloads_nothing(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    wrong = ModelConfig(url="hf:org/repo/sub/m.gguf", sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match=SHA256):
        await make_store(hub.url).fetch("m", wrong, events.append)
    assert hub.cdn.requests == []


async def test_a_wrong_md5(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    wrong = ModelConfig(url="hf:org/repo/sub/m.gguf", md5="0" * 32)
    with pytest.raises(ChecksumMismatch, match="md5"):
        await make_store(hub.url).fetch("m", wrong, events.append)


# --- tokens ---


@pytest.mark.parametrize("given", ["config", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "file"])
async def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubServer, make_store: MakeStore, events: list[Progress], tmp_path: Path, given: str
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    if given == "file":
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "token").write_text("hf_secret\n")
    token = "hf_secret" if given == "config" else None
    environ = {given: " hf_secret"} if given.isupper() else {}
    store = make_store(hub.url, token=token, environ=environ)
    await store.fetch("m", ModelConfig(url="hf:org/repo"), events.append)
    assert [request.headers.get("authorization") for request in hub.requests] == ["Bearer hf_secret"] * 3
    assert ["authorization" in request.headers for request in hub.cdn.requests] == [False]


async def test_the_token_does_not_go_to_other_servers(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    url = hub.cdn.add("/m.gguf", CONTENT)
    await make_store(hub.url, token="hf_secret").fetch("m", ModelConfig(url=url), events.append)
    assert "authorization" not in hub.cdn.requests[0].headers


async def test_a_token_that_is_none(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
        await make_store(hub.url, token="a\r\nb").fetch("m", FILE, events.append)
    assert "\r" not in caught.value.message
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code", "token", "kind", "said"),
    [
        (401, "RepoNotFound", None, SourceForbidden, "does not exist, or is private"),
        (401, "", "hf_x", SourceForbidden, "does not accept the token"),
        (
            401,
            "GatedRepo",
            None,
            SourceForbidden,
            "accept its licence at .*/org/repo, create a token there, and set HF_TOKEN",
        ),
        (403, "GatedRepo", "hf_x", SourceForbidden, "check that the token"),
        (403, "", None, SourceForbidden, "accept its licence"),
        (404, "RepoNotFound", None, SourceNotFound, "check the repository"),
        (404, "RevisionNotFound", None, SourceNotFound, "no revision 'main'"),
        (404, "EntryNotFound", None, SourceNotFound, "no file or folder 'sub/m.gguf'"),
        (400, "", None, DownloadFailed, "answered 400"),
        (500, "", None, DownloadFailed, "answered 500"),
        (429, "", None, DownloadFailed, "answered 429"),
    ],
)
async def test_what_the_hub_refuses(
    hub: HubServer,
    make_store: MakeStore,
    events: list[Progress],
    status: int,
    code: str,
    token: str | None,
    kind: type[SourceError],
    said: str,
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.refused[REPO] = (status, code)
    with pytest.raises(kind, match=said) as caught:
        await make_store(hub.url, token=token).fetch("m", FILE, events.append)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hf:org/none/m.gguf", "does not exist, or is private"),
        ("hf:org/repo/none.gguf", "no file or folder 'none.gguf'"),
        ("hf:org/repo@v9/sub/m.gguf", "no revision 'v9'"),
        ("hf:org/empty", "holds no .gguf file"),
    ],
)
async def test_what_is_not_there(
    hub: HubServer, make_store: MakeStore, events: list[Progress], url: str, said: str
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.put("org/empty", "README.md", b"read me")
    with pytest.raises(SourceError, match=said):
        await make_store(hub.url).fetch("m", ModelConfig(url=url), events.append)


@pytest.mark.parametrize("page", [1000, 4])
async def test_several_files_to_choose_from(
    hub: HubServer, make_store: MakeStore, events: list[Progress], page: int
) -> None:
    hub.page = page
    for number in range(13):
        hub.put(REPO, f"m-Q{number:02}.gguf", bytes([number]))
    with pytest.raises(SourceError) as caught:
        await make_store(hub.url).fetch("m", ModelConfig(url="hf:org/repo@v1"), events.append)
    assert "holds 13 models" in caught.value.message
    assert "\n  hf:org/repo@v1/m-Q09.gguf\n" in caught.value.message
    assert "m-Q10" not in caught.value.message
    assert "and 3 more" in caught.value.message


async def test_a_list_with_pages_that_never_end(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    hub.page = 0
    hub.put(REPO, "m.gguf", CONTENT)
    with pytest.raises(SourceNotFound):
        await make_store(hub.url).fetch("m", ModelConfig(url="hf:org/repo"), events.append)


async def test_a_list_that_is_none(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    endpoint = hub.cdn.url
    hub.cdn.add("/api/models/org/repo/tree/main", b"<html>")
    with pytest.raises(DownloadFailed, match="not a list of files"):
        await make_store(endpoint).fetch("m", ModelConfig(url="hf:org/repo"), events.append)


@pytest.mark.parametrize(
    "linked",
    [
        {"X-Repo-Commit": ""},
        {"X-Repo-Commit": "../../x"},
        {"X-Linked-Etag": '"../../../evil"'},
        {"X-Linked-Etag": '".."'},
        {"X-Linked-Etag": "", "ETag": ""},
    ],
)
async def test_a_server_that_is_no_hub(
    hub: HubServer, make_store: MakeStore, events: list[Progress], linked: dict[str, str], cache: Path
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.linked = linked
    with pytest.raises(DownloadFailed, match="does not speak the hub's protocol"):
        await make_store(hub.url).fetch("m", FILE, events.append)
    assert not (cache / "hub").exists()


async def test_small_files_have_other_names_for_their_content(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.linked = {"X-Linked-Etag": "", "X-Linked-Size": "", "ETag": 'W/"abc123"'}
    path = await make_store(hub.url).fetch("m", FILE, events.append)
    assert path is not None
    assert path.resolve().name == "abc123" or not path.is_symlink()
    assert path.read_bytes() == CONTENT


async def test_the_hub_recovers(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    hub.head_answers = [503, 500]
    assert await make_store(hub.url).fetch("m", FILE, events.append) is not None


# --- without network ---


async def test_what_is_in_the_cache_needs_no_network(
    hub: HubServer, make_store: MakeStore, events: list[Progress]
) -> None:
    hub.put(REPO, "sub/m.gguf", CONTENT)
    checked = ModelConfig(url="hf:org/repo/sub/m.gguf", sha256=SHA256)
    path = await make_store(hub.url).fetch("m", checked, events.append)
    hub.refused[REPO] = (500, "")
    offline = make_store(hub.url, environ={"HF_HUB_OFFLINE": "1"})
    assert await offline.fetch("m", checked, events.append) == path


async def test_offline_and_not_in_the_cache(hub: HubServer, make_store: MakeStore, events: list[Progress]) -> None:
    with pytest.raises(SourceNotFound, match="HF_HUB_OFFLINE"):
        await make_store(hub.url, environ={"HF_HUB_OFFLINE": "1"}).fetch("m", FILE, events.append)
    assert hub.requests == []


def test_an_endpoint_that_is_no_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hub\.endpoint"):
        Store(tmp_path, hub=HubConfig(endpoint="hub.local"), environ={})
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        Store(tmp_path, environ={"HF_ENDPOINT": "hub.local"})
