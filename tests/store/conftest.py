from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from infs.config import HubConfig, ModelConfig
from infs.store import Report, RetryPolicy, Store
from infs.store.rules import BUILTIN
from infs.store.selection import FileRule
from infs.types import Progress
from tests.store.servers import HubServer, Server, hub_serving, serving


class PathStore:
    """A store of which only the paths matter; `store` has the rest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.find = store.find
        self.close = store.close

    async def fetch(self, model: str, config: ModelConfig, progress: Report) -> Path | None:
        """Where the files of a model are."""
        fetched = await self.store.fetch(model, config, progress)
        return None if fetched is None else fetched.path


MakeStore = Callable[..., PathStore]


@pytest.fixture
def web() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as cdn, hub_serving(cdn) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest_asyncio.fixture
async def make_store(cache: Path, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Makes stores that are quick to try again, and that see nothing of this machine's own settings."""
    stores: list[Store] = []

    def make(
        endpoint: str | None = None,
        *,
        token: str | None = None,
        attempts: int = 3,
        environ: dict[str, str] | None = None,
        cache_path: Path | None = cache,
        offline: bool = False,
        rules: Mapping[str, FileRule] = BUILTIN,
    ) -> PathStore:
        store = Store(
            cache_path,
            hub=HubConfig(endpoint=endpoint, token=token, offline=offline),
            environ={"HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path / "home"), **(environ or {})},
            retry=RetryPolicy(attempts=attempts, first=0.01, longest=2.0, timeout=10.0),
            rules=rules,
        )
        stores.append(store)
        return PathStore(store)

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def events() -> list[Progress]:
    return []
