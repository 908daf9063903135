"""Questions with given answers: how a model is asked them, and what its probabilities say.

A question becomes the end of a user's message, in which its options are listed, and each option the texts that the
model's answer may begin with. Reading their probabilities is up to an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from infs.errors import InvalidRequest
from infs.types import (
    Answer,
    ChoiceAnswer,
    ChoiceQuestion,
    DecisionRequest,
    Message,
    Predicate,
    PredicateAnswer,
    Question,
    ScoreAnswer,
    ScoreQuestion,
)

MOST_STEPS = 21
LONG = 32  # characters of an option above which it is answered with a letter


@dataclass(frozen=True)
class Asked:
    """A question as it is asked once.

    Attributes:
        text: the end of the user's message.
        answers: what stands for each option in the model's answer, in the options' order.
    """

    text: str
    answers: list[str]


def check_questions(request: DecisionRequest) -> None:
    """Raise `InvalidRequest`, with the field, for questions that cannot be asked."""
    names: set[str] = set()
    for index, question in enumerate(request.questions):
        param = f"questions[{index}]"
        if not question.question.strip():
            raise InvalidRequest(f"{param} asks nothing.", param=f"{param}.question")
        if question.name and question.name in names:
            raise InvalidRequest(f"Two questions have the name {question.name!r}.", param=f"{param}.name")
        names.add(question.name)
        if isinstance(question, ScoreQuestion):
            _check_scale(question, param)
        elif isinstance(question, ChoiceQuestion):
            _check_options(question, param)


def _check_scale(question: ScoreQuestion, param: str) -> None:
    if question.minimum >= question.maximum:
        raise InvalidRequest(
            f"minimum is {question.minimum}, and must be less than maximum, which is {question.maximum}.",
            param=f"{param}.minimum",
        )
    if (steps := question.maximum - question.minimum + 1) > MOST_STEPS:
        raise InvalidRequest(f"The scale has {steps} steps; it can have {MOST_STEPS}.", param=f"{param}.maximum")


def _check_options(question: ChoiceQuestion, param: str) -> None:
    told: set[str] = set()
    for option in map(str.strip, question.options):
        if not option or option in told:
            wrong = f"{option!r} more than once" if option else "one that is blank"
            raise InvalidRequest(f"The options have {wrong}.", param=f"{param}.options")
        told.add(option)
    count = len(question.options)
    if question.rotations > count:
        raise InvalidRequest(
            f"rotations is {question.rotations}, and there are only {count} options to turn.",
            param=f"{param}.rotations",
        )
    if question.labels == "letters" and count > len(ascii_uppercase):
        raise InvalidRequest(
            f"There are {count} options, and letters for {len(ascii_uppercase)}.", param=f"{param}.labels"
        )


def conversation(request: DecisionRequest, asked: Asked) -> list[Message]:
    """The conversation that ends in a question; all but its end is the same for all questions of the request."""
    parts = [request.instructions, request.input, asked.text]
    return [*request.messages, Message(role="user", content="\n\n".join(part for part in parts if part))]


def ways_to_ask(question: Question) -> list[Asked]:
    """The question, once for each order in which its options are to be listed."""
    if isinstance(question, Predicate):
        return [Asked(f"{question.question}\n\nAnswer only yes or no.", ["yes", "no"])]
    if isinstance(question, ScoreQuestion):
        low, high = question.minimum, question.maximum
        text = f"{question.question}\n\nAnswer only with a whole number from {low} to {high}."
        return [Asked(text, [str(step) for step in steps(question)])]
    count = len(question.options)
    return [_asked(question, turn * count // question.rotations) for turn in range(question.rotations)]


def _asked(question: ChoiceQuestion, start: int) -> Asked:
    """A choice whose list begins with the option number `start`."""
    options = [option.strip() for option in question.options]
    places = [(place + start) % len(options) for place in range(len(options))]
    if not _by_letters(question):
        listed = "\n".join(f"- {options[place]}" for place in places)
        return Asked(f"{question.question}\n\n{listed}\n\nAnswer only with one of these options.", options)
    letters = {place: letter for letter, place in zip(ascii_uppercase, places, strict=False)}
    listed = "\n".join(f"{letters[place]}. {options[place]}" for place in places)
    text = f"{question.question}\n\n{listed}\n\nAnswer only with the letter of one option."
    return Asked(text, [letters[place] for place in range(len(options))])


def _by_letters(question: ChoiceQuestion) -> bool:
    if question.labels != "auto":
        return question.labels == "letters"
    long = any(len(option.strip()) > LONG or "\n" in option.strip() for option in question.options)
    return long and len(question.options) <= len(ascii_uppercase)


def steps(question: ScoreQuestion) -> range:
    """The numbers of the scale."""
    return range(question.minimum, question.maximum + 1)


def answer_of(question: Question, probabilities: Sequence[float], mass: float) -> Answer:
    """The answer to `question`; `probabilities` are those of its options, in their order, and sum to 1."""
    if isinstance(question, Predicate):
        return PredicateAnswer(name=question.name, probability=probabilities[0], mass=mass)
    if isinstance(question, ScoreQuestion):
        scale = dict(zip(steps(question), probabilities, strict=True))
        expected = sum(step * probability for step, probability in scale.items())
        return ScoreAnswer(name=question.name, probabilities=scale, expected=expected, mass=mass)
    by_option = dict(zip(question.options, probabilities, strict=True))
    return ChoiceAnswer(
        name=question.name, probabilities=by_option, best=max(by_option, key=by_option.__getitem__), mass=mass
    )
