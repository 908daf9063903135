"""docs/python.md and docs/engines.md: their examples work, they name all that there is, and they are found."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from infs.engines.base import Engine, EngineSpec, Estimating, RunContext, Shrinking, Watched
from infs.runner import Convenience, Conveniences
from infs.sync import SyncServer
from infs.types import TASKS
from tests.documents import SAID, examples, page, run_example

PAGES = ("python", "engines")


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=f"{name}-{i}") for name in PAGES for i, code in enumerate(examples(name))]
)
def test_an_example_prints_what_it_says(code: str, tmp_path: Path) -> None:
    assert SAID.findall(code)
    run_example(code, tmp_path)


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("python", {name for name, value in vars(Conveniences).items() if isinstance(value, Convenience)}),
        ("python", {kind.__name__ for kind in TASKS.values()} | {kind.result_type.__name__ for kind in TASKS.values()}),
        ("python", public(SyncServer) - {"start"}),
        ("engines", public(Engine) | public(Estimating) | public(Shrinking) | public(Watched)),
        ("engines", {*EngineSpec.__struct_fields__, *RunContext.__struct_fields__} - {"name", "request_id"}),
    ],
)
def test_they_name_all_that_there_is(name: str, wanted: set[str]) -> None:
    assert wanted
    assert sorted(word for word in wanted if not re.search(rf"\b{word}\b", page(name))) == []


def test_they_are_linked() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/{name}.md)" in readme for name in PAGES)
