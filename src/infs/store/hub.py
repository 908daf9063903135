"""The hub's protocol: what a file is, and what a folder holds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from infs.config import HubConfig
from infs.errors import ConfigError, DownloadFailed, SourceForbidden, SourceNotFound
from infs.store.hubcache import hub_home, is_commit
from infs.store.selection import RepoFile
from infs.store.source import HUB, HubSource, check_endpoint, hub_file_url, hub_tree_url, is_safe_path
from infs.store.web import RetryPolicy, ask

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

_MOST_PAGES = 50
_ETAG = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub says of a file: the commit it was found at, the name of its content, its bytes, and its URL."""

    commit: str
    etag: str
    size: int | None
    url: str

    @property
    def sha256(self) -> str | None:
        """The checksum, for files that the hub names by it: all large ones."""
        return self.etag if _SHA256.fullmatch(self.etag) else None


class Hub:
    """A hub, and who asks.

    Args:
        config: endpoint and token; what it leaves out is taken from `environ`, and the token at last from the
            file that the hub's own tools keep it in.
    """

    def __init__(self, config: HubConfig, environ: Mapping[str, str], policy: RetryPolicy) -> None:
        self.endpoint = check_endpoint(config.endpoint or environ.get("HF_ENDPOINT") or HUB)
        self.offline = config.offline or environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        self._token = config.token or environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
        self._token_file = hub_home(environ) / "token"
        self._policy = policy

    def headers(self) -> dict[str, str]:
        """The headers that tell the hub who asks; for the hub's own host only.

        Raises:
            ConfigError: the token is none.
        """
        token = (self._token or _read(self._token_file)).strip()
        if not token:
            return {}
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                "hub.token (or HF_TOKEN) is not a token: it holds spaces or other characters.", param="hub.token"
            )
        return {"Authorization": f"Bearer {token}"}

    async def describe(self, client: httpx.AsyncClient, source: HubSource) -> HubFile:
        """What the hub says of the file of `source`.

        Raises:
            SourceNotFound, SourceForbidden, DownloadFailed
        """
        url = hub_file_url(self.endpoint, source, source.revision)
        response = await self._ask(client, "HEAD", url, source)
        headers = response.headers
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        commit = headers.get("X-Repo-Commit", "")
        if not is_commit(commit) or not _ETAG.fullmatch(etag) or etag.strip(".") == "":
            raise DownloadFailed(
                f"{self.endpoint} does not speak the hub's protocol: its answer for {source} names no commit or no "
                f"content. Check hub.endpoint (or HF_ENDPOINT), and whether a proxy is in between."
            )
        length = headers.get("X-Linked-Size") or (
            "" if response.has_redirect_location else headers.get("Content-Length")
        )
        size = int(length) if length and length.isdecimal() else None
        return HubFile(commit=commit, etag=etag, size=size, url=hub_file_url(self.endpoint, source, commit))

    async def files(self, client: httpx.AsyncClient, source: HubSource) -> list[RepoFile]:
        """The files in the folder of `source`, their paths starting there.

        Raises:
            SourceNotFound, SourceForbidden, DownloadFailed
        """
        found: list[RepoFile] = []
        url: str | None = hub_tree_url(self.endpoint, source)
        for _ in range(_MOST_PAGES):
            if url is None:
                break
            response = await self._ask(client, "GET", url, source)
            found += _files(response)
            url = response.links.get("next", {}).get("url")
        above = f"{source.path}/" if source.path else ""
        return [
            RepoFile(file.path.removeprefix(above), file.size)
            for file in found
            if file.path.startswith(above) and is_safe_path(file.path)
        ]

    async def _ask(self, client: httpx.AsyncClient, method: str, url: str, source: HubSource) -> httpx.Response:
        if self.offline:
            raise forbidden(str(source))
        headers = self.headers()
        response = await ask(client, self._policy, method, url, headers)
        self._check(response, source, bool(headers))
        return response

    def _check(self, response: httpx.Response, source: HubSource, with_token: bool) -> None:
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        page = f"{self.endpoint}/{source.repo}"
        if code == "GatedRepo" or status == 403:
            raise SourceForbidden(_gated(source, page, with_token))
        if status == 401:
            raise SourceForbidden(_unauthorized(source, page, with_token))
        if status in (404, 410):
            raise SourceNotFound(_not_found(source, code, page))
        if status >= 400:
            raise DownloadFailed(f"The hub at {self.endpoint} answered {status} {response.reason_phrase} for {source}.")


def forbidden(name: str) -> SourceNotFound:
    """The error for what is not here and must not be downloaded."""
    return SourceNotFound(
        f"{name} is not in the cache, and offline mode (hub.offline, or HF_HUB_OFFLINE=1) forbids to download it."
    )


def _gated(source: HubSource, page: str, with_token: bool) -> str:
    token = "create a token there, and set HF_TOKEN (or hub.token) to it"
    if with_token:
        token = "and check that the token in HF_TOKEN (or hub.token) is that user's"
    return f"{source} is not open to everybody: accept its licence at {page}, {token}."


def _unauthorized(source: HubSource, page: str, with_token: bool) -> str:
    if with_token:
        return (
            f"The hub does not accept the token in HF_TOKEN (or hub.token) for {source}, or there is no such "
            f"repository. Check {page}"
        )
    return (
        f"{source} does not exist, or is private: check the name at {page}, and for a private or gated repository "
        f"set HF_TOKEN (or hub.token)."
    )


def _not_found(source: HubSource, code: str, page: str) -> str:
    if code == "RevisionNotFound":
        return f"{page} has no revision {source.revision!r}."
    if code == "EntryNotFound":
        return f"{page} has no file or folder {source.path!r} at revision {source.revision!r}."
    return f"{source} is not there: check the repository, the revision and the file at {page}"


def _files(response: httpx.Response) -> list[RepoFile]:
    try:
        entries = msgspec.json.decode(response.content, type=list[_Entry])
    except msgspec.DecodeError as error:
        raise DownloadFailed(f"{response.url.copy_with(query=None)} is not a list of files: {error}.") from error
    return [RepoFile(entry.path, entry.size) for entry in entries if entry.type == "file"]


class _Entry(msgspec.Struct):
    type: str = ""
    path: str = ""
    size: int | None = None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return ""
