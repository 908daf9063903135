"""The examples of the documentation: pieces of code that are run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
SAID = re.compile(r"  # -> (.*)")


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def examples(name: str) -> list[str]:
    """The Python code of a page, piece by piece."""
    return re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)


def run_example(code: str, folder: Path) -> None:
    """Run `code` in `folder`; it must print what its comments ``# -> ...`` say, and warn of nothing."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100, cwd=folder)
    assert done.returncode == 0, done.stderr
    for said in SAID.findall(code):
        assert said in done.stdout
