#!/usr/bin/env python3
"""From a fresh checkout to a running server, or to a test run: makes `.venv`, installs into it, goes on there.

    python3 scripts/bootstrap.py serve [arguments of infs serve]
    python3 scripts/bootstrap.py test  [arguments of scripts/check.py]

Needs Python 3.11 or later, and a C++ compiler where no prebuilt llama-cpp-python is to be had: it is compiled
once then, which takes some minutes. Uses nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
LOG = VENV / "install.log"
EXTRAS = {"serve": "llama-cpp", "test": "llama-cpp,test"}
PATIENCE = 15.0  # seconds between signs of life


def main() -> int:
    """Install, then become the wanted program."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the user may have started it with an older one
        return fail(f"infs needs Python 3.11 or later; this is {sys.version.split()[0]}.")
    if len(sys.argv) < 2 or sys.argv[1] not in EXTRAS:
        return fail(__doc__ or "")
    command, arguments = sys.argv[1], sys.argv[2:]
    if not install(EXTRAS[command]):
        return fail(f"Installing failed; the end of {LOG}:\n" + "".join(LOG.read_text().splitlines(True)[-30:]))
    program = ["-m", "infs", "serve"] if command == "serve" else [str(ROOT / "scripts" / "check.py")]
    return run([str(PYTHON), *program, *arguments])


def install(extras: str) -> bool:
    """Bring `.venv` up to date; does nothing when it is."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + extras.encode()).hexdigest()
    stamp = VENV / f"installed-{extras.replace(',', '-')}"
    if stamp.exists() and stamp.read_text() == wanted and PYTHON.exists():
        return True
    say(f"Making the environment {VENV}")
    venv.create(VENV, with_pip=True)
    say("Installing infs. llama.cpp is compiled if there is no wheel for this machine: some minutes, once.")
    constraints = ROOT / "scripts" / "constraints.txt"
    if not pip("install", "--editable", f".[{extras}]", "--constraint", str(constraints)):
        return False
    stamp.write_text(wanted)
    return True


def pip(*arguments: str) -> bool:
    """Run pip, and show that it lives."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    begin = told = time.monotonic()
    with LOG.open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - told >= PATIENCE:
                told = time.monotonic()
                say(f"  {told - begin:4.0f} s  {last_line()}")
    return process.returncode == 0


def last_line() -> str:
    """What pip is doing."""
    lines = [line.strip() for line in LOG.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:100] if lines else ""


def run(command: list[str]) -> int:
    """Run `command` to its end; Ctrl-C is for it."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def say(text: str) -> None:
    """Tell the user, at once."""
    print(text, flush=True)


def fail(text: str) -> int:
    """Tell the user why there is no more."""
    print(text, file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
