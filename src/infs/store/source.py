"""What a model's `url` or `file` means: one of three kinds of source. Pure: no network, and no disk but for ``~``."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from msgspec import Struct

from infs.config import ModelConfig
from infs.errors import ConfigError

HUB = "https://huggingface.co"
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
FORMS = (
    "hf:org/repo/file.gguf, hf:org/repo@revision/file.gguf, "
    "https://huggingface.co/org/repo/blob/main/file.gguf or any other http(s) URL"
)

_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?|[A-Za-z0-9_]")
_REVISION = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\@]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MARKS = ("blob", "resolve", "raw", "tree")
_NOT_MODELS = ("datasets", "spaces", "api")
_PORTS = {"http": 80, "https": 443}


class FileSource(Struct, frozen=True):
    """A file or folder on this machine; `path` is absolute."""

    path: Path


class UrlSource(Struct, frozen=True):
    """A file on any web server."""

    url: str


class HubSource(Struct, frozen=True):
    """A file of a model repository on the hub, or a folder (`folder`) in which one has to be chosen.

    `path` has forward slashes and is free of ``..``; the repository itself is the folder ``""``.
    """

    repo: str
    revision: str
    path: str
    folder: bool = False

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{self.repo}{at}" + (f"/{self.path}" if self.path else "")


Source = FileSource | UrlSource | HubSource


def find_source(config: ModelConfig, cache: Path, endpoint: str = HUB, key: str = "model") -> Source | None:
    """Where the files of a model come from; ``None`` when it has none.

    Args:
        cache: folder at which a relative `file` starts.
        endpoint: the hub's URL; see `check_endpoint`.
        key: the model's key in the configuration, for messages.

    Raises:
        ConfigError: when `url` or `file` cannot be understood, or leads out of the cache.
    """
    if config.file is not None:
        return parse_file(config.file, cache, f"{key}.file")
    if config.url is not None:
        return parse_url(config.url, endpoint, f"{key}.url")
    return None


def parse_file(text: str, cache: Path, key: str = "file") -> FileSource:
    """`text` as a path; a relative one starts at `cache` and stays below it.

    Raises:
        ConfigError: when it does not, or is no path.
    """
    if not text.strip() or "\0" in text or not _is_unicode(text):
        raise ConfigError(f"{key} = {text!r} is not a path.", param=key)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key} = {text!r}: {error}", param=key) from error
    if path.is_absolute():
        return FileSource(path)
    # A drive or a root without the other (Windows) would replace the cache in the join.
    if ".." in path.parts or path.drive or path.root:
        raise ConfigError(
            f"{key} = {text!r} leads out of the cache ({cache}), where relative paths start; write an absolute path.",
            param=key,
        )
    return FileSource(cache / path)


def parse_url(text: str, endpoint: str = HUB, key: str = "url") -> UrlSource | HubSource:
    """What `text` names.

    Raises:
        ConfigError: when it names nothing that can be downloaded.
    """
    text = text.strip()
    if not _is_unicode(text) or _CONTROL.search(text):
        raise ConfigError(f"{key} = {text!r} holds characters that no URL can have.", param=key)
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "hf":
        return _parse_hf(rest, text, key)
    if scheme in _PORTS:
        return _parse_http(text, endpoint, key)
    if scheme == "file" or len(scheme) == 1 or text.startswith(("/", ".", "~", "\\")):
        raise ConfigError(f"{key} = {text!r} is on this machine: write its path as `file` instead.", param=key)
    raise ConfigError(f"{key} = {text!r} is not a URL that infs can fetch; write {FORMS}.", param=key)


def check_endpoint(text: str, key: str = "hub.endpoint") -> str:
    """`text` as the hub's URL, without a slash at its end.

    Raises:
        ConfigError: when it is no http(s) URL.
    """
    try:
        parts = urlsplit(text.strip())
        good = parts.scheme in _PORTS and bool(parts.hostname) and _port(parts) > 0 and not parts.query
    except ValueError:
        good = False
    if not good or _CONTROL.search(text):
        raise ConfigError(f"{key} (or HF_ENDPOINT) = {text!r} is not the URL of a hub, such as {HUB}.", param=key)
    return text.strip().rstrip("/")


def public_url(url: str) -> str:
    """`url` for people: without the user, the password and the query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def hub_file_url(endpoint: str, source: HubSource, revision: str) -> str:
    """Where the hub serves the file of `source`, at `revision`."""
    return f"{endpoint}/{source.repo}/resolve/{quote(revision, safe='')}/{quote(source.path)}"


def hub_tree_url(endpoint: str, source: HubSource) -> str:
    """Where the hub lists the folder of `source`, with all that is below it."""
    folder = f"/{quote(source.path)}" if source.path else ""
    return f"{endpoint}/api/models/{source.repo}/tree/{quote(source.revision, safe='')}{folder}?recursive=true"


# --- the parts ------------------------------------------------------------------------------------------------


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 0)


def _parse_hf(rest: str, text: str, key: str) -> HubSource:
    folder = rest.endswith("/")
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2:
        raise ConfigError(f"{key} = {text!r} names no repository; write hf:org/repo/file.gguf.", param=key)
    name, at, revision = parts[1].partition("@")
    following = parts[2:]
    if at:
        revision, following = _take_revision([revision, *following])
        revision = unquote(revision)
    return _hub_source([parts[0], name], revision or "main", following, folder or not following, text, key)


def _parse_http(text: str, endpoint: str, key: str) -> UrlSource | HubSource:
    try:
        parts = urlsplit(text)
        if not parts.hostname:
            raise ValueError("it has no host")
        base = _hub_base(parts, endpoint)
    except ValueError as error:
        raise ConfigError(f"{key} = {text!r} is not a URL: {error}.", param=key) from error
    if base is None:
        return UrlSource(text.partition("#")[0])
    segments = [unquote(part) for part in parts.path[len(base) :].split("/") if part]
    found = _parse_hub_path(segments, text, key)
    if found is None and parts.hostname in HUB_HOSTS:
        raise ConfigError(f"{key} = {text!r} is no model repository or file of the hub; write {FORMS}.", param=key)
    # Somebody's own endpoint may serve other files as well.
    return found or UrlSource(text.partition("#")[0])


def _hub_base(parts: SplitResult, endpoint: str) -> str | None:
    """The part of the path in front of the repository, when the URL is the hub's."""
    port = _port(parts)
    if parts.hostname in HUB_HOSTS:
        return ""
    own = urlsplit(endpoint)
    same = (parts.hostname, port) == (own.hostname, _port(own))
    return own.path if same and (parts.path + "/").startswith(own.path + "/") else None


def _parse_hub_path(segments: list[str], text: str, key: str) -> HubSource | None:
    if not segments or segments[0] in _NOT_MODELS:
        return None
    for repo_length in (1, 2):
        mark = segments[repo_length] if len(segments) > repo_length + 1 else ""
        if mark in _MARKS:
            revision, path = _take_revision(segments[repo_length + 1 :])
            if mark != "tree" and not path:
                return None
            return _hub_source(segments[:repo_length], revision, path, mark == "tree", text, key)
    if len(segments) == 2 and not segments[1].endswith(".gguf"):
        return _hub_source(segments, "main", [], True, text, key)
    return None


def _take_revision(segments: list[str]) -> tuple[str, list[str]]:
    """The revision at the beginning, and what follows; ``refs/pr/1`` is one revision."""
    length = 3 if segments[0] == "refs" and len(segments) > 2 else 1
    return "/".join(segments[:length]), segments[length:]


def _hub_source(repo: list[str], revision: str, path: list[str], folder: bool, text: str, key: str) -> HubSource:
    for part in repo:
        if not _REPO_PART.fullmatch(part) or ".." in part or "--" in part:
            raise ConfigError(f"{key} = {text!r}: {part!r} is no name of the hub; write {FORMS}.", param=key)
    if not _REVISION.fullmatch(revision) or not is_safe_path(revision) or revision.startswith("-"):
        raise ConfigError(f"{key} = {text!r}: {revision!r} is no revision.", param=key)
    joined = "/".join(path)
    if joined and not is_safe_path(joined):
        raise ConfigError(f"{key} = {text!r}: {joined!r} is no path inside a repository.", param=key)
    return HubSource("/".join(repo), revision, joined, folder)


def is_safe_path(path: str) -> bool:
    """Whether `path` (with forward slashes) stays below the folder that it is appended to, on any system."""
    if "\\" in path or _CONTROL.search(path):
        return False
    return all(part.strip() not in ("", ".", "..") for part in path.split("/"))
