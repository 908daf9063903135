"""The JSON Schema Test Suite: what a schema accepts is what its grammar lets a model write, or the schema is refused.

The suite is in the source distribution of the validator `jsonschema`, which pip gets once into pytest's cache folder.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infs.chat.constraints import compile_constraint
from infs.errors import RequestError
from infs.types import JsonConstraint
from tests.chat.writing import ValueMatcher

VERSION = "4.26.0"
SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DIALECTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
# Schemas that are enforced, and instances checked, at least.
LEAST = {"draft7": (230, 1100), "draft2019-09": (255, 1250), "draft2020-12": (250, 1250)}


@dataclass(frozen=True)
class Case:
    """One schema of the suite, with its instances."""

    file: str
    group: dict[str, Any]
    schema: dict[str, Any]


@dataclass(frozen=True)
class Exception_:
    """Instances that are not treated as the suite says, and why."""

    why: str
    covers: Callable[[Case, dict[str, Any]], bool]
    drafts: tuple[str, ...] = tuple(DIALECTS)


EXCEPTIONS = (
    Exception_(
        "Whether formats are enforced is left open by draft 2020-12, and the suite has the default, which is not; here "
        "they are in all drafts.",
        lambda case, test: case.file == "format.json" and test["description"].endswith("only an annotation by default"),
        ("draft2020-12",),
    ),
    Exception_(
        "Whether the content of strings is looked into is left open by draft 7; later drafts do not.",
        lambda case, test: case.file == "optional/content.json",
        ("draft7",),
    ),
    Exception_(
        "Leap seconds are written in UTC only.",
        lambda case, test: test["valid"] and bool(re.search(r":\d\d:60(\.\d+)?[+-]", str(test["data"]))),
    ),
)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Path:
    """The suite's folder of tests."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("json-schema-test-suite") / VERSION
    tests = folder / f"jsonschema-{VERSION}" / "json" / "tests"
    if not tests.is_dir():
        _fetch(folder)
    return tests


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"jsonschema=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "jsonschema", "--require-hashes"]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(wanted)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(
            f"The JSON Schema Test Suite could not be had: it comes with jsonschema {VERSION}, which pip has to fetch "
            f"once from the package index.\n{done.stdout}\n{done.stderr}",
            pytrace=False,
        )
    with tarfile.open(folder / f"jsonschema-{VERSION}.tar.gz") as archive:
        members = [member for member in archive.getmembers() if "/json/tests/" in member.name]
        archive.extractall(folder / "new", members=members, filter="data")
    (folder / "new" / f"jsonschema-{VERSION}").rename(folder / f"jsonschema-{VERSION}")  # all of it, or nothing


def cases(suite: Path, draft: str) -> Iterator[Case]:
    for path in sorted((suite / draft).rglob("*.json")):
        file = path.relative_to(suite / draft).as_posix()
        for group in json.loads(path.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, bool):  # a constraint holds an object
                schema = {"allOf": [schema]}
            if file != "optional/no-schema.json":
                schema = {"$schema": DIALECTS[draft], **schema}
            yield Case(file, group, schema)


def keywords(schema: Any) -> set[str]:
    """All names in `schema`."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    return set(schema).union(*map(keywords, schema.values())) if isinstance(schema, dict) else set()


@pytest.mark.parametrize("draft", DIALECTS)
def test_every_schema_is_enforced_exactly_or_refused(
    suite: Path, draft: str, record_property: Callable[[str, object], None]
) -> None:
    wrong: list[str] = []
    count: Counter[str] = Counter()
    for case in cases(suite, draft):
        name = f"{case.file}: {case.group['description']}"
        try:
            grammar = compile_constraint(JsonConstraint(schema=case.schema))
        except RequestError as error:
            count["refused"] += 1
            wrong += [f"{name}: {why}" for why in unfounded(case, error)]
            continue
        assert grammar is not None
        matcher = ValueMatcher(grammar)
        count["enforced"] += 1
        for test in case.group["tests"]:
            count["instances"] += 1
            if matcher.accepts(test["data"]) == test["valid"]:
                continue
            reasons = [number for number, exception in enumerate(EXCEPTIONS) if exception.covers(case, test)]
            count.update(f"exception {number}" for number in reasons)
            if not reasons:
                wrong.append(f"{name}: {test['description']}: should be {'valid' if test['valid'] else 'invalid'}")
    assert not wrong, "\n".join(wrong)
    for what, number in count.items():
        record_property(what, number)
    assert count["enforced"] >= LEAST[draft][0]
    assert count["instances"] >= LEAST[draft][1]
    needed = {number for number, exception in enumerate(EXCEPTIONS) if draft in exception.drafts}
    assert {number for number in range(len(EXCEPTIONS)) if count[f"exception {number}"]} == needed


def unfounded(case: Case, error: RequestError) -> list[str]:
    """What is wrong with refusing the schema: nothing, if a keyword is named, or nothing could fit it."""
    assert error.param == "response_format"
    if "nsatisfiable" in error.message or "nothing can fit" in error.message:
        return [f"{test['description']} would fit" for test in case.group["tests"] if test["valid"]]
    reason = error.message.partition(": at #")[2].partition(": ")[2]
    named = [keyword for keyword in keywords(case.schema) if re.search(rf"(?<![\w$]){re.escape(keyword)}\b", reason)]
    return [] if named else [f"no keyword is named in: {error.message}"]
