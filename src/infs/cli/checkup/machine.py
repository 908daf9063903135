"""What the machine is: processor, memory, GPUs. Everything is asked of the system, nothing of an engine."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from infs.cli.checkup.findings import Finding, Patient, note, ok
from infs.store.progress import size_text

GIB = 1 << 30
SMALL = 4 * GIB  # of free main memory
PATIENCE = 10.0  # seconds for a tool of the system
# What IsProcessorFeaturePresent calls them.
_WINDOWS_FEATURES = {40: "AVX2", 41: "AVX512"}
_LINUX_FEATURES = {"avx2": "AVX2", "avx512f": "AVX512"}


def check_processor(patient: Patient) -> list[Finding]:
    """Cores that may be used, and instructions that engines want."""
    usable, whole = usable_cores(), psutil.cpu_count() or 1
    facts = {"usable": usable, "cores": psutil.cpu_count(logical=False), "threads": whole}
    found = [ok("processor", f"{usable} of {whole} logical cores may be used.", **facts)]
    if usable < whole:
        todo = "Give the process, or its container, all cores"
        found = [note("processor", f"Only {usable} of {whole} logical cores may be used.", todo, **facts)]
    elif whole < 4:
        found = [note("processor", f"There are {whole} logical cores; models are slow on the CPU.", "", **facts)]
    if platform.machine().lower() in ("x86_64", "amd64") and "AVX2" not in cpu_features():
        todo = "Build the engines here, not elsewhere: what is built for AVX2 ends in SIGILL"
        found.append(
            note("processor", "It has no AVX2, or the system does not say so; without, models are slow.", todo)
        )
    if translated():
        todo = "Install a Python for arm64 and infs in it"
        found.append(note("processor", "This Python is made for Intel and translated: models are slow.", todo))
    return found


def check_memory(patient: Patient) -> list[Finding]:
    """Main memory."""
    memory = psutil.virtual_memory()
    facts = {"total": memory.total, "available": memory.available}
    what = f"{size_text(memory.available)} of {size_text(memory.total)} are free."
    if memory.available < SMALL:
        return [note("memory", what, "End other programs, or take small models", **facts)]
    return [ok("memory", what, **facts)]


def check_gpus(patient: Patient) -> list[Finding]:
    """GPUs as the system knows them; whether an engine can use them is found out with the engines."""
    if gpus := nvidia_gpus():
        return [ok("GPU", f"{', '.join(gpus)}.", gpus=gpus)]
    if has_nvidia():
        return [note("GPU", "There is a driver of NVIDIA, but nvidia-smi names no GPU.", "Look what nvidia-smi says")]
    if sys.platform == "darwin" and (platform.machine() == "arm64" or translated()):
        return [ok("GPU", "Apple Silicon.")]
    if Path("/dev/kfd").exists():
        return [ok("GPU", "An AMD GPU, with its driver.")]
    return [ok("GPU", "None was found.")]


# --- the system's answers -------------------------------------------------------------------------------------


def usable_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def cpu_features() -> frozenset[str]:
    """Which of AVX2 and AVX512 the processor has, as far as the system says so."""
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return frozenset(name for number, name in _WINDOWS_FEATURES.items() if present(number))
    if sys.platform == "darwin":
        said = f"{_sysctl('machdep.cpu.leaf7_features')} {_sysctl('machdep.cpu.features')}".lower().split()
    else:
        said = _first_match(r"^flags\s*:(.*)$", Path("/proc/cpuinfo")).split()
    return frozenset(name for flag, name in _LINUX_FEATURES.items() if flag in said)


def _first_match(pattern: str, path: Path) -> str:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def translated() -> bool:
    """Whether this is a program for Intel on Apple Silicon."""
    return sys.platform == "darwin" and _sysctl("sysctl.proc_translated") == "1"


def _sysctl(name: str) -> str:
    return _output(["/usr/sbin/sysctl", "-n", name])


def has_nvidia() -> bool:
    """Whether there is an NVIDIA GPU, or at least what comes with its driver."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


@functools.cache
def nvidia_gpus() -> list[str]:
    """The names of NVIDIA GPUs, with their memory and driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    said = _output([tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [f"{name} ({memory}, driver {driver})" for name, memory, driver in (row for row in rows if len(row) == 3)]


def _output(command: list[str]) -> str:
    """What a tool of the system prints; empty where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""
