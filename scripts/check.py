#!/usr/bin/env python3
"""All checks, in the order of their speed: format, lint, layers, types, tests with coverage.

    python scripts/check.py [--fast] [arguments of pytest]

`--fast` leaves out the tests. Needs the extras `llama-cpp` and `test`; `scripts/bootstrap.py test` brings them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SOURCES = ["src", "tests", "examples", "benchmarks", "training", "scripts"]
STATIC = [
    ["ruff", "format", "--check", *SOURCES],
    ["ruff", "check", *SOURCES],
    ["lint-imports"],
    ["mypy"],
]
TESTS = [
    ["coverage", "erase"],
    ["coverage", "run", "-m", "pytest", "-m", "not slow"],
    ["coverage", "combine", "--quiet"],
    ["coverage", "report", "--fail-under=95"],
]


def main() -> int:
    """Run them; the first that fails ends it."""
    arguments = sys.argv[1:]
    fast = "--fast" in arguments
    TESTS[1].extend(argument for argument in arguments if argument != "--fast")
    for command in STATIC if fast else [*STATIC, *TESTS]:
        begin = time.monotonic()
        print("$", *command, flush=True)
        status = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT).returncode
        if status != 0:
            print(f"{command[0]} failed with status {status}", file=sys.stderr)
            return status
        print(f"  {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
