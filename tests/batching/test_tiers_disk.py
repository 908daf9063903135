"""The tier on disk: damage, full disks, missing rights, killed and competing processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infs.batching.tiers import Block, DiskCache, Tiers, files
from infs.batching.tiers.blocks import Tokens, encode, space_id
from tests.batching import tiers_process
from tests.batching.tiers_process import made

LARGE = 1 << 30
POSIX = sys.platform != "win32"


def opened(folder: Path, limit: int = LARGE) -> DiskCache:
    return DiskCache(folder, limit, floor=0)


def file_of(folder: Path, block: Block) -> Path:
    return folder / block.id.space / f"{block.id.name}.kv"


def block_of(tokens: list[int], start: int = 0, *, space: str = "s", size: int = 0, whole: bool = False) -> Block:
    return Tokens(space_id(space), encode(tokens)).block(start, size, whole=whole)


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- what is written is read


@given(
    tokens=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=30),
    at=st.floats(0, 0.99),
    data=st.binary(max_size=300),
    whole=st.booleans(),
)
def test_what_is_written_is_read_by_another(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int], at: float, data: bytes, whole: bool
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    block = block_of(tokens, 0 if whole else int(at * len(tokens)), size=len(data), whole=whole)
    assert opened(folder).write(block, bytearray(data)).added == [block]
    other = opened(folder)
    assert other.refresh(block.id.space).added == [block]
    assert other.read(block.id) == (block, data)
    assert other.refresh(block.id.space).added == []


def test_data_of_many_megabytes(tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 12
    block = block_of([1, 2], size=len(data))
    cache = opened(tmp_path)
    cache.write(block, data)
    assert cache.read(block.id) == (block, data)


def test_what_others_write_and_delete_is_noticed(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    first, second = block_of([1], size=3), block_of([2], size=3)
    assert two.refresh(first.id.space) == one.refresh(first.id.space)
    one.write(first, b"abc")
    assert two.refresh(first.id.space).added == [first]
    one.write(second, b"abc")
    file_of(tmp_path, first).unlink()
    change = two.refresh(first.id.space)
    assert (change.added, change.gone) == ([second], [first.id])
    shutil.rmtree(tmp_path / first.id.space)
    assert two.refresh(first.id.space).gone == [second.id]
    assert two.read(second.id) is None
    assert two.counts().errors == 0


def test_what_was_evicted_here_and_written_elsewhere_is_noticed(tmp_path: Path) -> None:
    one, two, first, second = (
        opened(tmp_path, 1500),
        opened(tmp_path),
        block_of([1], size=1000),
        block_of([2], size=1000),
    )
    one.write(first, bytes(1000))
    assert one.write(second, bytes(1000)).gone == [first.id]
    two.write(first, bytes(1000))
    assert one.refresh(first.id.space).added == [first]
    assert one.counts().entries == 2


def test_a_folder_that_has_not_changed_for_long_is_not_listed_again(tmp_path: Path) -> None:
    cache, first, second = opened(tmp_path), block_of([1]), block_of([2])
    cache.write(first, b"")
    folder = tmp_path / first.id.space
    os.utime(folder, (1000, 1000))
    cache.refresh(first.id.space)
    opened(tmp_path).write(second, b"")
    os.utime(folder, (1000, 1000))
    assert cache.refresh(first.id.space).added == []
    os.utime(folder, (2000, 2000))
    assert cache.refresh(first.id.space).added == [second]


def test_files_are_private(tmp_path: Path) -> None:
    block = block_of([1], size=1)
    opened(tmp_path / "new" / "cache").write(block, b"x")
    file = file_of(tmp_path / "new" / "cache", block)
    if POSIX:
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert file.parent.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(file.parent) == [file.name]


# --- damage


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "a bit": lambda old, at: old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :],
    "a byte": lambda old, at: old[:at] + bytes([old[at] ^ 0xFF]) + old[at + 1 :],
    "cut": lambda old, at: old[:at],
    "longer": lambda old, at: old + old[:1] * (at + 1),
    "a byte more": lambda old, at: old[:at] + b"\0" + old[at:],
    "a byte less": lambda old, at: old[:at] + old[at + 1 :],
    "zeros from here": lambda old, at: old[:at] + b"\xa5" * (len(old) - at),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_at_any_place_is_a_miss_and_the_file_goes(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    data = bytes(range(60))
    block = block_of([1, 2, 3], 1, size=60)
    cache, file = opened(tmp_path), file_of(tmp_path, block)
    cache.write(block, data)
    good = file.read_bytes()
    for at in range(len(good)):
        file.write_bytes(DAMAGE[kind](good, at))
        assert cache.read(block.id) is None, at
        assert not file.exists()
    assert cache.counts().corrupt == len(good)
    cache.write(block, data)
    assert cache.read(block.id) == (block, data)


@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=60)
def test_after_any_changes_data_are_exact_or_gone(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int, bool]]
) -> None:
    folder, data = tmp_path_factory.mktemp("cache"), bytes(range(100))
    tiers = Tiers(host_bytes=0, disk=opened(folder))
    tiers.put("s", [1, 2, 3], 1, data)
    assert tiers.flush(60)
    tiers.close()
    (file,) = folder.rglob("*.kv")
    content = bytearray(file.read_bytes())
    for at, byte, cut in changes:
        content[int(at * len(content)) : int(at * len(content)) + 1] = bytes([byte])
        if cut:
            del content[-byte:]
        if not content:
            content = bytearray(b"\0")
    same = content == file.read_bytes()
    file.write_bytes(content)
    tiers = Tiers(host_bytes=1000, disk=opened(folder))
    tiers.prefetch("s", [1, 2, 3], 1, 3)
    pieces = tiers.find("s", [1, 2, 3], 1, 3)
    assert [tiers.get(piece) for piece in pieces] == [data] * same
    assert file.exists() == same
    assert tiers.counts()["disk"].corrupt == (not same)
    tiers.close()


def test_the_file_of_another_block_is_a_miss(tmp_path: Path) -> None:
    cache, one, two = opened(tmp_path), block_of([1], size=1), block_of([2], size=1)
    elsewhere = block_of([1], size=1, space="t")
    cache.write(one, b"1")
    for other in (two, elsewhere):
        file_of(tmp_path, other).parent.mkdir(exist_ok=True)
        shutil.copy(file_of(tmp_path, one), file_of(tmp_path, other))
    assert cache.refresh(one.id.space).added == []
    assert cache.refresh(elsewhere.id.space).added == []
    assert cache.read(one.id) == (one, b"1")
    assert cache.counts().corrupt == 2
    assert len(list(tmp_path.rglob("*.kv"))) == 1


def test_a_file_of_another_version_is_a_miss(tmp_path: Path) -> None:
    cache, block = opened(tmp_path), block_of([1], size=1)
    cache.write(block, b"1")
    file = file_of(tmp_path, block)
    content = file.read_bytes()
    magic, _, length = struct.unpack_from(">8sII", content)
    prefix, header = struct.pack(">8sII", magic, files.VERSION + 1, length), content[48 : 48 + length]
    assert content == content[:16] + files._seal(content[:16], header) + header + b"1"
    file.write_bytes(prefix + files._seal(prefix, header) + header + b"1")
    assert opened(tmp_path).refresh(block.id.space).added == []
    assert not file.exists()


@pytest.mark.parametrize(
    "change",
    [{"start": -1}, {"size": -1}, {"run": b""}, {"run": b"123"}, {"whole": 1}, {"space": "t"}, {"more": 1}],
    ids=str,
)
def test_a_sealed_header_that_makes_no_sense_is_a_miss(tmp_path: Path, change: dict[str, object]) -> None:
    import msgspec

    cache, block = opened(tmp_path), block_of([1], size=1)
    cache.write(block, b"1")
    file = file_of(tmp_path, block)
    content = file.read_bytes()
    length = struct.unpack_from(">8sII", content)[2]
    header = msgspec.msgpack.encode(msgspec.msgpack.decode(content[48 : 48 + length]) | change)
    prefix = struct.pack(">8sII", content[:8], files.VERSION, len(header))
    file.write_bytes(prefix + files._seal(prefix, header) + header + b"1")
    assert cache.read(block.id) is None
    assert not file.exists()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    block = block_of([1], size=100)
    file = file_of(tmp_path, block)
    file.parent.mkdir()
    strange = [tmp_path / "notes.txt", file.parent / "notes.txt", tmp_path / "photos" / "a.kv"]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    cache = opened(tmp_path, 1000)
    for i in range(10):
        cache.write(block_of([i], size=400), bytes(400))
    assert [path.read_text() for path in strange] == ["mine"] * 3
    assert cache.counts().evicted == 9


# --- room


def test_the_least_recently_used_goes_and_the_limit_holds(tmp_path: Path) -> None:
    cache, blocks = opened(tmp_path, 5000), [block_of([i], size=1000, space=f"{i % 2}") for i in range(12)]
    for age, block in enumerate(blocks[:4]):
        cache.write(block, bytes(1000))
        os.utime(file_of(tmp_path, block), (1000 + age, 1000 + age))
    opened(tmp_path, 5000).use(blocks[0].id)  # another process uses it
    assert cache.write(blocks[4], bytes(1000)).gone == [blocks[1].id]
    for block in blocks[5:]:
        cache.write(block, bytes(1000))
        assert total(tmp_path) <= 5000
        assert cache.counts().bytes == total(tmp_path)
        assert cache.read(block.id) is not None


def test_what_others_write_counts_towards_the_limit(tmp_path: Path) -> None:
    caches = [opened(tmp_path, 20_000) for _ in range(3)]
    for i in range(60):
        caches[i % 3].write(block_of([i], size=500, space=f"{i % 2}"), bytes(500))
        assert total(tmp_path) <= 20_000 + 3 * (20_000 // 16 + 800)
    gone = caches[0].tidy().gone
    assert total(tmp_path) <= 20_000
    assert caches[0].counts().bytes == total(tmp_path)
    assert not any(file_of(tmp_path, block_of([i], space=f"{i % 2}")).exists() for i in range(3))
    assert all(not (tmp_path / id.space / f"{id.name}.kv").exists() for id in gone)


def test_an_empty_space_leaves_no_folder(tmp_path: Path) -> None:
    cache = opened(tmp_path, 1500)
    for i in range(5):
        cache.write(block_of([i], size=1000, space=str(i)), bytes(1000))
    assert os.listdir(tmp_path) == [space_id("4")]


def test_what_is_larger_than_the_limit_is_not_written(tmp_path: Path) -> None:
    cache, block = opened(tmp_path, 1000), block_of([1], size=1000)
    assert cache.write(block, bytes(1000)).added == []
    assert list(tmp_path.iterdir()) == []
    assert cache.counts().dropped == 1


def test_some_of_the_disk_stays_free(tmp_path: Path) -> None:
    old, new = block_of([1], size=1000), block_of([2], size=1000)
    opened(tmp_path).write(old, bytes(1000))
    cache = DiskCache(tmp_path, LARGE, floor=shutil.disk_usage(tmp_path).total)
    change = cache.write(new, bytes(1000))
    assert (change.added, change.gone) == ([], [old.id])  # what is ours goes first
    assert total(tmp_path) == 0
    assert (cache.counts().dropped, cache.counts().errors) == (1, 0)


def test_a_clock_that_was_set_back_does_no_harm(tmp_path: Path) -> None:
    cache, later = opened(tmp_path, 3000), time.time() + 10 * 365 * 86400
    for i in range(2):
        cache.write(block_of([i], size=1000), bytes(1000))
        os.utime(file_of(tmp_path, block_of([i])), (later, later))
    os.utime(file_of(tmp_path, block_of([0])).parent, (later, later))
    new = [block_of([i], size=1000) for i in (5, 6)]
    for block in new:
        cache.write(block, bytes(1000))
    assert {path.name for path in tmp_path.rglob("*.kv")} == {file_of(tmp_path, block).name for block in new}
    other = opened(tmp_path, 3000)
    assert {block.id for block in other.refresh(new[0].id.space).added} == {block.id for block in new}


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_what_killed_processes_left_is_deleted_after_a_while(tmp_path: Path, seconds: int) -> None:
    cache, block = opened(tmp_path, 5000), block_of([1], size=10)
    cache.write(block, bytes(10))
    old, fresh = file_of(tmp_path, block).parent / "x.1.tmp", file_of(tmp_path, block).parent / "y.2.tmp"
    for path in (old, fresh):
        path.write_bytes(bytes(1000))
    os.utime(old, (time.time() + seconds, time.time() + seconds))
    cache.tidy()
    assert not old.exists()
    assert fresh.exists()
    assert cache.counts().bytes == total(tmp_path)  # what is being written counts
    os.utime(fresh.parent, (1000, 1000))
    cache.tidy()
    os.utime(fresh, (time.time() + seconds, time.time() + seconds))
    cache.tidy()
    assert not fresh.exists()  # although the folder has not changed


# --- what can go wrong


def test_a_folder_removed_in_between_is_made_again(tmp_path: Path) -> None:
    tiers = Tiers(host_bytes=0, disk=opened(tmp_path / "cache"))
    for i in range(3):
        tiers.put("s", [1, 2], 0, b"data")
        assert tiers.flush(60)
        (piece,) = tiers.find("s", [1, 2], 0, 2)
        assert tiers.get(piece) == b"data"
        shutil.rmtree(tmp_path / "cache")
        if i:
            tiers.refresh("s")
        else:
            assert tiers.get(piece) is None
        assert tiers.find("s", [1, 2], 0, 2) == []
    assert tiers.counts()["disk"].errors == 0
    tiers.close()


def test_a_folder_that_cannot_be_one_is_counted_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    tiers = Tiers(host_bytes=1000, disk=DiskCache(tmp_path / "file" / "cache", LARGE))
    for i in range(3):
        tiers.put("s", [i], 0, b"data")
        tiers.refresh("s")
        assert tiers.flush(60)
        (piece,) = tiers.find("s", [i], 0, 1)
        assert tiers.get(piece) == b"data"  # host memory is not concerned
    assert tiers.counts()["disk"].errors >= 3
    assert caplog.text.count("does without") == 1
    tiers.close()


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, tiers_process.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    result = json.loads(output.splitlines()[-1])
    assert isinstance(result, dict)
    return result


if POSIX:  # Windows has neither limits nor rights that a process could take from itself

    def test_a_disk_that_is_full_while_writing(tmp_path: Path) -> None:
        result = outcome(start(tmp_path, LARGE, 1, 40, "full"))
        assert result["errors"] > 10
        assert result["wrong"] == result["corrupt"] == 0
        assert result["stored"] == len(list(tmp_path.rglob("*.kv"))) > 0
        assert not list(tmp_path.rglob("*.tmp"))
        assert max(path.stat().st_size for path in tmp_path.rglob("*.kv")) <= 4096

    def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
        folder = tmp_path / "cache"
        for i in range(3):  # one in each space
            opened(folder).write(*made(i))
        folders = [folder, *folder.iterdir()]
        for path in folders:
            path.chmod(0o500)
        try:
            result = outcome(start(folder, LARGE, 1, 20, "nobody"))
        finally:
            for path in folders:
                path.chmod(0o700)
        assert result["errors"] > 0
        assert result["wrong"] == result["corrupt"] == result["stored"] == 0
        assert len(list(folder.rglob("*.kv"))) == 3


def check_all(folder: Path, limit: int = LARGE) -> int:
    """Every block in a folder is right; how many there are."""
    cache, seeds = opened(folder, limit), {made(i)[0].id: i for i in range(1000)}
    blocks = [block for i in range(3) for block in cache.refresh(space_id(f"space {i}")).added]
    for block in blocks:
        assert cache.read(block.id) == made(seeds[block.id])
    assert cache.counts().corrupt == cache.counts().errors == 0
    return len(blocks)


def test_processes_killed_while_they_write_leave_nothing_wrong(tmp_path: Path) -> None:
    for seed in range(12):
        process = start(tmp_path, 3_000_000, seed, 0)
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.02 * (seed % 6))
        process.kill()
        process.communicate()
        check_all(tmp_path)
    assert check_all(tmp_path) > 10


def test_several_processes_share_a_small_folder(tmp_path: Path) -> None:
    limit = 500_000
    processes = [start(tmp_path, limit, seed, 80) for seed in range(4)]
    for process in processes:
        result = outcome(process)
        assert result["wrong"] == result["corrupt"] == result["errors"] == 0
        assert result["evicted"] > 0
    assert total(tmp_path) <= limit
    assert check_all(tmp_path, limit) > 0
    assert not list(tmp_path.rglob("*.tmp"))
