"""What a model's `url` or `file` means. Pure: no network, and no disk but for ``~``."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from infs.config import ModelConfig
from infs.errors import ConfigError
from infs.store.hub_urls import (
    FORMS,
    HUB,
    PORTS,
    check_endpoint,
    hub_file_url,
    hub_tree_url,
    parse_hf,
    parse_http,
    take_quant,
)
from infs.store.kinds import (
    CONTROL,
    OLLAMA_HOST,
    FileSource,
    HubSource,
    LmStudioSource,
    OllamaSource,
    Source,
    UrlSource,
    is_safe_path,
)

__all__ = [
    "HUB",
    "FileSource",
    "HubSource",
    "LmStudioSource",
    "OllamaSource",
    "Source",
    "UrlSource",
    "check_endpoint",
    "find_source",
    "hub_file_url",
    "hub_tree_url",
    "is_safe_path",
    "is_url",
    "parse_file",
    "parse_url",
    "public_url",
]

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
_SCHEMES = ("hf", "ollama", "lmstudio", *PORTS)


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


def parse_url(text: str, endpoint: str = HUB, key: str = "url") -> Source:
    """What `text` names: anything but a `FileSource`.

    Raises:
        ConfigError: when it names nothing that can be had.
    """
    text = text.strip()
    if not _is_unicode(text) or CONTROL.search(text):
        raise ConfigError(f"{key} = {text!r} holds characters that no URL can have.", param=key)
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "hf":
        return parse_hf(rest, text, key)
    if scheme == "ollama":
        return _parse_ollama(rest, text, key)
    if scheme == "lmstudio":
        return _parse_lmstudio(rest, text, key)
    if scheme in PORTS:
        return parse_http(text, endpoint, key)
    if scheme == "file" or len(scheme) == 1 or text.startswith(("/", ".", "~", "\\")):
        raise ConfigError(f"{key} = {text!r} is on this machine: write its path as `file` instead.", param=key)
    raise ConfigError(f"{key} = {text!r} is not a URL that infs can fetch; write {FORMS}.", param=key)


def is_url(text: str) -> bool:
    """Whether `text` is meant as what `parse_url` takes, and not as a path."""
    scheme, colon, _ = text.strip().partition(":")
    return bool(colon) and scheme.lower() in _SCHEMES


def public_url(url: str) -> str:
    """`url` for people: without the user, the password and the query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


# --- the parts ------------------------------------------------------------------------------------------------


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_ollama(rest: str, text: str, key: str) -> OllamaSource:
    """``name``, ``user/name`` or ``host/user/name``, and the tag behind a colon."""
    parts = rest.strip("/").split("/")
    last, colon, tag = parts[-1].partition(":")
    parts = [*parts[:-1], last]
    tag = tag if colon else "latest"
    # Only the host may have a port, and Ollama's own has none.
    if not 1 <= len(parts) <= 3 or not all(_is_name(part) for part in (*parts, tag)):
        raise ConfigError(f"{key} = {text!r} is no model of Ollama; write ollama:name or ollama:name:tag.", param=key)
    host = [] if len(parts) == 3 else [OLLAMA_HOST]
    user = ["library"] if len(parts) == 1 else []
    return OllamaSource("/".join([*host, *user, *parts]), tag)


def _parse_lmstudio(rest: str, text: str, key: str) -> LmStudioSource:
    """``publisher/name``, and a file in there, or a quantisation."""
    rest, quant = take_quant(rest.strip("/"))
    parts = rest.split("/")
    path = "/".join(parts[2:])
    good = len(parts) >= 2 and all(_is_name(part) for part in parts[:2]) and not (path and quant)
    if not good or (path and not is_safe_path(path)):
        raise ConfigError(
            f"{key} = {text!r} is no model of LM Studio; write lmstudio:publisher/name, "
            f"lmstudio:publisher/name:Q4_K_M or lmstudio:publisher/name/file.gguf.",
            param=key,
        )
    return LmStudioSource("/".join(parts[:2]), path, quant)


def _is_name(part: str) -> bool:
    return _NAME.fullmatch(part) is not None and ".." not in part
