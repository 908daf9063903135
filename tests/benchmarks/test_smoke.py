"""The benchmarks run, on a model of no size, and say what they measured; their figures are not judged here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from benchmarks.figures import Comparison, Figure, interleaved, show, write_json
from benchmarks.random_llama import TINY, random_llama, write
from benchmarks.serving import Effort, measure

from benchmarks import bare, over_http, rig, startup

BRIEF = Effort(rounds=2, steps=8, stream_steps=4, counts=(1, 2), batches=(64, None))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Loaded]:
    found = rig.load(random_llama(TINY, tmp_path_factory.mktemp("models")), threads=1)
    with closing(found.model):
        yield found


def test_the_random_model_is_always_the_same(loaded: rig.Loaded, tmp_path: Path) -> None:
    write(TINY, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == loaded.path.read_bytes()
    assert random_llama(TINY, loaded.path.parent) == loaded.path


def test_the_random_model_has_a_vocabulary_of_words(loaded: rig.Loaded) -> None:
    assert loaded.model.size == TINY.vocabulary
    text = "ab cd\nzz"
    tokens = loaded.model.tokenize(text, add_special=True, parse_special=False)
    assert loaded.model.text(tokens) == text
    assert len(tokens) < len(text)


def test_ours_and_the_plain_loop_choose_the_same_tokens(loaded: rig.Loaded) -> None:
    prompts = rig.random_prompts(loaded.model, 1, 20, seed=3)
    with rig.Rig(loaded) as ours, bare.bare_context(loaded, sequences=1, batch=256, unified=True) as peer:
        sequence = ours.sequence(prompts[0], 12, stream := rig.Stream())
        ours.loop.submit(sequence)
        stream.wait()
        tokens = peer.prefill(prompts)
        found = list(tokens)
        for step in range(11):
            peer.generate(tokens, [20 + step], 1)
            found += tokens
    assert sequence.tokens[20:] == found
    assert not set(found) & set(loaded.model.end_tokens)


def test_a_prompt_may_be_longer_than_a_call(loaded: rig.Loaded) -> None:
    prompts = rig.random_prompts(loaded.model, 3, 50, seed=4)
    with (
        bare.bare_context(loaded, sequences=3, batch=64, unified=True) as small,
        bare.bare_context(loaded, sequences=3, batch=256, unified=True) as large,
    ):
        assert small.prefill(prompts) == large.prefill(prompts)


@pytest.mark.parametrize("part", ["decode", "overhead", "turns", "burst"])
def test_each_part_gives_figures(loaded: rig.Loaded, part: str, tmp_path: Path) -> None:
    figures = list(measure(loaded, BRIEF, (part,), threads=1))
    assert figures
    assert all(figure.value > 0 and figure.detail for figure in figures)
    show(figures, part)
    write_json(figures, tmp_path / "figures.json")
    assert msgspec.json.decode((tmp_path / "figures.json").read_bytes(), type=list[Figure]) == figures


def test_a_second_turn_computes_its_new_tokens_only(loaded: rig.Loaded) -> None:
    (counted,) = (figure for figure in measure(loaded, BRIEF, ("turns",), 1) if "computed tokens" in figure.name)
    assert counted.value == 1.0
    assert counted.met


def test_streams_over_http(loaded: rig.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_http, "missing_peer", lambda: ["fastapi"])
    (figure,) = measure(loaded, BRIEF, ("http",), threads=1)
    assert figure.name == "8 streams over HTTP / plain loop in process"
    assert figure.value > 0


def test_memory_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "TTL", 0.5)
    held, left = startup.memory()
    assert held.value > 1
    assert 0 < left.value < 2


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    assert interleaved([lambda: side("a"), lambda: side("b")], 2) == [[1.0, 4.0], [2.0, 3.0]]
    assert order == ["a", "b", "b", "a"]


def test_a_comparison_is_of_neighbours() -> None:
    both = Comparison(ours=[1.0, 10.0, 2.0], peer=[2.0, 10.0, 2.0])
    assert both.speeds == [2.0, 1.0, 1.0]
    assert both.median == 1.0
    assert both.speed == 2.0
    assert both.figure("speed", "", target=1.5).met
    assert both.time_figure("time", "", target=0.4).met is False


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure(name="x", value=1.0), None),
        (Figure(name="x", value=1.0, target=0.97), True),
        (Figure(name="x", value=0.9, target=0.97), False),
        (Figure(name="x", value=0.6, target=0.65, goal="at most"), True),
        (Figure(name="x", value=0.7, target=0.65, goal="at most"), False),
    ],
)
def test_targets(figure: Figure, met: bool | None) -> None:
    assert figure.met is met
