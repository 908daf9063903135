"""The workloads run, with infs on both sides and a model of no size; their figures are not judged here."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from benchmarks.client import Answer, ask, run
from benchmarks.llama_server import build, find_program, llama_server, unpack
from benchmarks.processes import Served
from benchmarks.random_llama import TINY, random_llama, random_words, successor, text_of
from benchmarks.sides import Setup, Side, infs_side, llama_server_side
from benchmarks.versus import WORKLOADS
from benchmarks.workloads import resume, streams
from benchmarks.workloads.base import Bench, Measured, Metric, body, compare, served_by
from benchmarks.workloads.copying import edited_document
from benchmarks.workloads.extraction import SCHEMA, check

from benchmarks import llama_server as building
from benchmarks import soak as soaking

COPYING = replace(TINY, name="random-tiny-copies", copies=True)


@dataclass(frozen=True)
class Shared(Side):
    """infs whose servers go on running: one for each setup, which all workloads use."""

    stack: ExitStack = field(default_factory=ExitStack)
    servers: dict[Setup, Served] = field(default_factory=dict)

    @contextmanager
    def serve(self, setup: Setup) -> Iterator[Served]:
        """The server of this setup."""
        if setup not in self.servers:
            self.servers[setup] = self.stack.enter_context(super().serve(setup))
        yield self.servers[setup]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("models")
    real = infs_side()
    with ExitStack() as stack:
        side = Shared(real.name, real.command, real.status, real.unloaded, stack)
        yield Bench(side, side, threads=1, rounds=1, scale=0.04, shape=TINY, copying=COPYING, folder=folder)


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "resume"])
def test_each_workload_gives_figures(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LASTING", 400)  # tokens of a tiny model, which are over in no time
    figures = list(WORKLOADS[name](bench))
    assert figures
    assert all(figure.value > 0 and figure.detail for figure in figures)
    assert any(figure.target for figure in figures)


def test_a_conversation_goes_on_after_unload_and_restart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resume, "IDLE", 0.1)
    measured = resume.measure(infs_side(), bench, tmp_path, seed=1)
    assert set(measured.values) == {metric.name for metric in resume.METRICS}
    assert all(value > 0 for value in measured.values.values())
    assert len(measured.texts) == 5


def test_memory_is_read_at_the_marks() -> None:
    api, worker = soaking.soak((20, 60))
    assert "MB after 20" in api.detail
    assert "MB after 60" in worker.detail
    assert 0.5 < worker.value < 2


# --- models and requests


def test_the_copying_model_walks_in_circles(bench: Bench) -> None:
    request = edited_document(replace(bench, scale=0.2), seed=1)
    prompt = request["prompt"]
    expected = [successor(COPYING, prompt[-1])]
    while len(expected) < request["max_tokens"]:
        expected.append(successor(COPYING, expected[-1]))
    with served_by(bench.ours, bench.setup(model=random_llama(COPYING, bench.folder))) as port:
        answer = run(ask(port, request))
    assert answer.text == text_of(COPYING, expected)
    assert 0 < sum(one != other for one, other in zip(prompt[1:-1], expected, strict=False)) < len(expected) / 5


def test_words_are_read_as_the_tokens_they_were(bench: Bench) -> None:
    (words,) = random_words(TINY, 1, 50, seed=1)
    with served_by(bench.ours, bench.setup()) as port:
        answer = run(ask(port, body(5, prompt=text_of(TINY, words))))
    assert answer.usages[0]["prompt_tokens"] == 50
    assert answer.generated == 5
    assert answer.first <= answer.whole


def test_a_refusal_says_why(bench: Bench) -> None:
    with served_by(bench.ours, bench.setup()) as port, pytest.raises(RuntimeError, match=r"status 400.*temperature"):
        run(ask(port, {**body(5, prompt="a"), "temperature": -1}))


def test_an_error_in_a_stream_is_raised() -> None:
    answer = Answer(events=[(0.0, b'{"error": {"message": "no"}}'), (0.1, b"[DONE]")])
    with pytest.raises(RuntimeError, match="no"):
        assert answer.text


def test_pauses_are_between_pieces() -> None:
    def event(text: str) -> bytes:
        return json.dumps({"choices": [{"index": 0, "text": text}]}).encode()

    answer = Answer(
        events=[(1.0, event("a")), (4.0, event("b")), (4.5, event("")), (6.0, event("c")), (6.5, event("d"))]
    )
    assert answer.longest_pause() == 3.0
    assert answer.longest_pause(since=5.0) == 2.0
    assert answer.longest_pause(since=7.0) == 0.0
    assert answer.text == "abcd"


# --- what is made of it


def test_sides_must_generate_as_much() -> None:
    def side(tokens: int | None, text: str) -> Any:
        return lambda: Measured({"time": 1.0}, [text], tokens)

    with pytest.raises(RuntimeError, match="3 tokens and the other 4"):
        list(compare("it", [Metric("time")], side(3, ""), side(4, ""), 1))
    (figure,) = compare("it", [Metric("time", 0.5)], side(None, "a"), side(None, "b"), 2)
    assert figure.value == 1.0
    assert figure.met is False
    assert figure.detail.endswith("; 0 of 2 texts equal")


def test_speeds_and_times_are_told_as_such() -> None:
    speed = Metric("speed", 1.0, per_second="tokens").figure("it", [0.1, 0.2], [0.2, 0.4], "")
    assert (speed.value, speed.met, speed.detail) == (
        2.0,
        True,
        "10 (median 6.667) tokens/s / 5 (median 3.333) tokens/s",
    )
    time = Metric("time", 1.0).figure("it", [0.1], [0.2], "")
    assert (time.value, time.met, time.detail) == (0.5, True, "0.1 (median 0.1) s / 0.2 (median 0.2) s")


DOCUMENT: dict[str, Any] = {
    "document_title": "a",
    "document_kind": "letter",
    "priority": 5,
    "language": "german",
    "is_published": True,
    "short_summary": "",
    "keywords": ["a", "b", "c"],
    "author": {"full_name": "a", "role": "writer", "employee_number": 0},
    "review_scores": [0, 100, 7, 8],
    "review_status": "open",
}


def test_a_document_that_fits() -> None:
    check(DOCUMENT, SCHEMA)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"document_title": "a" * 41}, "document_title"),
        ({"document_kind": "poem"}, "document_kind"),
        ({"priority": 0}, "priority"),
        ({"priority": True}, "priority"),
        ({"is_published": 1}, "is_published"),
        ({"keywords": ["a"]}, "keywords"),
        ({"keywords": ["a", "b", 3]}, r"keywords\[2\]"),
        ({"author": {"full_name": "a", "role": "writer"}}, "author"),
        ({"review_scores": [0, 100, 7, 101]}, r"review_scores\[3\]"),
        ({"more": 1}, "the document"),
    ],
)
def test_a_document_that_does_not_fit(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        check({**DOCUMENT, **wrong}, SCHEMA)


# --- llama-server


def test_both_sides_get_the_same_settings(tmp_path: Path) -> None:
    setup = Setup(model=tmp_path / "m.gguf", threads=2, context=2048, speculation=True, idle=3.0)
    ours = " ".join(infs_side().command(setup, tmp_path))
    peer = " ".join(llama_server_side(tmp_path / "program", ["--kv-unified"]).command(setup, tmp_path))
    assert "--context-size 2048 --max-sequences 8" in ours
    assert '"cache_tokens": 16384' in ours
    assert "--parallel 8 --ctx-size 16384" in peer
    for said in ("--threads 2", str(setup.model)):
        assert said in ours
        assert said in peer
    assert '"mode": "auto"' in ours
    assert "--spec-type ngram-simple --sleep-idle-seconds 3 --kv-unified" in peer


def test_a_program_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(source: Path, folder: Path) -> None:
        assert (source / "CMakeLists.txt").exists()
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "llama-server").touch()

    version = metadata.version(building.PACKAGE)
    tree = tmp_path / f"llama-server-{version}" / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
    tree.mkdir(parents=True)
    (tree / "CMakeLists.txt").touch()
    monkeypatch.setattr(building, "build", fake)
    program = llama_server(tmp_path)
    assert program.name == "llama-server"
    assert llama_server(tmp_path) == program, "the folder is there already, so a second build would fail"


def test_the_source_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        member = tarfile.TarInfo("llama_cpp_python-1/vendor/llama.cpp/CMakeLists.txt")
        member.size = 3
        files.addfile(member, io.BytesIO(b"abc"))
    unpack(archive, tmp_path / "here")
    assert (tmp_path / "here" / member.name).read_bytes() == b"abc"
    assert find_program(tmp_path / "here") is None


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="cmake is needed"):
        build(tmp_path, tmp_path / "build")
