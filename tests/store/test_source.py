"""What `url` and `file` may say."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infs.config import ModelConfig
from infs.errors import ConfigError
from infs.store.names import cache_name, part_names, part_urls, safe_name
from infs.store.source import (
    FileSource,
    HubSource,
    LmStudioSource,
    OllamaSource,
    Source,
    UrlSource,
    check_endpoint,
    find_source,
    hub_file_url,
    is_safe_path,
    is_url,
    parse_file,
    parse_url,
    public_url,
)

COMMIT = "a" * 40
CACHE = Path("/cache").absolute()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/repo/model.gguf", HubSource("org/repo", "main", "model.gguf")),
        ("HF:org/repo/model.gguf", HubSource("org/repo", "main", "model.gguf")),
        ("hf://org/repo/sub/model.gguf", HubSource("org/repo", "main", "sub/model.gguf")),
        ("hf:org/repo@v1/model.gguf", HubSource("org/repo", "v1", "model.gguf")),
        ("hf:org/repo@refs/pr/1/model.gguf", HubSource("org/repo", "refs/pr/1", "model.gguf")),
        ("hf:org/repo@feature%2Fx/model.gguf", HubSource("org/repo", "feature/x", "model.gguf")),
        (f"hf:org/repo@{COMMIT}/model.gguf", HubSource("org/repo", COMMIT, "model.gguf")),
        ("hf:org/repo", HubSource("org/repo", "main", "", True)),
        ("hf:org/repo@v1", HubSource("org/repo", "v1", "", True)),
        ("hf:org/repo/sub/", HubSource("org/repo", "main", "sub", True)),
        ("hf:org/repo:Q4_K_M", HubSource("org/repo", "main", "", True, "Q4_K_M")),
        ("hf:org/repo@refs/pr/1:UD-q4_0", HubSource("org/repo", "refs/pr/1", "", True, "UD-q4_0")),
        ("hf:org/repo/sub:F16", HubSource("org/repo", "main", "sub", True, "F16")),
        ("hf:org/repo/my:m.gguf", HubSource("org/repo", "main", "my:m.gguf")),
        ("ollama:qwen3", OllamaSource("registry.ollama.ai/library/qwen3", "latest")),
        ("ollama:qwen3:0.6b-q4_K_M", OllamaSource("registry.ollama.ai/library/qwen3", "0.6b-q4_K_M")),
        ("ollama:user/name:tag", OllamaSource("registry.ollama.ai/user/name", "tag")),
        ("ollama:hf.co/org/repo:Q8_0", OllamaSource("hf.co/org/repo", "Q8_0")),
        ("lmstudio:pub/repo", LmStudioSource("pub/repo")),
        ("lmstudio:pub/repo:Q4_K_M", LmStudioSource("pub/repo", "", "Q4_K_M")),
        ("lmstudio:pub/repo/sub/m.gguf", LmStudioSource("pub/repo", "sub/m.gguf")),
        ("hf:org/repo/my model é.gguf", HubSource("org/repo", "main", "my model é.gguf")),
        ("https://huggingface.co/org/repo/blob/main/m.gguf", HubSource("org/repo", "main", "m.gguf")),
        ("https://huggingface.co/org/repo/resolve/v1/a/m.gguf?download=true", HubSource("org/repo", "v1", "a/m.gguf")),
        ("https://hf.co/org/repo/raw/main/m.gguf", HubSource("org/repo", "main", "m.gguf")),
        ("https://www.huggingface.co/gpt2/resolve/main/m.gguf", HubSource("gpt2", "main", "m.gguf")),
        ("https://huggingface.co/org/repo/tree/main", HubSource("org/repo", "main", "", True)),
        ("https://huggingface.co/org/repo/tree/main/Q4%20K/", HubSource("org/repo", "main", "Q4 K", True)),
        ("https://huggingface.co/org/repo/blob/refs%2Fpr%2F3/m.gguf", HubSource("org/repo", "refs/pr/3", "m.gguf")),
        ("https://huggingface.co/org/repo", HubSource("org/repo", "main", "", True)),
        ("https://huggingface.co/org/repo/blob/main/m%C3%A9.gguf#x", HubSource("org/repo", "main", "mé.gguf")),
        ("http://hub.local:8080/hf/org/repo/blob/main/m.gguf", HubSource("org/repo", "main", "m.gguf")),
        ("http://hub.local:8080/files/m.gguf", UrlSource("http://hub.local:8080/files/m.gguf")),
        ("http://hub.local/hf/org/repo/blob/main/m", UrlSource("http://hub.local/hf/org/repo/blob/main/m")),
        ("http://hub.local:8080/hf/files/m.gguf", UrlSource("http://hub.local:8080/hf/files/m.gguf")),
        (" https://example.org/m.gguf?x=1#part ", UrlSource("https://example.org/m.gguf?x=1")),
        ("https://example.org/my model é.gguf", UrlSource("https://example.org/my model é.gguf")),
    ],
)
def test_urls_that_are_understood(text: str, source: Source) -> None:
    assert parse_url(text, "http://hub.local:8080/hf") == source
    assert is_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/repo/model.gguf",
        "hf:org/repo@v1/sub/m.gguf",
        "hf:org/repo@refs/pr/1:Q4_K_M",
        "ollama:qwen3:latest",
        "ollama:user/name:tag",
        "ollama:hf.co/org/repo:Q8_0",
        "lmstudio:pub/repo/m.gguf",
        "lmstudio:pub/repo:Q4_K_M",
    ],
)
def test_a_source_is_written_as_it_was(text: str) -> None:
    assert str(parse_url(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "hf:org/repo/file.gguf"),
        ("model.gguf", "hf:org/repo/file.gguf"),
        ("ftp://example.org/m.gguf", "is not a URL that infs can fetch"),
        ("s3://bucket/m.gguf", "is not a URL that infs can fetch"),
        ("file:///m.gguf", "`file`"),
        ("/models/m.gguf", "`file`"),
        ("C:\\models\\m.gguf", "`file`"),
        ("~/m.gguf", "`file`"),
        ("hf:", "names no repository"),
        ("hf:model.gguf", "names no repository"),
        ("hf:org/repo:", "no name of the hub"),
        ("hf:org/repo:Q4 K", "no name of the hub"),
        ("ollama:", "no model of Ollama"),
        ("ollama:a/b/c/d", "no model of Ollama"),
        ("ollama:../x", "no model of Ollama"),
        ("ollama:x:..", "no model of Ollama"),
        ("ollama:x:", "no model of Ollama"),
        ("lmstudio:repo", "no model of LM Studio"),
        ("lmstudio:a/..", "no model of LM Studio"),
        ("lmstudio:a/b/../c.gguf", "no model of LM Studio"),
        ("lmstudio:a/b/c:Q4_0", "no model of LM Studio"),
        ("hf:org/../etc/passwd", "no name of the hub"),
        ("hf:org/repo/../../x.gguf", "no path inside"),
        ("hf:org/repo/a\\..\\x.gguf", "no path inside"),
        ("hf:org/repo@../x.gguf", "no revision"),
        ("hf:org/repo@a b/x.gguf", "no revision"),
        ("hf:org/repo@..%2F..%2Fx/m.gguf", "no revision"),
        ("https://huggingface.co/org/repo/blob/main/..%2F..%2Fx", "no path inside"),
        ("https://huggingface.co/org/repo/resolve/%2e%2e/m.gguf", "no revision"),
        ("https://huggingface.co/", "no model repository"),
        ("https://huggingface.co/datasets/org/data/resolve/main/m.gguf", "no model repository"),
        ("https://huggingface.co/org/repo/discussions/1", "no model repository"),
        ("https:///m.gguf", "no host"),
        ("https://[::1/m.gguf", "is not a URL"),
        ("https://example.org:port/m.gguf", "is not a URL"),
        ("https://example.org/a\nb", "characters"),
        ("https://example.org/\ud800", "characters"),
    ],
)
def test_urls_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        parse_url(text, key="models.m.url")
    assert caught.value.param == "models.m.url"


@given(
    st.text()
    | st.from_regex(r"(?i)(hf:|ollama:|lmstudio:|https?:/{0,2}|hf://)[a-z0-9@:/?#\[\]%.\\ -]*", fullmatch=True)
)
@example("http://[")
@example("https://huggingface.co/a/b/blob/refs")
@example("https://huggingface.co/a/tree/refs")
@example("hf:a/b@/c")
@example("https://huggingface.co//a//b")
def test_any_text_is_a_source_or_a_configuration_error(text: str) -> None:
    try:
        source = parse_url(text)
    except ConfigError:
        return
    if isinstance(source, UrlSource):
        assert len(cache_name(source.url).parts) == 2
    elif isinstance(source, OllamaSource):
        assert is_safe_path(source.name)
        assert is_safe_path(source.tag)
    elif isinstance(source, LmStudioSource):
        assert is_safe_path(source.repo)
        assert not source.path or is_safe_path(source.path)
    elif isinstance(source, HubSource):
        assert not source.path or is_safe_path(source.path)
        assert is_safe_path(source.revision)
        assert source.repo.count("/") <= 1


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_hub_url_means_what_it_was_made_of(folder: str, name: str) -> None:
    path = f"{folder}/{name}"
    if is_safe_path(path) and _encodes(path) and path.strip() == path:
        source = HubSource("org/repo", "v1", path)
        url = hub_file_url("https://huggingface.co", source, "v1")
        assert parse_url(url) == source
        assert quote(name) in url


def _encodes(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


@pytest.mark.parametrize("text", ["ollama:1", "http://", "hub.local", "http://h:x", "http://h?x=1", "http://h/\n"])
def test_an_endpoint_that_is_no_url(text: str) -> None:
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        check_endpoint(text)


def test_an_endpoint_loses_its_last_slash() -> None:
    assert check_endpoint(" http://hub.local:8080/hf/ ") == "http://hub.local:8080/hf"


def test_files() -> None:
    assert parse_file("a/m.gguf", CACHE) == FileSource(CACHE / "a" / "m.gguf")
    assert parse_file(str(CACHE / "m.gguf"), Path("/elsewhere")) == FileSource(CACHE / "m.gguf")
    assert parse_file("~/m.gguf", CACHE) == FileSource(Path.home() / "m.gguf")


@pytest.mark.parametrize(
    "text", ["", " ", "../m.gguf", "a/../../m.gguf", "a\0b", "~nobody-of-that-name/m.gguf", "\ud800"]
)
def test_files_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file(text, CACHE, "models.m.file")
    assert caught.value.param == "models.m.file"


@given(st.text())
def test_any_file_is_below_the_cache_or_absolute_or_refused(text: str) -> None:
    try:
        source = parse_file(text, CACHE)
    except ConfigError:
        return
    assert source.path.is_absolute()
    if not Path(text).expanduser().is_absolute():
        assert source.path.is_relative_to(CACHE)
        assert ".." not in source.path.parts


def test_a_model_without_files_has_no_source() -> None:
    assert find_source(ModelConfig(), CACHE) is None


def test_secrets_of_a_url_are_not_shown() -> None:
    assert public_url("https://user:secret@example.org/m.gguf?token=secret") == "https://example.org/m.gguf"


# --- names in the cache ---


@given(st.text())
def test_names_are_possible_on_every_system(name: str) -> None:
    safe = safe_name(name.encode(errors="replace").decode())
    assert safe
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', safe)
    assert not safe.endswith((".", " "))
    assert safe not in (".", "..")
    assert len(safe.encode()) <= 130
    assert not re.fullmatch(r"(?i)(con|nul|aux|prn|com1|lpt1)(\..*)?", safe)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Qwen3 0.6B é.gguf", "Qwen3 0.6B é.gguf"),
        ("a:b?.gguf", "a_b_.gguf"),
        ("nul.gguf", "_nul.gguf"),
        ("..", "model"),
        ("m. ", "m"),
        ("", "model"),
    ],
)
def test_names_stay_readable(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_long_name_keeps_its_end() -> None:
    assert safe_name("é" * 300 + "-00001-of-00002.gguf").endswith("-00001-of-00002.gguf")


def test_two_urls_never_share_a_file() -> None:
    urls = [
        "https://example.org/a/m.gguf",
        "https://example.org/b/m.gguf",
        "https://example.org/a/m.gguf?v=2",
        "https://example.org/a/M.gguf",
        "https://example.org:8443/a/m.gguf",
        "http://example.org/a/m.gguf",
        "https://example.org/a/m%3A.gguf",
        "https://example.org/a/m_.gguf",
    ]
    assert len({str(cache_name(url)).lower() for url in urls}) == len(urls)


def test_a_password_changes_no_name() -> None:
    assert cache_name("https://u:p@example.org/m.gguf") == cache_name("https://example.org/m.gguf")


def test_the_parts_of_a_split_model_share_a_folder() -> None:
    urls = part_urls("https://example.org/a/m-00002-of-00003.gguf?x=1")
    assert urls[0] == "https://example.org/a/m-00001-of-00003.gguf?x=1"
    names = [cache_name(url) for url in urls]
    assert len(urls) == 3
    assert len({name.parent for name in names}) == 1
    assert [name.name for name in names] == part_names("m-00001-of-00003.gguf")


@pytest.mark.parametrize("name", ["m.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-00001-of-99999.gguf"])
def test_what_is_no_part_stands_for_itself(name: str) -> None:
    assert part_names(name) == [name]
