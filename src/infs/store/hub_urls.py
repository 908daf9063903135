"""What URLs mean to a hub: repositories, revisions and files, taken apart and put together."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

from infs.errors import ConfigError
from infs.store.kinds import CONTROL, HubSource, UrlSource, is_safe_path

HUB = "https://huggingface.co"
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
PORTS = {"http": 80, "https": 443}
FORMS = (
    "hf:org/repo/file.gguf, hf:org/repo:Q4_K_M, hf:org/repo@revision/file.gguf, "
    "https://huggingface.co/org/repo/blob/main/file.gguf, ollama:name:tag, lmstudio:publisher/repo "
    "or any other http(s) URL"
)

_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?|[A-Za-z0-9_]")
_REVISION = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\@]+")
_QUANT = re.compile(r"(?!.*\.gguf$)[A-Za-z][A-Za-z0-9_.-]{0,63}", re.IGNORECASE)
_MARKS = ("blob", "resolve", "raw", "tree")
_NOT_MODELS = ("datasets", "spaces", "api")


def check_endpoint(text: str, key: str = "hub.endpoint") -> str:
    """`text` as the hub's URL, without a slash at its end.

    Raises:
        ConfigError: when it is no http(s) URL.
    """
    try:
        parts = urlsplit(text.strip())
        good = parts.scheme in PORTS and bool(parts.hostname) and _port(parts) > 0 and not parts.query
    except ValueError:
        good = False
    if not good or CONTROL.search(text):
        raise ConfigError(f"{key} (or HF_ENDPOINT) = {text!r} is not the URL of a hub, such as {HUB}.", param=key)
    return text.strip().rstrip("/")


def hub_file_url(endpoint: str, source: HubSource, revision: str) -> str:
    """Where the hub serves the file of `source`, at `revision`."""
    return f"{endpoint}/{source.repo}/resolve/{quote(revision, safe='')}/{quote(source.path)}"


def hub_tree_url(endpoint: str, source: HubSource) -> str:
    """Where the hub lists the folder of `source`, with all that is below it."""
    folder = f"/{quote(source.path)}" if source.path else ""
    return f"{endpoint}/api/models/{source.repo}/tree/{quote(source.revision, safe='')}{folder}?recursive=true"


def parse_hf(rest: str, text: str, key: str) -> HubSource:
    """What follows ``hf:`` in `text`.

    Raises:
        ConfigError: it is no name of the hub.
    """
    rest, quant = take_quant(rest)
    folder = rest.endswith("/") or bool(quant)
    parts = [part for part in rest.split("/") if part]
    if len(parts) < 2:
        raise ConfigError(f"{key} = {text!r} names no repository; write hf:org/repo/file.gguf.", param=key)
    name, at, revision = parts[1].partition("@")
    following = parts[2:]
    if at:
        revision, following = _take_revision([revision, *following])
        revision = unquote(revision)
    found = _hub_source([parts[0], name], revision or "main", following, folder or not following, text, key)
    return msgspec.structs.replace(found, quant=quant)


def take_quant(text: str) -> tuple[str, str]:
    """`text` without the quantisation behind its last colon, and that; empty where there is none."""
    before, _, last = text.rpartition(":")
    return (before, last) if before and _QUANT.fullmatch(last) else (text, "")


def parse_http(text: str, endpoint: str, key: str) -> UrlSource | HubSource:
    """What an http(s) URL names: something of the hub, whose URL is `endpoint`, or any file.

    Raises:
        ConfigError: it is no URL, or one of the hub that is no model.
    """
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


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS.get(parts.scheme, 0)
