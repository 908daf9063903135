"""Questions with given answers: what is refused, how they are written, what probabilities become."""

from __future__ import annotations

from typing import Any

import pytest

from infs.chat.questions import MOST_STEPS, answer_of, check_questions, conversation, ways_to_ask
from infs.errors import InvalidRequest
from infs.types import (
    ChoiceAnswer,
    ChoiceQuestion,
    DecisionRequest,
    Message,
    Predicate,
    PredicateAnswer,
    Question,
    ScoreAnswer,
    ScoreQuestion,
    validate,
)


def choice(options: list[str], **more: Any) -> ChoiceQuestion:
    return ChoiceQuestion(question="Which?", options=options, **more)


def score(minimum: int, maximum: int) -> ScoreQuestion:
    return ScoreQuestion(question="How much?", minimum=minimum, maximum=maximum)


def request(*questions: Question, **more: Any) -> DecisionRequest:
    return DecisionRequest(model="m", questions=list(questions), **more)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (request(), "questions"),
        (request(Predicate(question="")), "questions[0].question"),
        (request(Predicate(question="Is it?"), choice(["one"])), "questions[1].options"),
        (request(choice([str(number) for number in range(101)])), "questions[0].options"),
        (request(choice(["a", "b"], rotations=0)), "questions[0].rotations"),
        (request(choice(["a", "b"], labels="digits")), "questions[0].labels"),
        (request(score(1, 10**9)), "questions[0].maximum"),
    ],
)
def test_wrong_types_and_ranges_are_refused_by_name(wrong: DecisionRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(wrong)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("wrong", "message", "field"),
    [
        (Predicate(question=" \n"), "asks nothing", "question"),
        (choice(["a", "b", "a"]), "'a' more than once", "options"),
        (choice(["a", " a"]), "'a' more than once", "options"),
        (choice(["a", " "]), "one that is blank", "options"),
        (choice(["a", "b"], rotations=3), "rotations is 3, and there are only 2", "rotations"),
        (choice([f"option {number}" for number in range(27)], labels="letters"), "27 options", "labels"),
        (score(3, 3), "minimum is 3, and must be less than maximum, which is 3", "minimum"),
        (score(5, 1), "minimum is 5", "minimum"),
        (score(0, MOST_STEPS), f"has {MOST_STEPS + 1} steps; it can have {MOST_STEPS}", "maximum"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(wrong: Question, message: str, field: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        check_questions(validate(request(Predicate(question="Is it?"), wrong)))
    assert caught.value.param == f"questions[1].{field}"


def test_names_are_unique_where_there_are_any() -> None:
    check_questions(request(Predicate(question="a?"), Predicate(question="b?"), Predicate(question="c?", name="c")))
    with pytest.raises(InvalidRequest, match="Two questions have the name 'x'"):
        check_questions(request(Predicate(question="a?", name="x"), choice(["a", "b"], name="x")))


def test_questions_come_last_behind_what_they_share() -> None:
    said = [Message(role="user", content="Hi."), Message(role="assistant", content="Hello.")]
    [asked] = ways_to_ask(Predicate(question="Is it polite?"))
    *before, last = conversation(request(messages=said, instructions="Be strict.", input="A text."), asked)
    assert before == said
    assert last == Message(role="user", content=f"Be strict.\n\nA text.\n\n{asked.text}")
    assert asked.text.startswith("Is it polite?\n\n")
    assert asked.answers == ["yes", "no"]
    assert conversation(request(), asked) == [Message(role="user", content=asked.text)]


def test_a_scale_is_asked_with_its_ends() -> None:
    [asked] = ways_to_ask(score(-1, 2))
    assert asked.answers == ["-1", "0", "1", "2"]
    assert "from -1 to 2" in asked.text


def test_options_are_listed_as_they_are() -> None:
    [asked] = ways_to_ask(choice([" red ", "blue"]))
    assert "\n- red\n- blue\n" in asked.text
    assert asked.answers == ["red", "blue"]


@pytest.mark.parametrize("long", ["x" * 33, "two\nlines"])
def test_long_options_are_answered_with_letters(long: str) -> None:
    [asked] = ways_to_ask(choice(["red", long]))
    assert f"\nA. red\nB. {long}\n" in asked.text
    assert asked.answers == ["A", "B"]
    assert ways_to_ask(choice(["red", long], labels="none"))[0].answers == ["red", long]
    assert ways_to_ask(choice(["red", "blue"], labels="letters"))[0].answers == ["A", "B"]
    many = [long, *map(str, range(26))]
    assert ways_to_ask(choice(many))[0].answers == many


def test_rotations_turn_the_list_and_keep_the_options() -> None:
    turns = ways_to_ask(choice(["r", "g", "b", "k"], labels="letters", rotations=4))
    assert [turn.answers for turn in turns] == [
        ["A", "B", "C", "D"],
        ["D", "A", "B", "C"],
        ["C", "D", "A", "B"],
        ["B", "C", "D", "A"],
    ]
    assert "\nA. g\nB. b\nC. k\nD. r\n" in turns[1].text
    half = ways_to_ask(choice(["r", "g", "b", "k"], rotations=2))
    assert [turn.answers for turn in half] == [["r", "g", "b", "k"]] * 2
    assert "\n- b\n- k\n- r\n- g\n" in half[1].text


def test_answers_say_what_was_asked() -> None:
    asked = Predicate(name="p", question="a?")
    assert answer_of(asked, [0.75, 0.25], 0.5) == PredicateAnswer(name="p", probability=0.75, mass=0.5)
    assert answer_of(choice(["a", " b"]), [0.25, 0.75], 1.0) == ChoiceAnswer(
        probabilities={"a": 0.25, " b": 0.75}, best=" b", mass=1.0
    )
    assert answer_of(score(-1, 1), [0.5, 0.25, 0.25], 1.0) == ScoreAnswer(
        probabilities={-1: 0.5, 0: 0.25, 1: 0.25}, expected=-0.25, mass=1.0
    )
