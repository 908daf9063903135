"""What a model that is not on this machine would bring: asked of the hub, or of the server of a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from infs.cli.models.here import Here
from infs.config import ModelConfig
from infs.errors import SourceNotFound
from infs.store.hub import Hub, forbidden
from infs.store.names import part_urls
from infs.store.queries import folder_of, place_of, wish_of
from infs.store.rules import FORMATS
from infs.store.selection import FileRule, RepoFile, Wish, counted
from infs.store.source import HubSource, UrlSource, public_url
from infs.store.web import RetryPolicy, ask, check_answer, open_client

if TYPE_CHECKING:
    import httpx

POLICY = RetryPolicy(attempts=3)
_REDIRECTS = 10


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be fetched.

    Attributes:
        reference: as one writes it as `url` in a configuration.
        format: ``"GGUF model"`` and the like; empty where the names do not tell.
        files: with their bytes, where these are known.
        beside: files that it can make use of, which are fetched where the configuration asks for them.
    """

    reference: str
    format: str = ""
    label: str = ""
    files: list[RepoFile]
    beside: list[RepoFile] = []

    @property
    def bytes(self) -> int | None:
        """All of it, as far as that is known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


async def ask_source(here: Here, config: ModelConfig, source: HubSource | UrlSource) -> list[Offered]:
    """The models that `source` stands for, of which nothing is downloaded.

    Raises:
        SourceError: there is none, nobody answers, or offline mode forbids to ask.
        ConfigError: the token of the hub is none.
    """
    hub = Hub(here.config.hub, here.environ, POLICY)
    client = await open_client(POLICY)
    try:
        if isinstance(source, HubSource):
            files = await hub.files(client, folder_of(source))
            return _offered(source, config, files)
        if hub.offline:
            raise forbidden(public_url(source.url))
        parts = [RepoFile(_name(url), await _size(client, url)) for url in part_urls(source.url)]
    finally:
        await client.aclose()
    return [Offered(reference=public_url(source.url), files=parts)]


def _offered(source: HubSource, config: ModelConfig, files: list[RepoFile]) -> list[Offered]:
    """The models in `files`; else the one that is named, whatever it is."""
    wish = wish_of(config, source)
    if not source.folder:
        wish = msgspec.structs.replace(wish, path=source.path)
    there = counted(files, wish)
    found = [offered for rule in FORMATS for offered in _of_format(rule, source, there, wish)]
    named = [file for file in there if file.path == source.path]
    if not found and named:
        return [Offered(reference=str(source), files=named)]
    if not found:
        wanted = f" that {source} could mean" if source.path or source.quant else ""
        raise SourceNotFound(f"{folder_of(source)} holds {len(files)} files, and no model{wanted}.")
    return found


def _of_format(rule: FileRule, source: HubSource, files: list[RepoFile], wish: Wish) -> list[Offered]:
    sizes = {file.path: file for file in files}
    return [
        Offered(
            reference=place_of(source).write(each),
            format=rule.format,
            label=each.label,
            files=[sizes[name] for name in each.files if name in sizes],
            beside=[sizes[name] for name in each.beside.values() if name in sizes],
        )
        for each in rule.select(files, wish)
    ]


def _name(url: str) -> str:
    return public_url(url).rpartition("/")[2]


async def _size(client: httpx.AsyncClient, url: str) -> int | None:
    """Bytes of what is at `url`, behind redirects."""
    at = url
    for _ in range(_REDIRECTS):
        response = await ask(client, POLICY, "HEAD", at, {})
        if response.next_request is None:
            break
        at = str(response.next_request.url)
    check_answer(response, url)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None
