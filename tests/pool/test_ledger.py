"""What may be used of a machine's memory, and who has reserved it: in one server, and in several."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infs.engines.base import DeviceMemory
from infs.errors import InsufficientMemory
from infs.pool.ledger import Ledger
from infs.pool.machine import ThisMachine
from tests.pool.machines import FakeMachine

LOG = logging.getLogger("tests")
GPU = DeviceMemory(name="cuda:0", description="a GPU", total=50_000, free=50_000)


def ledger(machine: FakeMachine, folder: Path | None = None, **limits: int | str) -> Ledger:
    return Ledger({name.replace("_", ":"): size for name, size in limits.items()}, folder, machine, LOG)


def test_reserving_takes_until_nothing_is_left() -> None:
    book = ledger(FakeMachine(), host=10_000)
    assert book.take(1, "a", {"host": 6_000}) is not None
    assert book.take(2, "b", {"host": 6_000}) is None
    assert book.short({"host": 6_000}) == {"host": 2_000}
    book.give(1)
    assert book.take(2, "b", {"host": 6_000}) is not None


@pytest.mark.parametrize(("limit", "bytes_"), [("50%", 50_000), ("20kB", 20_000), (7, 7)])
def test_limits_are_amounts_or_shares(limit: int | str, bytes_: int) -> None:
    assert ledger(FakeMachine(), host=limit).status()["host"].limit == bytes_


def test_without_a_limit_it_is_what_the_machine_has_free() -> None:
    machine = FakeMachine(available=40_000)
    book = ledger(machine)
    assert book.take(1, "a", {"host": 30_000}, pid=5) is not None
    assert book.short({"host": 10_000}), "promised, though not used yet"
    machine.processes[5] = 30_000
    machine.available = 10_000
    assert not book.short({"host": 7_000}), "used now, so not counted twice"
    assert book.short({"host": 10_000}), "some is left to others in any case"


def test_what_is_reserved_again_by_the_same_owner_counts_once() -> None:
    book = ledger(FakeMachine(), host=10_000)
    assert book.take(1, "a", {"host": 6_000}) is not None
    assert book.take(1, "a", {"host": 8_000}) is not None
    assert book.status()["host"].reserved == 8_000


def test_caches_get_what_is_left_and_give_it_back_first() -> None:
    book = ledger(FakeMachine(), host=10_000)
    first = book.take(1, "a", {"host": 2_000}, spare=5_000)
    assert first is not None
    assert first.spare == 4_000, "half of what is left"
    second = book.take(2, "b", {"host": 7_000})
    assert second is not None
    assert second.cuts == {1: 1_000}
    assert book.used_by(1) == ({"host": 2_000}, 1_000)


def test_devices_have_their_own_limits() -> None:
    book = ledger(FakeMachine(), gpu=20_000)
    book.learn([GPU])
    assert book.take(1, "a", {"host": 1_000, "cuda:0": 15_000}) is not None
    assert book.short({"host": 1_000, "cuda:0": 15_000}) == {"cuda:0": 10_000}
    assert book.status()["cuda:0"].limit == 20_000


def test_what_other_programs_have_of_a_device_is_not_to_be_had() -> None:
    book = ledger(FakeMachine())
    book.learn([DeviceMemory(name="cuda:0", total=50_000, free=20_000)])
    assert book.short({"cuda:0": 25_000}) == {"cuda:0": 6_000}, "2% of it are left free"
    assert book.whole(GPU) == 19_000
    assert book.short({"cuda:7": 1}) == {"cuda:7": 1}, "nobody has heard of it"


def test_what_never_fits_is_refused_with_the_numbers() -> None:
    book = ledger(FakeMachine(total=8_000_000_000, available=8_000_000_000), host="5GB")
    with pytest.raises(InsufficientMemory, match=r"'m' needs 6\.0 GB of main memory, and max_memory allows 5\.0 GB"):
        book.check("m", {"host": 6_000_000_000})
    free = ledger(FakeMachine(total=8_000_000_000, available=8_000_000_000))
    with pytest.raises(InsufficientMemory, match=r"needs 9\.0 GB of main memory, and there are 8\.0 GB"):
        free.check("m", {"host": 9_000_000_000})
    free.check("m", {"host": 7_900_000_000})


def test_servers_see_each_others_reservations(tmp_path: Path) -> None:
    machine = FakeMachine(available=10_000)
    first, second = ledger(machine, tmp_path), ledger(machine, tmp_path)
    assert first.take(1, "a", {"host": 6_000}, spare=1_000) is not None
    assert second.take(1, "b", {"host": 6_000}) is None
    assert second.seen_others
    first.give(1)
    assert second.take(1, "b", {"host": 6_000}) is not None
    assert not second.seen_others


def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import logging, os, sys\nfrom pathlib import Path\n"
        "from infs.pool.ledger import Ledger\nfrom infs.pool.machine import ThisMachine\n"
        "book = Ledger({}, Path(sys.argv[1]), ThisMachine(), logging.getLogger())\n"
        "assert book.take(1, 'a', {'host': 1000}) is not None\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        book = Ledger({}, tmp_path, ThisMachine(), LOG)
        assert book.take(1, "b", {"host": 1}) is not None
        assert book.seen_others
        other.kill()
        other.wait()
        assert book.take(2, "c", {"host": 1}) is not None
        assert not book.seen_others
        assert len(list(tmp_path.glob("*.json"))) == 1, "only our own page is left"


def test_a_number_that_another_process_has_now_is_not_the_old_one(tmp_path: Path) -> None:
    page = {"pid": os.getpid(), "started": 1.0, "reservations": [{"model": "x", "pid": 1, "use": {"host": 90_000}}]}
    (tmp_path / "old.json").write_text(json.dumps(page))
    book = Ledger({}, tmp_path, ThisMachine(), LOG)
    assert book.take(1, "a", {"host": 1}) is not None
    assert not book.seen_others


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xff"])
def test_a_damaged_page_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1-abc.json").write_bytes(content)
    book = ledger(FakeMachine(), tmp_path)
    assert book.take(1, "a", {"host": 1_000}) is not None
    assert not book.seen_others


def test_a_folder_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    book = ledger(FakeMachine(), tmp_path / "file" / "below")
    assert book.take(1, "a", {"host": 1_000}) is not None
    assert "cannot be seen" in caplog.text


def test_this_machine_has_memory_and_knows_processes() -> None:
    machine = ThisMachine()
    memory = machine.host()
    assert 0 < memory.available <= memory.total
    assert machine.private(os.getpid()) > 1_000_000
    assert machine.started(os.getpid()) is not None
    assert machine.private(0) == machine.private(2**22 + 1) == 0
    assert machine.started(2**22 + 1) is None
