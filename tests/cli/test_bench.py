"""``infs bench``: what is measured, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from infs.cli.bench import numbers
from infs.cli.benching import Figures, Plan, _possible_sizes, _possible_streams, prompt_table, stream_table
from infs.cli.commands import infs
from infs.cli.measuring import Figure, Meter, PromptFigures, StreamFigures, figure
from infs.cli.tables import plain_lines
from infs.errors import GenerationFailed, Unsupported
from infs.status import InstanceStatus
from infs.types import (
    CompletionChoice,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Progress,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
    Usage,
)
from tests.cli.programs import run
from tests.http.fake_server import CHAT, FakeServer, Step


def test_demo_model_is_measured(tmp_path: Path) -> None:
    args = ("--prompt-tokens", "40,4000", "--streams", "2,100", "--tokens", "5", "--rounds", "2", "--json")
    done = run("bench", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["rounds"], said["answer_tokens"]) == ("demo", 2, 5)
    assert said["load_seconds"] > 0
    assert said["memory_bytes"] > 10_000_000
    (prompts,), (streams,) = said["prompts"], said["streams"]
    assert 20 <= prompts["tokens"] <= 60
    assert prompts["tokens_per_second"]["best"] >= prompts["tokens_per_second"]["median"] > 0
    assert prompts["first_token"]["median"] >= prompts["first_token"]["best"] > 0
    assert (streams["streams"], streams["tokens_per_second"]["best"] > streams["each"]["best"]) == (2, True)
    assert len(said["notes"]) == 2
    assert "Measuring prompts of 40 tokens" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--streams", "1,x"), "'1,x' is no list of numbers such as 1,4,8."),
        (("--prompt-tokens", "0"), "0 is below 1."),
        (("--rounds", "0"), "0 is not in the range"),
        (("no.gguf",), "There is no file no.gguf."),
    ],
)
def test_wrong_calls(args: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(infs, ["bench", *args])
    assert done.exit_code == 2
    assert said in done.stderr


def test_numbers_are_each_once_and_in_order() -> None:
    context = infs.make_context("infs", ["bench"])
    assert numbers(context, infs.params[0], "8, 1,4,1") == (1, 4, 8)


# --- what is asked


def counts_words(request: Request[Any]) -> Iterable[Step]:
    """A model for which a token is a word, and two more are in front of every prompt."""
    assert isinstance(request, TextCompletionRequest)
    assert isinstance(request.prompt, str)
    assert isinstance(request.max_tokens, int)
    yield Progress(stage="download", done=1, total=1)
    yield Progress(stage="load", done=1, total=1)
    yield Delta(text="x")
    usage = Usage(prompt_tokens=2 + len(request.prompt.split()), completion_tokens=request.max_tokens)
    yield TextCompletionResult(choices=[CompletionChoice(index=0, text="x", finish_reason="length")], usage=usage)


async def test_prompts_have_the_wanted_lengths_and_share_no_beginning() -> None:
    server = FakeServer()
    server.script = counts_words
    meter = Meter(server, CHAT)  # type: ignore[arg-type]
    stages: list[str] = []
    assert await meter.load(lambda progress: stages.append(progress.stage)) > 0
    assert (stages, meter.generates) == (["download", "load"], True)
    await meter.calibrate()
    assert (await meter.prompts(200, 3)).tokens in range(199, 203)
    streams = await meter.streams(3, 7, 2)
    assert streams.streams == 3
    assert streams.tokens_per_second.best > streams.each.best > 0
    asked = server.requests
    assert len({request.prompt.split()[0] for request in asked}) == len(asked) == 1 + 2 + 3 + 6
    assert all(request.ignore_eos and request.temperature == 1.0 for request in asked)
    assert [request.max_tokens for request in asked[-6:]] == [7] * 6


async def test_models_that_make_embeddings() -> None:
    def embeds(request: Request[Any]) -> Iterable[Step]:
        if not isinstance(request, EmbeddingRequest):
            yield Unsupported("It cannot do text-completion.")
            return
        yield EmbeddingResult(vectors=[b""], dimensions=0, usage=Usage(prompt_tokens=50))

    server = FakeServer()
    server.script = embeds
    meter = Meter(server, CHAT)  # type: ignore[arg-type]
    await meter.load(lambda progress: None)
    assert not meter.generates
    await meter.calibrate()
    prompts = await meter.prompts(100, 2)
    assert (prompts.tokens, prompts.first_token) == (50, None)
    notes: list[str] = []
    plan = Plan(streams=(1,), prompts=(1,), tokens=1, rounds=1)
    assert _possible_streams(plan, InstanceStatus(places=8), meter, notes) == []
    assert notes == ["The model generates no text, so there are no answers to measure."]


async def test_failures_come_out() -> None:
    def fails(request: Request[Any]) -> Iterable[Step]:
        yield GenerationFailed("It broke.")

    server = FakeServer()
    server.script = fails
    with pytest.raises(GenerationFailed):
        await Meter(server, CHAT).load(lambda progress: None)  # type: ignore[arg-type]


# --- what is said


def test_figures() -> None:
    assert figure([3.0, 1.0, 2.0]) == Figure(best=3.0, median=2.0)
    assert figure([3.0, 1.0, 2.0], low=True) == Figure(best=1.0, median=2.0)


def test_what_does_not_fit_is_left_out_with_a_note() -> None:
    plan = Plan(streams=(1, 9), prompts=(100, 1000), tokens=1, rounds=1)
    notes: list[str] = []
    assert _possible_sizes(plan, InstanceStatus(context_size=500), notes) == [100]
    assert _possible_sizes(plan, InstanceStatus(), []) == [100, 1000]
    assert notes == ["Longer prompts do not fit into the context of 500 tokens (--context-size)."]


def test_tables() -> None:
    fast = Figure(best=1000.0, median=900.0)
    soon = Figure(best=0.05, median=0.1)
    prompts = [PromptFigures(tokens=128, tokens_per_second=fast, first_token=soon)]
    assert plain_lines(prompt_table(prompts))[1].split("  ")[-1].strip() == "50 / 100 ms"
    streams = [StreamFigures(streams=4, tokens_per_second=fast, each=fast, first_token=soon)]
    assert "1000.0 / 900.0" in plain_lines(stream_table(streams))[1]
    assert set(Figures.__struct_fields__) >= {"load_seconds", "memory_bytes", "device_bytes"}
