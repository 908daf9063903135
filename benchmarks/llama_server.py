"""llama-server of the llama.cpp that this environment's llama-cpp-python has, built from that package's source."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

import click

PACKAGE = "llama-cpp-python"
NAMES = ("llama-server", "llama-server.exe")
# What is left out of the build (tests, the page, TLS) takes no part in what is measured.
SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}


def llama_server(folder: Path | None = None) -> Path:
    """The path of the program, which is built if it is not there yet: a quarter of an hour on two cores.

    Args:
        folder: where source and program are kept; a folder for benchmarks in the system's temporary one by default.

    Raises:
        RuntimeError: when the source cannot be had or built, with what the tool said.
    """
    version = metadata.version(PACKAGE)
    folder = (folder or Path(tempfile.gettempdir()) / "infs-benchmarks") / f"llama-server-{version}"
    if (program := find_program(folder)) is None:
        build(source(folder, version), folder / "build")
        program = find_program(folder)
    if program is None:
        raise RuntimeError(f"The build in {folder} went well, but made no llama-server.")
    return program


def find_program(folder: Path) -> Path | None:
    """The program among what was built in `folder`."""
    found = (path for name in NAMES for path in sorted((folder / "build" / "bin").rglob(name)))
    return next(found, None)


def source(folder: Path, version: str) -> Path:
    """The folder of llama.cpp's source, which is fetched and unpacked if it is not there yet."""
    found = folder / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    if (found / "CMakeLists.txt").exists():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    wanted = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={version}"]
    _run([sys.executable, "-m", "pip", "download", *wanted, "--dest", str(folder)])
    unpack(next(folder.glob("llama_cpp_python-*.tar.gz")), folder)
    return found


def unpack(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`, and nothing outside it."""
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")


def build(source: Path, folder: Path) -> None:
    """Build the program in `folder` from the `source` of llama.cpp."""
    settings = [f"-D{name}={value}" for name, value in SETTINGS.items()]
    jobs = str(os.cpu_count() or 1)  # without a number, make starts all there is at once
    _run(["cmake", "-S", str(source), "-B", str(folder), *settings])
    _run(["cmake", "--build", str(folder), "--config", "Release", "--target", "llama-server", "--parallel", jobs])


def _run(command: list[str]) -> None:
    click.echo(f"... {' '.join(command)}", err=True)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is needed to build llama-server and is not installed.") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-3000:]}")
