from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from infs.config import HubConfig
from infs.store import RetryPolicy, Store
from infs.types import Progress
from tests.store.servers import HubServer, Server, hub_serving, serving

MakeStore = Callable[..., Store]


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
    ) -> Store:
        store = Store(
            cache_path,
            hub=HubConfig(endpoint=endpoint, token=token),
            environ={"HF_HOME": str(tmp_path / "hf"), **(environ or {})},
            retry=RetryPolicy(attempts=attempts, first=0.01, longest=2.0, timeout=10.0),
        )
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def events() -> list[Progress]:
    return []
