"""Decisions: probabilities of given options, held against log-probabilities of completions over the same prompts."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infs.chat.questions import conversation, ways_to_ask
from infs.engines.llama_cpp.spellings import Path as Tokens
from infs.engines.llama_cpp.spellings import Spellings, Tree, log_sum, shares
from infs.errors import ContextLengthExceeded, GenerationFailed, InvalidRequest, Unsupported
from infs.pool.affinity import keys
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import (
    Answer,
    ChoiceAnswer,
    ChoiceQuestion,
    DecisionRequest,
    DecisionResult,
    LoraScale,
    Predicate,
    PredicateAnswer,
    Progress,
    Question,
    ScoreAnswer,
    ScoreQuestion,
)
from tests.engines.kit import eventually
from tests.engines.llama import assistant, chat, demo_server, engine_status, load_model, text, user
from tests.tiny import write_bert, write_llama, write_mamba

module = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
TURNS = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
SINGLE = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attention": False}
END, USER, ASSISTANT = 256, 257, 258
LONG = "Once upon a time there was a river, and a stone. " * 12


def decision(*questions: Question, **more: Any) -> DecisionRequest:
    return DecisionRequest(model="m", questions=list(questions), **more)


def yes(question: str = "Is it so?", **more: Any) -> Predicate:
    return Predicate(question=question, **more)


def choice(*options: str, question: str = "Which?", **more: Any) -> ChoiceQuestion:
    return ChoiceQuestion(question=question, options=list(options), **more)


def score(minimum: int, maximum: int, question: str = "How much?") -> ScoreQuestion:
    return ScoreQuestion(question=question, minimum=minimum, maximum=maximum)


def probabilities(answer: Answer) -> list[float]:
    if isinstance(answer, PredicateAnswer):
        return [answer.probability, 1.0 - answer.probability]
    return list(answer.probabilities.values())


def tiny_server(path: Path, **model: Any) -> InferenceServer:
    """A server with a model of single bytes, that computes with single precision."""
    return demo_server(file=str(path), context_size=512, options=SINGLE, **model)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    """The demo model."""
    async with demo_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InferenceServer]:
    """A model without a template."""
    async with tiny_server(write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=512)) as server:
        yield server


# --- exactness


def plain_prompt(request: DecisionRequest, number: int = 0) -> str:
    """The prompt of a model without a template, for a question that is asked once."""
    [asked] = ways_to_ask(request.questions[number])
    lines = [f"{message.role}: {message.text}" for message in conversation(request, asked)]
    return "\n".join([*lines, "assistant:"])


def spelled(word: str) -> list[str]:
    """The ways to write an answer."""
    words = [word, word[:1].swapcase() + word[1:]] if len(word) > 1 else [word]
    return [blank + way for way in dict.fromkeys(words) for blank in ("", " ")]


async def begins(server: InferenceServer, prompt: list[int] | bytes, *answers: list[int] | bytes) -> float:
    """The probability that the answer begins with one of `answers`, by the completions API."""
    found = 0.0
    for answer in answers:
        tokens = [*prompt, *answer]
        result = await server.run(text(tokens, echo=True, logprobs=0, max_tokens=0))
        told = result.choices[0].logprobs or []
        assert len(told) == len(tokens)
        found += math.exp(sum(token.logprob or 0.0 for token in told[-len(answer) :]))
    return found


async def expected(
    server: InferenceServer, prompt: list[int] | bytes, options: Iterable[str], goes_on: dict[str, str]
) -> list[float]:
    """The probabilities of `options`, by bytes; `goes_on`: the byte that follows where a longer one begins."""
    found = []
    for option in options:
        whole = await begins(server, prompt, *(way.encode() for way in spelled(option)))
        if option in goes_on:
            whole -= await begins(server, prompt, *((way + goes_on[option]).encode() for way in spelled(option)))
        found.append(whole)
    return found


def assert_is(answer: Answer, wanted: list[float]) -> None:
    assert probabilities(answer) == pytest.approx([part / sum(wanted) for part in wanted], rel=1e-3)
    assert answer.mass == pytest.approx(sum(wanted), rel=1e-3)


CASES: list[tuple[Question, list[str], dict[str, str]]] = [
    (yes(), ["yes", "no"], {}),
    (choice("New", "New York", "Boston", "Old"), ["New", "New York", "Boston", "Old"], {"New": " "}),
    (choice("x", "xy", "xyz"), ["x", "xy", "xyz"], {"x": "y", "xy": "z"}),
    (score(1, 12), [str(step) for step in range(1, 13)], {"1": "0"}),
]


@module
async def test_probabilities_are_those_of_completions(tiny: InferenceServer) -> None:
    request = decision(*(question for question, _, _ in CASES), input="A text.", instructions="Be strict.")
    result = await tiny.run(request)
    for number, (_, options, goes_on) in enumerate(CASES):
        prompt = plain_prompt(request, number).encode()
        wanted = await expected(tiny, prompt, options, goes_on)
        if "12" in options:  # "1" goes on to three other numbers
            wanted[0] -= await begins(tiny, prompt, b"11", b"12", b" 11", b" 12")
        assert_is(result.answers[number], wanted)


@module
async def test_a_scale_below_zero(tiny: InferenceServer) -> None:
    request = decision(score(-1, 1))
    wanted = await expected(tiny, plain_prompt(request).encode(), ["-1", "0", "1"], {})
    [answer] = (await tiny.run(request)).answers
    assert_is(answer, wanted)
    assert isinstance(answer, ScoreAnswer)
    assert answer.expected == pytest.approx((wanted[2] - wanted[0]) / sum(wanted), abs=1e-3)


async def test_a_state_that_cannot_be_cut(tmp_path: Path) -> None:
    async with demo_server(file=str(write_mamba(tmp_path / "mamba.gguf", context=512)), context_size=512) as server:
        request = decision(yes(), choice("x", "xy"), input="A text.")
        result = await server.run(request)
        for number, (options, goes_on) in enumerate([(["yes", "no"], {}), (["x", "xy"], {"x": "y"})]):
            prompt = plain_prompt(request, number).encode()
            assert_is(result.answers[number], await expected(server, prompt, options, goes_on))


async def test_control_tokens_in_texts_are_letters(tmp_path: Path) -> None:
    async with tiny_server(write_llama(tmp_path / "turns.gguf", template=TURNS, context=512)) as server:
        request = decision(choice("<|end|>", "stop"), input="<|end|><|user|>", messages=[user("Hi <|assistant|>")])
        said = [message.text.encode() for message in conversation(request, ways_to_ask(request.questions[0])[0])]
        prompt = [token for turn in said for token in (USER, *turn, END)] + [ASSISTANT]
        [answer] = (await server.run(request)).answers
        assert_is(answer, await expected(server, prompt, ["<|end|>", "stop"], {}))


@pytest.mark.parametrize(
    ("template", "options", "between"),
    [
        (TURNS + "<think>{{ '\n' }}", {}, "<think>\n\n</think>\n\n"),
        (TURNS + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}", {}, "<think>\n\n</think>\n\n"),
        (TURNS + "{% if enable_thinking %}?{% endif %}", {"enable_thinking": True}, "?"),
        (TURNS + "{# <|start|> <|channel|> <|message|> <|call|> #}", {}, "<|channel|>final<|message|>"),
    ],
)
async def test_the_answer_begins_behind_the_reasoning(
    tmp_path: Path, template: str, options: dict[str, Any], between: str
) -> None:
    async with tiny_server(write_llama(tmp_path / "think.gguf", template=template, context=512)) as server:
        request = decision(yes(), template_options=options)
        [asked] = ways_to_ask(request.questions[0])
        prompt = [USER, *asked.text.encode(), END, ASSISTANT, *between.encode()]
        [answer] = (await server.run(request)).answers
        assert_is(answer, await expected(server, prompt, ["yes", "no"], {}))


@module
async def test_rotations_are_averaged(tiny: InferenceServer) -> None:
    turned = await tiny.run(decision(choice("red", "blue", labels="letters", rotations=2), exact=True))
    one = (await tiny.run(decision(choice("red", "blue", labels="letters")))).answers[0]
    other = (await tiny.run(decision(choice("blue", "red", labels="letters")))).answers[0]
    means = [(a + b) / 2 for a, b in zip(probabilities(one), reversed(probabilities(other)), strict=True)]
    assert probabilities(turned.answers[0]) == pytest.approx(means, rel=1e-4)
    assert turned.answers[0].mass == pytest.approx((one.mass + other.mass) / 2, rel=1e-4)
    assert probabilities(one) != pytest.approx(list(reversed(probabilities(other))), rel=1e-2)


# --- with the demo model, whose scores are rounded


def demo_prompt(request: DecisionRequest, number: int = 0) -> list[int]:
    said = conversation(request, ways_to_ask(request.questions[number])[0])
    turns = "".join(f"<|im_start|>{message.role}\n{message.text}<|im_end|>\n" for message in said)
    tokens = load_model().tokenize(f"{turns}<|im_start|>assistant\n", add_special=False, parse_special=True)
    assert tokens.count(1) == len(said) + 1
    return tokens


def demo_tokens(words: Iterable[str]) -> list[list[int]]:
    model = load_model()
    return [model.tokenize(word, add_special=False, parse_special=False) for word in words]


@module
async def test_first_tokens_are_enough_where_they_differ(server: InferenceServer) -> None:
    request = decision(yes("Is the sky blue?"), input="I love it.")
    await server.run(request)
    before = await engine_status(server)
    [answer] = (await server.run(request)).answers
    after = await engine_status(server)
    assert (after["requests"] - before["requests"], after["computed_tokens"] - before["computed_tokens"]) == (1, 1)
    firsts = [{tokens[0] for tokens in demo_tokens(spelled(word))} for word in ("yes", "no")]
    assert not firsts[0] & firsts[1]
    wanted = [await begins(server, demo_prompt(request), *([token] for token in tokens)) for tokens in firsts]
    assert probabilities(answer) == pytest.approx([part / sum(wanted) for part in wanted], abs=0.02)
    assert answer.mass == pytest.approx(sum(wanted), abs=0.02)
    assert answer.mass > 0.5, "it answers with what it is told to answer with"


@module
async def test_exact_reads_options_to_their_end(server: InferenceServer) -> None:
    cities = ["Tokyo", "Paris", "Rome", "Madrid"]
    request = decision(choice(*cities, question="What is the capital of Japan?"), exact=True)
    [answer] = (await server.run(request)).answers
    prompt = demo_prompt(request)
    wanted = [await begins(server, prompt, *demo_tokens(spelled(city))) for city in cities]
    assert probabilities(answer) == pytest.approx([part / sum(wanted) for part in wanted], abs=0.05)
    assert answer.mass == pytest.approx(sum(wanted), rel=0.2)
    first = await server.run(msgspec.structs.replace(request, exact=False))
    assert first.answers[0].mass > 2 * answer.mass


@module
@pytest.mark.parametrize(("country", "capital"), [("Japan", "Tokyo"), ("France", "Paris"), ("Italy", "Rome")])
async def test_the_model_decides_what_it_would_say(server: InferenceServer, country: str, capital: str) -> None:
    options = [f"The capital of {country} is {city}." for city in ("Madrid", "Tokyo", "Rome", "Paris", "Berlin")]
    question = choice(*options, question=f"What is the capital of {country}?", labels="none", rotations=2)
    [answer] = (await server.run(decision(question))).answers
    assert isinstance(answer, ChoiceAnswer)
    assert answer.best == f"The capital of {country} is {capital}."
    assert answer.probabilities[answer.best] > 0.9


@module
async def test_answers_come_in_order_and_by_name(server: InferenceServer) -> None:
    questions: list[Question] = [
        score(1, 10),
        yes(name="yes"),
        choice("a", "b", name="ab"),
        yes("Is it late?"),
        score(-10, 10),
    ]
    *before, result = [event async for event in server.stream(decision(*questions, input="It is."))]
    assert isinstance(result, DecisionResult)
    kinds = [ScoreAnswer, PredicateAnswer, ChoiceAnswer, PredicateAnswer, ScoreAnswer]
    assert [type(answer) for answer in result.answers] == kinds
    for answer in result.answers:
        assert sum(probabilities(answer)) == pytest.approx(1.0)
        assert 0.0 < answer.mass <= 1.0
    assert result.answer("ab") is result.answers[2]
    assert result.answer("yes") is result.answers[1]
    with pytest.raises(KeyError, match="other"):
        result.answer("other")
    told = [event for event in before if isinstance(event, Progress) and event.stage == "prompt"]
    assert told[-1].done == told[-1].total
    assert [event.done for event in told] == sorted(event.done for event in told)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(["<|im_end|>", "1", "10", "a"])


@module
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=st.lists(WORDS.filter(lambda word: bool(word.strip())), min_size=2, max_size=6, unique_by=str.strip),
    labels=st.sampled_from(["auto", "none", "letters"]),
    exact=st.booleans(),
)
async def test_whatever_the_options_are(server: InferenceServer, options: list[str], labels: Any, exact: bool) -> None:
    [answer] = (await server.run(decision(choice(*options, labels=labels), exact=exact))).answers
    assert isinstance(answer, ChoiceAnswer)
    assert list(answer.probabilities) == options
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert all(0.0 <= part <= 1.0 for part in answer.probabilities.values())
    assert 0.0 <= answer.mass <= 1.0
    assert answer.probabilities[answer.best] == max(answer.probabilities.values())


# --- what is shared


@module
async def test_questions_share_what_they_are_about(server: InferenceServer) -> None:
    questions = [yes(f"Is it {word}?") for word in ("late", "cold", "far", "old")]
    alone = len(demo_prompt(decision(questions[0], input=LONG)))
    before = await engine_status(server)
    result = await server.run(decision(*questions, input=LONG))
    after = await engine_status(server)
    computed = after["computed_tokens"] - before["computed_tokens"]
    assert alone <= result.usage.prompt_tokens < alone + 3 * 30
    assert result.usage.prompt_tokens - result.usage.cached_tokens == computed
    assert computed <= result.usage.prompt_tokens
    assert result.usage.completion_tokens == 0
    again = await server.run(decision(*questions, input=LONG))
    assert again.usage.prompt_tokens == result.usage.prompt_tokens
    # The questions' own tokens are too few to be written down when others start, and are computed again.
    assert len(questions) <= again.usage.prompt_tokens - again.usage.cached_tokens < len(questions) * 30 < alone
    other = await server.run(decision(*questions, input=LONG, cache_salt="mine"))
    assert other.usage.cached_tokens == 0
    for one, same in zip(result.answers, other.answers, strict=True):
        assert probabilities(one) == pytest.approx(probabilities(same), abs=0.02)


@module
async def test_a_conversation_is_shared_with_its_chat(server: InferenceServer) -> None:
    said = [user(f"Listen. {LONG}"), assistant("I listen.")]
    await server.run(chat(*said, "What is 1 + 2?", max_tokens=4))
    result = await server.run(decision(yes("Is it a story?"), score(1, 5), messages=said))
    assert result.usage.cached_tokens > len(LONG.split())
    assert result.usage.prompt_tokens - result.usage.cached_tokens < 80


def test_decisions_go_where_their_conversation_is() -> None:
    said = [user("Hi."), assistant("Hello.")]
    chat_keys, own = keys(chat(*said)), keys(decision(yes(), messages=said, input="A text."))
    assert own[: len(said)] == chat_keys
    assert len(own) == len(said) + 1
    assert own == keys(decision(score(1, 3), messages=said, input="A text."))
    assert own[-1] != keys(decision(yes(), messages=said, input="Another."))[-1]
    assert keys(decision(yes())) == []


# --- refusals and ends


@module
async def test_what_does_not_fit_is_refused(server: InferenceServer) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"question number 0 .* at least \d+ tokens.* 1024") as caught:
        await server.run(decision(yes(), input="river " * 2_000_000))
    assert caught.value.param == "questions[0]"
    with pytest.raises(ContextLengthExceeded, match=r"question number 1 .* has \d+ tokens.* 1024") as caught:
        await server.run(decision(yes(), yes("Is it so? " * 400)))
    assert caught.value.param == "questions[1]"
    room = 1024 - len(demo_prompt(decision(choice("a", "b", labels="none"))))
    long = "1" * (room // 2)  # in the list and in the answer, each digit a token
    with pytest.raises(ContextLengthExceeded, match=r"with its longest option"):
        await server.run(decision(choice("b", long + "2" * 12, labels="none")))
    assert (await server.run(decision(choice("b", long[:-20], labels="none")))).answers


@module
async def test_questions_that_cannot_be_asked_are_refused(server: InferenceServer) -> None:
    with pytest.raises(InvalidRequest, match="'a' more than once") as caught:
        await server.run(decision(yes(), choice("a", "a")))
    assert caught.value.param == "questions[1].options"
    with pytest.raises(InvalidRequest, match="no adapter 'mine'"):
        await server.run(decision(yes(), lora=[LoraScale(name="mine")]))
    with pytest.raises(InvalidRequest, match="cannot set 'messages'"):
        await server.run(decision(yes(), template_options={"messages": []}))


@module
async def test_a_cancelled_decision_leaves_nothing_behind(server: InferenceServer) -> None:
    request = decision(*(yes(f"Is it number {number}?") for number in range(100)), input=LONG, cache_salt="cancelled")
    async with aclosing(server.stream(request)) as events:
        async for event in events:
            if isinstance(event, Progress) and event.stage == "prompt":
                break
    await eventually(lambda: server.pool.running == 0)
    task = asyncio.ensure_future(server.run(request))
    await eventually(lambda: server.pool.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await server.run(decision(yes()))).answers) == 1
    status = await engine_status(server)
    assert (status["running"], status["waiting"]) == (0, 0)


async def test_models_that_do_not_generate_do_not_decide(tmp_path: Path) -> None:
    async with demo_server(file=str(write_bert(tmp_path / "bert.gguf", pooling="cls"))) as server:
        with pytest.raises(Unsupported, match="cannot do decision; it can do: embedding"):
            await server.run(decision(yes()))


async def test_the_fake_engine_decides() -> None:
    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": FakeEngine}) as server:
        questions: list[Question] = [yes(), choice("a", "b"), score(1, 3)]
        result = await server.decision(model="m", questions=questions)
        assert [sum(probabilities(answer)) for answer in result.answers] == pytest.approx([1.0] * 3)
        assert result == await server.decision(model="m", questions=questions)
        with pytest.raises(InvalidRequest, match="more than once"):
            await server.decision(model="m", questions=[choice("a", "a")])


def test_the_example_of_the_page_works(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"PredicateAnswer.*\nChoiceAnswer.*\nScoreAnswer.*\n0\.\d+ Usage", done.stdout)


# --- spellings, without a model


class Chance:
    """A model of random probabilities for what follows a path of tokens out of ``0, 1, ..., size - 1``."""

    def __init__(self, seed: int, size: int = 4) -> None:
        self.seed, self.size = seed, size

    def follows(self, path: Tokens) -> list[float]:
        weights = random.Random(f"{self.seed} {path}")
        parts = [weights.random() + 1e-3 for _ in range(self.size)]
        return [part / sum(parts) for part in parts]

    def probability(self, path: Tokens) -> float:
        return math.prod(self.follows(path[:place])[token] for place, token in enumerate(path))

    def read(self, firsts: Iterable[int], tree: Tree) -> dict[Tokens, float]:
        """What an engine would read: the first tokens, and what the tree wants along its readings."""
        scores: dict[Tokens, float] = {(token,): math.log(self.follows(())[token]) for token in firsts}
        for reading in tree.readings:
            for path in (reading[:length] for length in range(1, len(reading) + 1)):
                scores |= {(*path, token): math.log(self.follows(path)[token]) for token in tree.next(path)}
        return scores


PATHS = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple)


@given(ways=st.dictionaries(PATHS, st.integers(0, 2), min_size=1, max_size=8), seed=st.integers(0, 999))
def test_options_share_all_that_a_model_could_say(ways: dict[Tokens, int], seed: int) -> None:
    """Held against all texts: each counts for the option at which it leaves the tree."""
    chance, tree = Chance(seed), Tree(ways)
    wanted = [0.0] * 3
    beginnings = {way[:length] for way in ways for length in range(1, len(way) + 1)}
    for said in itertools.product(range(chance.size), repeat=4):
        left = next((said[:n] for n in range(4, 0, -1) if said[:n] in beginnings), ())
        if left in ways:
            wanted[ways[left]] += chance.probability(said)
    found = tree.options(chance.read({way[0] for way in ways}, tree), 3)
    assert [math.exp(log) for log in found] == pytest.approx(wanted, abs=1e-9)


def spellings_of(*answers: str, exact: bool = False) -> Spellings:
    """With a vocabulary of letters."""
    return Spellings(answers, lambda text: [ord(letter) for letter in text], exact=exact)


def scores_of(spellings: Spellings, **likely: float) -> dict[Tokens, float]:
    """All first tokens are improbable, but for those that are named (``blank`` for one)."""
    scores: dict[Tokens, float] = {(token,): math.log(1e-9) for token in spellings.first_tokens}
    named = {(ord(" " if name == "blank" else name),): math.log(value) for name, value in likely.items()}
    assert set(named) <= set(scores)
    return scores | named


def test_first_tokens_say_the_same_as_whole_options_of_one_token() -> None:
    spellings = Spellings("abc", lambda text: [sum(map(ord, text))] if text else [], exact=False)
    scores: dict[Tokens, float] = {(token,): -1.0 - token / 100 for token in spellings.first_tokens}
    tree = Tree(spellings.all)
    assert not tree.readings
    assert spellings.by_first_token(scores) == pytest.approx(tree.options(scores, 3))


def test_ways_that_several_options_begin_with_do_not_count_for_any() -> None:
    spellings = spellings_of("yes", "no")
    found = spellings.by_first_token(scores_of(spellings, y=0.25, Y=0.25, n=0.125, blank=0.001))
    assert found == pytest.approx([math.log(0.5), math.log(0.125)], abs=1e-6)
    assert spellings.by_first_token(scores_of(spellings, y=0.25, blank=0.01)) is None
    assert spellings_of("yes", "no", exact=True).by_first_token(scores_of(spellings, y=0.5, n=0.5)) is None
    shared = spellings_of("yes", "yet")
    assert shared.by_first_token(scores_of(shared, y=0.9)) is None


def test_unlikely_ways_are_left_out_and_options_never() -> None:
    spellings = spellings_of("yes", "yet")
    likely = spellings.likely(scores_of(spellings, Y=0.5, blank=0.0001))
    written = {"".join(map(chr, way)): option for way, option in likely.items()}
    assert written == {"yes": 0, "yet": 1, "Yes": 0, "Yet": 1}


def test_an_option_beats_another_way_to_write_another_one() -> None:
    written = {"".join(map(chr, way)): option for way, option in spellings_of("us", "Us", "it").all.items()}
    assert written == {"us": 0, "Us": 1, "it": 2, "It": 2, " it": 2, " It": 2}


def test_a_blank_that_a_vocabulary_puts_in_front_is_no_part_of_the_answer() -> None:
    def tokenize(text: str) -> list[int]:
        return [ord(letter) for letter in f" {text}"]

    spellings = Spellings(["ab", "cd"], tokenize, exact=False)
    assert {"".join(map(chr, way)) for way in spellings.all} >= {"ab", " ab", "  ab", "cd", "Ab"}
    assert spellings.by_first_token(scores_of(spellings, a=0.5, c=0.5)) is not None


def test_options_that_a_vocabulary_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'a' and 'á' are the same to the model"):
        Spellings(["a", "á"], lambda text: [1] * len(text.strip()), exact=False)
    with pytest.raises(InvalidRequest, match="'b' is nothing to the model"):
        Spellings(["a", "b"], lambda text: [1] if "a" in text else [], exact=False)


def test_improbable_options_are_still_compared() -> None:
    parts, mass = shares([-2000.0, -2000.0 + math.log(3.0)])
    assert parts == pytest.approx([0.25, 0.75])
    assert mass == 0.0


@pytest.mark.parametrize("logs", [[-math.inf, -math.inf], [math.nan, -1.0], [-1.0, math.nan]])
def test_scores_that_say_nothing_are_a_failure(logs: list[float]) -> None:
    with pytest.raises(GenerationFailed, match="nothing can be decided"):
        shares(logs)
    assert log_sum([]) == -math.inf
