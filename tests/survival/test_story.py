"""What a client is told when a request runs in several workers, one after the other: everything once."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.config import ModelConfig
from infs.errors import GenerationFailed
from infs.pool.story import Story
from infs.types import CompletionChoice, Delta, Event, Progress, TextCompletionResult, ToolCallDelta, Trail, Usage

CONFIG = ModelConfig()


def pieces_of(text: str, chance: random.Random) -> list[str]:
    """`text`, cut anywhere."""
    cuts = sorted(chance.randrange(len(text) + 1) for _ in range(chance.randrange(6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


class Output:
    """What an engine says to one request, in the same order each time; how it is cut differs.

    A token is a character, so that trails can be checked.
    """

    def __init__(self, text: str, reasoning: str, arguments: list[str]) -> None:
        self.parts = [("reasoning", reasoning), ("text", text), *(("call", text) for text in arguments)]

    def events(self, chance: random.Random) -> list[Event]:
        """All of them, each trail before its deltas, and trails now and then longer than these."""
        found: list[Event] = []
        call = -1
        for kind, whole in self.parts:
            call += kind == "call"
            for place, piece in enumerate(pieces_of(whole, chance)):
                found.append(Trail(tokens=[ord(letter) for letter in piece]))
                found.append(self._delta(kind, piece, call, first=place == 0))
        return [*found, Delta(finish_reason="stop")]

    def _delta(self, kind: str, piece: str, call: int, *, first: bool) -> Delta:
        if kind == "text":
            return Delta(text=piece)
        if kind == "reasoning":
            return Delta(reasoning=piece)
        named = {"id": f"call_{call}", "name": f"f{call}"} if first else {}
        return Delta(tool_calls=[ToolCallDelta(index=call, arguments=piece, **named)])


def summary(events: list[Event]) -> tuple[str, str, list[tuple[str | None, str | None, str]], list[str | None]]:
    """What a client makes of `events`."""
    deltas = [event for event in events if isinstance(event, Delta)]
    calls: dict[int, list[ToolCallDelta]] = {}
    for call in (call for delta in deltas for call in delta.tool_calls):
        calls.setdefault(call.index, []).append(call)
    for parts in calls.values():
        assert all(part.id is None and part.name is None for part in parts[1:]), "named twice"
    return (
        "".join(delta.text for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        [(parts[0].id, parts[0].name, "".join(p.arguments for p in parts)) for parts in calls.values()],
        [delta.finish_reason for delta in deltas if delta.finish_reason],
    )


@given(
    st.text(max_size=30),
    st.text(max_size=10),
    st.lists(st.text(max_size=10), max_size=3),
    st.lists(st.floats(0.0, 1.0), max_size=4),
    st.randoms(use_true_random=False),
)
def test_everything_is_told_once_however_often_workers_die(
    text: str, reasoning: str, arguments: list[str], deaths: list[float], chance: random.Random
) -> None:
    output = Output(text, reasoning, arguments)
    story, told = Story(), []
    for death in [*deaths, 1.0]:
        story.begin(CONFIG)
        events = output.events(chance)
        for event in events[: round(death * len(events))]:
            if (news := story.news(event)) is not None:
                told.append(news)
    assert summary(told) == summary(output.events(random.Random(0)))
    assert "".join(map(chr, story.trail[0])) == reasoning + text + "".join(arguments)


def test_a_call_that_was_begun_is_gone_on_with() -> None:
    story = Story()
    story.begin(CONFIG)
    story.news(Trail(tokens=[1]))
    story.news(Delta(tool_calls=[ToolCallDelta(index=0, id="a", name="f", arguments='{"x"')]))
    story.begin(CONFIG)
    again = Delta(tool_calls=[ToolCallDelta(index=0, id="a", name="f", arguments='{"x": 1}')])
    assert story.news(again) == Delta(tool_calls=[ToolCallDelta(index=0, arguments=": 1}")])


def test_choices_are_told_apart_and_log_probabilities_counted() -> None:
    story = Story()
    story.begin(CONFIG)
    story.news(Trail(index=1, tokens=[7]))
    assert story.news(Delta(index=1, text="one")) == Delta(index=1, text="one")
    story.begin(CONFIG)
    assert story.news(Delta(index=0, text="one")) == Delta(index=0, text="one")
    assert story.news(Delta(index=1, text="one")) is None
    assert story.trail == [[], [7]]


def test_progress_with_the_prompt_is_not_told_behind_output() -> None:
    story = Story()
    story.begin(CONFIG)
    prompt, load = Progress(stage="prompt", done=1, unit="tokens"), Progress(stage="load", done=1, unit="percent")
    assert story.news(prompt) == prompt
    story.news(Trail(tokens=[1]))
    story.news(Delta(text="a"))
    assert story.news(prompt) is None
    assert story.news(load) == load


def test_deaths_count_until_it_gets_further() -> None:
    story = Story()
    story.begin(CONFIG)
    story.news(Trail(tokens=[1, 2]))
    story.deaths = 2
    story.begin(CONFIG)
    story.news(Trail(tokens=[1, 2]))
    assert story.deaths == 2, "it is where it was"
    story.news(Trail(tokens=[3]))
    assert story.deaths == 0
    assert story.trail == [[1, 2, 3]]


def test_an_engine_without_trails_is_not_gone_on_with_once_it_said_something() -> None:
    story = Story()
    story.begin(CONFIG)
    assert story.resumable
    story.news(Delta(text="a"))
    assert not story.resumable


def test_another_story_ends_in_a_failure() -> None:
    story = Story()
    story.begin(CONFIG)
    story.news(Trail(tokens=[1]))
    story.news(Delta(text="once upon"))
    story.begin(CONFIG)
    with pytest.raises(GenerationFailed, match="could not go on"):
        story.news(Delta(text="twice upon"))


def test_another_model_of_the_same_name_ends_in_a_failure() -> None:
    story = Story()
    story.begin(CONFIG)
    story.news(Trail(tokens=[1]))
    story.news(Delta(text="a"))
    with pytest.raises(GenerationFailed, match="configuration was changed"):
        story.begin(msgspec.structs.replace(CONFIG, context_size=5))


def test_a_result_passes() -> None:
    story = Story()
    story.begin(CONFIG)
    result = TextCompletionResult(choices=[CompletionChoice(index=0, text="a", finish_reason="stop")], usage=Usage())
    assert story.news(result) is result
