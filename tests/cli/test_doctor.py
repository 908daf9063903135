"""``infs doctor``: each check for itself, and engines that are missing, broken, crash or hang."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infs.cli import examining
from infs.cli.checkup import engines, machine, software, storage, surroundings
from infs.cli.checkup.findings import Finding, Patient
from infs.cli.commands import infs
from infs.cli.examining import examine, print_findings
from infs.engines.base import EngineSpec
from infs.engines.registry import BUILTIN
from tests.cli.programs import environment

LLAMA = BUILTIN["llama-cpp"]


def patient(folder: Path, **variables: str) -> Patient:
    """Somebody in `folder` with hardly anything in the environment."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "XDG_CACHE_HOME") if name in os.environ}
    return Patient(environ={**kept, **variables}, directory=folder, offline=True, timeout=60.0)


def levels(findings: list[Finding]) -> list[str]:
    """Of each its level."""
    return [one.level for one in findings]


# --- engines, each in a process of its own


def test_engine_that_works(tmp_path: Path) -> None:
    works, *more = engines.check_engine(LLAMA, patient(tmp_path))
    assert works.level == "ok"
    assert works.what.startswith("Works: llama_cpp 0.")
    assert works.what.endswith("; the demo model answers.")
    assert works.facts["demo"]["text"].strip().startswith("Paris")
    assert works.facts["describe"]["backends"]
    assert "problem" not in levels(more)
    assert {one.area for one in more} <= {"llama-cpp devices", "llama-cpp build"}


BROKEN: dict[str, tuple[str, list[str]]] = {
    "import error": (
        "print('{half a line', flush=True)\nraise ImportError('libcudart.so.12: cannot open')",
        ["It fails", "libcudart.so.12: cannot open"],
    ),
    "hang": ("import time\nwhile True: time.sleep(1)", ["It did not start within 0.5 seconds"]),
    "abort": ("import os, sys\nsys.stderr.write('ggml: bad thing\\n'); sys.stderr.flush()\nos.abort()", ["ggml: bad"]),
}
if sys.platform != "win32":
    BROKEN["abort"][1].append("Its process was killed by SIGABRT: ")


@pytest.mark.parametrize("kind", BROKEN)
def test_engine_that_does_not_work(tmp_path: Path, kind: str) -> None:
    code, said = BROKEN[kind]
    (tmp_path / "llama_cpp.py").write_text(code)
    ill = patient(tmp_path, PYTHONPATH=str(tmp_path))
    timeout = 0.5 if kind == "hang" else 60.0
    ill = Patient(environ=ill.environ, directory=tmp_path, offline=True, timeout=timeout)
    (finding,) = engines.check_engine(LLAMA, ill)
    assert finding.level == "problem"
    assert [part for part in said if part not in finding.what] == []
    assert "pip install --force-reinstall" in finding.todo


def test_engine_that_is_not_installed(tmp_path: Path) -> None:
    spec = EngineSpec(name="none", factory="x:y", requires=("no_such_module",), extra="none")
    (finding,) = engines.check_engine(spec, patient(tmp_path))
    assert finding.level == "note"
    assert 'pip install "infs[none]"' in finding.todo


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, ""), (1, "It fails: last"), (-11, "Its process was killed by SIGSEGV: last"), (-99, "by signal 99: last")],
)
def test_ends_of_processes(status: int, said: str) -> None:
    assert said in engines._failure(status, b"first\nlast\n\n")
    assert engines._failure(0xC0000005, b"") == "Its process crashed with 0xc0000005"


@pytest.mark.parametrize(
    ("nvidia", "backends", "devices", "level", "said"),
    [
        (False, ["cpu"], [], "ok", "The CPU, on 2 threads."),
        (True, ["cpu"], [], "note", "There is A GPU, and this build is for the CPU only."),
        (True, ["cpu", "cuda"], [], "problem", "This build is for CUDA, and finds no GPU."),
        (
            True,
            ["cpu", "cuda"],
            [{"name": "cuda:0", "description": "A GPU", "total": 8 * 10**9, "free": 7 * 10**9}],
            "ok",
            "cuda:0 (A GPU, 7.0 GB of 8.0 GB free).",
        ),
    ],
)
def test_devices_that_the_build_can_use(
    monkeypatch: pytest.MonkeyPatch, nvidia: bool, backends: list[str], devices: list[Any], level: str, said: str
) -> None:
    monkeypatch.setattr(engines, "has_nvidia", lambda: nvidia)
    monkeypatch.setattr(engines, "nvidia_gpus", lambda: ["A GPU"])
    monkeypatch.setattr(sys, "platform", "linux")
    (finding,) = engines._check_devices(LLAMA, {"backends": backends, "devices": devices, "threads": 2})
    assert (finding.level, finding.what) == (level, said)
    assert ("GGML_CUDA=on" in finding.todo) == (level == "note")


@pytest.mark.parametrize(("built", "level"), [({"AVX2": "1"}, "ok"), ({"SSE3": "1"}, "note")])
def test_instructions_that_the_build_uses(monkeypatch: pytest.MonkeyPatch, built: dict[str, str], level: str) -> None:
    monkeypatch.setattr(engines, "cpu_features", lambda: frozenset({"AVX2"}))
    (finding,) = engines._check_instructions(LLAMA, {"build": built})
    assert finding.level == level


# --- the machine


def test_processor_and_memory_of_this_machine(tmp_path: Path) -> None:
    assert "problem" not in levels(machine.check_processor(patient(tmp_path)))
    assert machine.check_memory(patient(tmp_path))[0].facts["total"] > 0


def test_processor_that_could_be_better(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset())
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "translated", lambda: True)
    cores, avx, translated = machine.check_processor(patient(tmp_path))
    assert cores.what == "Only 1 of 8 logical cores may be used."
    assert "AVX2" in avx.what
    assert "arm64" in translated.todo


def test_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = type("Memory", (), {"total": 4 * 10**9, "available": 10**9})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    (finding,) = machine.check_memory(patient(tmp_path))
    assert (finding.level, finding.what) == ("note", "1.0 GB of 4.0 GB are free.")


def test_gpus_by_the_tool_of_their_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(machine, "_output", lambda command: "NVIDIA X, 8192 MiB, 550.1\nodd line\n")
    machine.nvidia_gpus.cache_clear()
    assert machine.check_gpus(patient(tmp_path))[0].what == "NVIDIA X (8192 MiB, driver 550.1)."
    monkeypatch.setattr(machine, "_output", lambda command: "")
    machine.nvidia_gpus.cache_clear()
    assert machine.check_gpus(patient(tmp_path))[0].level == "note"
    machine.nvidia_gpus.cache_clear()


def test_tools_that_fail_say_nothing() -> None:
    assert machine._output(["/no/such/tool"]) == ""
    assert machine._output([sys.executable, "-c", "print('x'); raise SystemExit(1)"]) == ""


# --- software


def test_versions_and_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = software.check_versions(patient(tmp_path))
    assert finding.facts["python"] in finding.what
    wanted = ['a>=1; extra == "x"', "b[c]>2 ; python_version > '3' and extra == 'x'", "d", 'pytest; extra == "test"']
    monkeypatch.setattr(software, "requires", lambda name: wanted)
    assert software.extras() == {"x": ["a", "b"]}
    monkeypatch.setattr(software, "installed_version", {"a": "1.0"}.get)
    (finding,) = software.check_extras(patient(tmp_path))
    assert (finding.level, finding.what) == ("note", "b is not installed (a 1.0 is).")
    monkeypatch.setattr(software, "installed_version", {"a": "1.0", "b": "2"}.get)
    assert levels(software.check_extras(patient(tmp_path))) == ["ok"]


# --- storage


def test_cache_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").write_bytes(bytes(1000))
    (tmp_path / "infs.toml").write_text(f"cache_path = {json.dumps(str(tmp_path / 'cache'))}")
    first, *_ = storage.check_caches(patient(tmp_path))
    assert first.facts["size"] == 1000
    assert first.facts["free"] > 0
    (tmp_path / "infs.toml").write_text("x = 1")
    assert levels(storage.check_caches(patient(tmp_path))) == ["note"]


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (finding,) = storage.check_folder("cache", tmp_path / "not" / "there")
    assert (finding.level, "Read-only file system" in finding.what) == ("problem", True)
    assert "cache_path" in finding.todo


@pytest.mark.parametrize(("kind", "said"), [("nfs4", "another machine"), ("tmpfs", "main memory"), ("9p", "another")])
def test_disks_that_are_slow_or_do_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.setattr(storage, "file_system", lambda folder: kind)
    assert said in storage.check_folder("cache", tmp_path)[-1].what


def test_file_system_is_that_of_the_nearest_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.path.realpath(tmp_path)
    part = type("Part", (), {})
    parts = [part() for _ in range(3)]
    for one, (where, kind) in zip(parts, [(os.sep, "ext4"), (real, "NFS"), (real + "x", "tmpfs")], strict=True):
        one.mountpoint, one.fstype = where, kind
    monkeypatch.setattr("psutil.disk_partitions", lambda all: parts)
    assert storage.file_system(tmp_path) == "nfs"


# --- surroundings


def test_configuration_with_and_without_problems(tmp_path: Path) -> None:
    assert levels(surroundings.check_configuration(patient(tmp_path))) == ["ok"]
    (tmp_path / "infs.toml").write_text("x = 1\nserver.port = 'x'")
    assert levels(surroundings.check_configuration(patient(tmp_path))) == ["problem", "problem"]


def test_variables_that_matter_without_their_secrets(tmp_path: Path) -> None:
    said = {
        "HF_TOKEN": "secret",
        "INFS_SERVER__API_KEYS": '["secret"]',
        "HTTPS_PROXY": "http://user:secret@proxy:1",
        "INFS_LOG__LEVEL": "debug",
        "OTHER": "x",
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
    }
    all_of, gpus, threads = surroundings.check_environment(patient(tmp_path, **said))
    assert "secret" not in str(all_of)
    assert "INFS_LOG__LEVEL=debug" in all_of.what
    assert "OTHER" not in all_of.what
    assert "hides all GPUs" in gpus.what
    assert "one thread only" in threads.what


def test_hub(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    online = Patient(environ={"HF_ENDPOINT": closed}, directory=tmp_path)
    (finding,) = surroundings.check_hub(online)
    assert (finding.level, finding.what.startswith(f"{closed} cannot be reached: ")) == ("note", True)
    assert "was not asked" in surroundings.check_hub(patient(tmp_path))[0].what
    assert "Offline mode" in surroundings.check_hub(patient(tmp_path, HF_HUB_OFFLINE="1"))[0].what
    assert levels(surroundings.check_hub(patient(tmp_path, HF_ENDPOINT="x"))) == ["problem"]


def test_server_that_is_not_there_and_one_that_is_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    (finding,) = surroundings.check_server(patient(tmp_path, INFS_URL=url))
    assert (finding.level, finding.what) == ("ok", f"None runs at {url}.")


# --- all of it


def finds(*findings: Finding) -> Callable[[Patient], list[Finding]]:
    """A check with these findings."""
    return lambda patient: list(findings)


def test_a_check_that_fails_keeps_no_other_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(patient: Patient) -> list[Finding]:
        raise ZeroDivisionError("by zero")

    fine = Finding(level="note", area="b", what="Well.", todo="Do it")
    monkeypatch.setattr(examining, "CHECKS", {"a": fails, "b": finds(fine)})
    found = examine(patient(tmp_path))
    assert [(one.level, one.area) for one in found] == [("problem", "a"), ("note", "b")]
    print_findings(found, as_json=False)
    assert "note     b: Well.\n         Do it.\n\n1 problem, 1 note." in capsys.readouterr().out


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_status_says_whether_there_is_a_problem(monkeypatch: pytest.MonkeyPatch, level: Any, status: int) -> None:
    monkeypatch.setattr(examining, "CHECKS", {"a": finds(Finding(level=level, area="a", what="x"))})
    done = CliRunner().invoke(infs, ["doctor", "--json"], env=environment())
    assert done.exit_code == status
    said = json.loads(done.stdout)
    assert (said["findings"][0]["level"], said["problems"]) == (level, status)
