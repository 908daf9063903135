"""Cells that went to host memory and to disk come back as they were, or not at all, whatever befalls the files."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import pytest_asyncio

from infs.batching.tiers import BlockId, files
from infs.errors import WorkerDied
from infs.server import InferenceServer
from tests.engines.equality import STATES, assert_all_same_or_tie, plain_answers, plain_server, salted, server_of
from tests.engines.llama import engine_status, run_all, text
from tests.tiny import write_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = "The fox and the goat went to the river. The goat was sad, and the fox was glad. "
FIRST = [text(f"{name} {STORY * 3}", max_tokens=8, logprobs=3) for name in ("Ann", "Bob", "Cleo", "Dora")]
SECOND = [msgspec.structs.replace(one, prompt=f"{one.prompt} And then", max_tokens=32) for one in FIRST]
CACHED = 200  # tokens that the second ones share with the first ones, at least
ON_DISK = {"disk_cache": 1 << 28}
FEW_CELLS: dict[str, Any] = {"context_size": 320, "max_sequences": 2}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain(llama: Path) -> list[Any]:
    """The answers of `FIRST` and `SECOND`."""
    async with plain_server(llama) as server:
        return await plain_answers(server, FIRST + SECOND)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain_states(mamba: Path) -> list[Any]:
    async with plain_server(mamba, options=STATES) as server:
        return await plain_answers(server, FIRST + SECOND)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def written(llama: Path, folder: Path) -> Path:
    """The cache folder that a server has left, which was asked for `FIRST`; not to be changed."""
    return await written_by(llama, folder / "written")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def written_states(mamba: Path, folder: Path) -> Path:
    return await written_by(mamba, folder / "written-states", **STATES)


async def written_by(model: Path, folder: Path, **options: Any) -> Path:
    async with server_of(model, cache=folder, options={**ON_DISK, **options}) as server:
        await in_turn(server, FIRST)
    assert len(files_in(folder)) >= len(FIRST)
    return folder


async def in_turn(server: InferenceServer, requests: list[Any]) -> list[Any]:
    return [await server.run(request) for request in requests]


def files_in(cache: Path) -> list[Path]:
    """The files of blocks."""
    return sorted(cache.glob(f"contexts/*/*{files.SUFFIX}"))


async def tiers_of(server: InferenceServer) -> dict[str, Any]:
    """What the tiers have counted."""
    tiers: dict[str, Any] = (await engine_status(server))["tiers"]
    return tiers


# --- down and up again


async def test_cells_move_down_to_disk_and_up_again(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    """Cells for one conversation and host memory for another: the rest is on disk, and comes from there."""
    options = {"cache_tokens": 320, "host_cache": 150_000, **ON_DISK}
    async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
        assert_all_same_or_tie(plain[:4], await in_turn(server, FIRST))
        before = await engine_status(server)
        assert before["cells_evicted"] > 0
        assert before["tiers"]["host"]["evicted"] > 0
        assert before["restored_tokens"] == 0
        results = await in_turn(server, SECOND)
        assert_all_same_or_tie(plain[4:], results)
        assert results[0].usage.cached_tokens >= CACHED, "nothing was measured yet, so it is restored in any case"
        after = await engine_status(server)
    assert after["restored_tokens"] >= CACHED
    assert after["tiers"]["disk"]["hits"] > 0
    assert after["tiers"]["host"]["restored"] + after["tiers"]["disk"]["restored"] >= after["restored_tokens"]
    assert after["computed_tokens"] + after["cached_tokens"] >= after["prompt_tokens"]


async def test_from_disk_alone(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    """Without host memory the loop itself reads the files."""
    options = {"cache_tokens": 320, **ON_DISK}
    async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
        assert_all_same_or_tie(plain[:4], await in_turn(server, FIRST))
        await until_counted(server, "stored", 3)
        results = await in_turn(server, SECOND)
        assert_all_same_or_tie(plain[4:], results)
        tiers = await tiers_of(server)
    assert results[0].usage.cached_tokens >= CACHED
    assert tiers["disk"]["restored"] >= CACHED
    assert tiers["host"]["bytes"] == 0


async def until_counted(server: InferenceServer, name: str, count: int) -> None:
    """Wait until the tier on disk has counted so many."""
    async with asyncio.timeout(60):
        while (await tiers_of(server))["disk"][name] < count:  # noqa: ASYNC110 - it counts in another process
            await asyncio.sleep(0.02)


async def test_a_disk_that_holds_little(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    """What is over the limit goes; what is there never exceeds it once all is written."""
    limit = 250_000
    options = {"cache_tokens": 320, "disk_cache": limit}
    async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
        for _ in range(2):
            assert_all_same_or_tie(plain, await in_turn(server, FIRST + SECOND))
    sizes = [path.stat().st_size for path in files_in(tmp_path)]
    assert 0 < sum(sizes) <= limit


async def test_two_servers_at_work_share_a_folder(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    options = {"cache_tokens": 320, **ON_DISK}
    async with (
        server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as one,
        server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as two,
    ):
        await two.run(text("x", max_tokens=1))  # it has looked into the folder before anything was there
        assert_all_same_or_tie(plain[:4], await in_turn(one, FIRST))
        await until_counted(one, "stored", 3)
        result = await two.run(SECOND[0])
        assert_all_same_or_tie(plain[4:5], [result])
        assert result.usage.cached_tokens >= CACHED, "computed by the other"
        both = await asyncio.gather(*(run_all(server, (FIRST + SECOND) * 2) for server in (one, two)))
        for results in both:
            assert_all_same_or_tie(plain * 2, results)
        for server in (one, two):
            tiers = await tiers_of(server)
            assert (tiers["disk"]["corrupt"], tiers["disk"]["errors"]) == (0, 0)


# --- whose cells they are


@pytest.mark.parametrize("salts", [("one", "two"), (None, "one")], ids=str)
async def test_another_salt_never_gets_cached_tokens(
    llama: Path, tmp_path: Path, salts: tuple[str | None, str | None]
) -> None:
    """From the live cells, from host memory, or from the disk of a server before."""
    mine, other = ([salted(request, salt) for request in FIRST] for salt in salts)
    options = {"cache_tokens": 320, "host_cache": 1 << 28, **ON_DISK}
    for run in range(2):
        async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
            if run == 0:
                await in_turn(server, mine)
            stranger = await server.run(other[-1 - run])
            assert stranger.usage.cached_tokens == 0
            owner = await server.run(mine[-1 - run])
            assert owner.usage.cached_tokens >= CACHED
            stranger = await server.run(msgspec.structs.replace(other[0], prompt=f"{FIRST[run].prompt} too"))
            assert stranger.usage.cached_tokens == 0


# --- damaged files


def flip(data: bytes) -> bytes:
    """One bit in the middle of the states."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def flip_header(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 1]) + data[61:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip,
    "flipped-in-the-header": flip_header,
    "truncated": lambda data: data[: len(data) // 2],
    "one-byte-short": lambda data: data[:-1],
    "too-long": lambda data: data + b"\0",
    "empty": lambda data: b"",
}


def damage_all(cache: Path, damage: Callable[[bytes], bytes]) -> int:
    """Damage every file; how many there are."""
    paths = files_in(cache)
    for path in paths:
        path.write_bytes(damage(path.read_bytes()))
    return len(paths)


def copied(cache: Path, to: Path) -> Path:
    shutil.copytree(cache, to)
    return to


async def check_nothing_comes_back(server: InferenceServer, plain: list[Any]) -> None:
    results = await in_turn(server, SECOND)
    assert_all_same_or_tie(plain[4:], results)
    assert all(result.usage.cached_tokens <= 1 for result in results)
    status = await engine_status(server)
    assert status["restored_tokens"] == 0
    assert status["tiers"]["disk"]["hits"] == 0


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damaged_files_are_misses(
    llama: Path, plain: list[Any], written: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache = copied(written, tmp_path / "cache")
    count = damage_all(cache, damage)
    async with server_of(llama, cache=cache, options={"host_cache": 1 << 28, **ON_DISK}) as server:
        await check_nothing_comes_back(server, plain)
        disk = (await tiers_of(server))["disk"]
        assert len(FIRST) <= disk["corrupt"] <= count
    async with server_of(llama, cache=cache, options=ON_DISK) as server:
        result = await server.run(SECOND[0])
        assert_all_same_or_tie(plain[4:5], [result])
        assert result.usage.cached_tokens >= CACHED, "what was damaged has been written again"


@pytest.mark.parametrize("damage", [flip, DAMAGES["truncated"]], ids=["flipped", "truncated"])
async def test_damaged_states_are_misses(
    mamba: Path, plain_states: list[Any], written_states: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    cache = copied(written_states, tmp_path / "cache")
    damage_all(cache, damage)
    async with server_of(mamba, cache=cache, options={**ON_DISK, **STATES}) as server:
        await check_nothing_comes_back(server, plain_states)
        assert (await tiers_of(server))["disk"]["corrupt"] > 0


async def test_files_of_others_under_a_name_are_misses(
    llama: Path, plain: list[Any], written: Path, tmp_path: Path
) -> None:
    """Each has what another one has: whole, with its checksum, and not what its name says."""
    cache = copied(written, tmp_path / "cache")
    paths = files_in(cache)
    for path, data in zip(paths, [path.read_bytes() for path in [*paths[1:], paths[0]]], strict=True):
        path.write_bytes(data)
    async with server_of(llama, cache=cache, options=ON_DISK) as server:
        await check_nothing_comes_back(server, plain)
        assert (await tiers_of(server))["disk"]["corrupt"] == len(paths)


@pytest.mark.parametrize("what", ["damaged", "deleted", "folder-deleted"])
async def test_files_that_change_under_a_running_server(
    llama: Path, plain: list[Any], written: Path, tmp_path: Path, what: str
) -> None:
    """The server has seen them, and counts on them."""
    cache = copied(written, tmp_path / "cache")
    async with server_of(llama, cache=cache, options=ON_DISK) as server:
        first = await server.run(SECOND[0])
        assert first.usage.cached_tokens >= CACHED
        if what == "damaged":
            damage_all(cache, flip)
        elif what == "deleted":
            for path in files_in(cache):
                path.unlink()
        else:
            shutil.rmtree(cache / "contexts")
        results = await in_turn(server, SECOND[1:])
        assert_all_same_or_tie(plain[4:], [first, *results])
        assert all(result.usage.cached_tokens < CACHED for result in results)
        assert (await tiers_of(server))["disk"]["hits"] == 1


def reseal(cache: Path, change: Callable[[bytes], bytes]) -> None:
    """Give every file other data, with checksums that are right: only llama.cpp can see that they are no states."""
    for path in files_in(cache):
        block, data = files.read_data(path, BlockId(path.parent.name, path.name.removesuffix(files.SUFFIX)))
        wrong = change(data)
        path.write_bytes(files.head(block, wrong) + wrong)


REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "short": lambda data: data[: len(data) * 2 // 3],
    "nothing": lambda data: b"",
    "noise": lambda data: b"\xff" * len(data),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
async def test_states_that_llama_cpp_refuses_are_computed(
    llama: Path, plain: list[Any], written: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    cache = copied(written, tmp_path / "cache")
    reseal(cache, change)
    async with server_of(llama, cache=cache, options={"host_cache": 1 << 28, **ON_DISK}) as server:
        results = await in_turn(server, SECOND)
        assert_all_same_or_tie(plain[4:], results)
        assert all(result.usage.cached_tokens <= 1 for result in results)
        assert (await engine_status(server))["restored_tokens"] == 0


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
async def test_a_refused_state_leaves_the_one_that_was_there(
    mamba: Path, plain_states: list[Any], written_states: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """A live state of a part of the prompt is there, and a longer one on disk, which cannot be read."""
    cache = copied(written_states, tmp_path / "cache")
    reseal(cache, change)
    async with server_of(mamba, cache=cache, options={**ON_DISK, **STATES}) as server:
        for request, choice in zip(SECOND, plain_states[4:], strict=True):
            assert isinstance(request.prompt, str)
            half = len(request.prompt) // 2
            await server.run(msgspec.structs.replace(request, prompt=request.prompt[:half], max_tokens=0))
            result = await server.run(request)
            assert_all_same_or_tie([choice], [result])
            assert 0 < result.usage.cached_tokens <= half
        assert (await engine_status(server))["restored_tokens"] == 0


# --- a disk that takes nothing


async def test_a_folder_that_cannot_be_made(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    (tmp_path / "contexts").write_text("a file where a folder should be")
    options = {"cache_tokens": 320, "host_cache": 1 << 28, **ON_DISK}
    async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
        await check_serving_without_disk(server, plain)
    assert (tmp_path / "contexts").is_file()


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Processes that are started in here can write no larger files: to them the disk is full."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the files of a process")
async def test_a_disk_that_is_full(llama: Path, plain: list[Any], tmp_path: Path) -> None:
    options = {"cache_tokens": 320, "host_cache": 1 << 28, **ON_DISK}
    async with server_of(llama, cache=tmp_path, options=options, **FEW_CELLS) as server:
        with files_of_at_most(20_000):
            await server.run(text("x", max_tokens=1))
        await check_serving_without_disk(server, plain)
    left = [path for path in (tmp_path / "contexts").rglob("*") if path.is_file()]
    assert all(path.stat().st_size <= 20_000 and path.suffix == files.SUFFIX for path in left), "nothing half-written"


async def check_serving_without_disk(server: InferenceServer, plain: list[Any]) -> None:
    """Answers are right, cells still go to host memory and come back, and the failures are counted."""
    assert_all_same_or_tie(plain[:4], await in_turn(server, FIRST))
    results = await in_turn(server, SECOND)
    assert_all_same_or_tie(plain[4:], results)
    assert results[0].usage.cached_tokens >= CACHED
    assert_all_same_or_tie(plain, await run_all(server, FIRST + SECOND))
    await until_counted(server, "errors", 1)
    assert (await tiers_of(server))["disk"]["hits"] == 0


# --- killed


async def test_a_process_killed_while_it_saves(tmp_path: Path, folder: Path) -> None:
    """Again and again, at another place each time; whoever comes next finds whole files, or none."""
    model = write_llama(folder / "deep.gguf", context=512, layers=8)
    async with plain_server(model) as server:
        plain = await plain_answers(server, SECOND)
    options = {"cache_tokens": 320, **ON_DISK}
    async with server_of(model, cache=tmp_path, options=options, **FEW_CELLS) as server:
        for kill in range(2):
            await server.run(text("x", max_tokens=1))
            worker = psutil.Process((await engine_status(server))["pid"])
            killing = asyncio.create_task(kill_while_writing(worker, tmp_path))
            await asyncio.gather(
                *(server.run(salted(request, f"{kill} {n}")) for n in range(4) for request in FIRST),
                return_exceptions=True,
            )
            await killing  # disks wait until nothing is computed
            await until_replaced(server)
        for _ in range(2):
            assert_all_same_or_tie(plain, await in_turn(server, SECOND))
        disk = (await tiers_of(server))["disk"]
    assert (disk["corrupt"], disk["errors"]) == (0, 0)
    for path in files_in(tmp_path):
        files.read_data(path, BlockId(path.parent.name, path.name.removesuffix(files.SUFFIX)))


async def until_replaced(server: InferenceServer) -> None:
    """Requests may come before the server has seen that its worker is gone."""
    for _ in range(100):
        with contextlib.suppress(WorkerDied):
            await server.run(text("x", max_tokens=1))
            return
        await asyncio.sleep(0.05)


async def kill_while_writing(worker: psutil.Process, cache: Path) -> None:
    """SIGKILL, or the like, as soon as a file is seen half-written; else between two of many that are to be written."""
    before = len(files_in(cache))

    def watch() -> None:
        while len(files_in(cache)) < before + 3:
            if any(cache.glob(f"contexts/*/*{files.TEMPORARY}")):
                break
        worker.kill()
        worker.wait(60)

    await asyncio.to_thread(watch)
