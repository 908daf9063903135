"""A limit of reasoning ends it there, whatever the model wanted to say next, and the answer goes on behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from infs.chat.parser import THINK
from infs.engines.llama_cpp.reasoning import ReasoningBudget
from infs.server import InferenceServer
from infs.types import Delta, JsonConstraint
from tests.engines.equality import plain_server, server_of
from tests.engines.llama import chat, deltas_of, engine_status, load_model, run_all, text

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPENED = "<|im_start|>assistant\n<think>\n"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}"
)
COUNT = "Count from 1 to 20."
THOUGHTS = "The user wants me to count."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with plain_server(chat_template=TEMPLATE) as server:
        yield server


def thinking(limit: int | None, question: str = COUNT, **options: Any) -> Any:
    """A request that may think so many tokens."""
    told = {} if limit is None else {"reasoning_budget": limit}
    return chat(question, **{"max_tokens": 60, **told, **options})


def ids(pieces: list[bytes]) -> list[int]:
    """The tokens that have these bytes."""
    model = load_model()
    known = {model.piece(token, special=True): token for token in reversed(range(model.size))}
    return [known[piece] for piece in pieces]


def tokens_of(text: str) -> list[int]:
    return load_model().tokenize(text, add_special=False, parse_special=True)


def prompt_tokens(question: str) -> list[int]:
    return tokens_of(f"<|im_start|>user\n{question}<|im_end|>\n{OPENED}")


async def test_without_a_limit_the_model_ends_by_itself(server: InferenceServer) -> None:
    results = [await server.run(thinking(limit)) for limit in (None, 40, 1000)]
    for result in results:
        assert result.choices[0].message.reasoning == THOUGHTS
        assert result.text.startswith("1, 2, 3, 4")
        assert result.text == results[0].text
        assert result.usage == msgspec.structs.replace(results[0].usage, cached_tokens=result.usage.cached_tokens)


@pytest.mark.parametrize("limit", [0, 1, 3, 5, 8])
async def test_the_end_comes_at_the_limit_and_the_answer_is_what_follows_it(
    server: InferenceServer, limit: int
) -> None:
    """The answer is that of a prompt in which the reasoning was ended by hand."""
    free = await server.run(thinking(None, logprobs=0, cache_salt="free"))
    thought = [token.bytes for token in free.choices[0].logprobs[:limit]]
    end = tokens_of(THINK.end)
    result = await server.run(thinking(limit, cache_salt=f"limit {limit}"))
    assert (result.choices[0].message.reasoning or "").strip() == b"".join(thought).decode().strip()
    by_hand = [*prompt_tokens(COUNT), *ids(thought), *end]
    assert result.usage.prompt_tokens == len(prompt_tokens(COUNT))
    answer = await server.run(text(by_hand, max_tokens=60 - limit - len(end), cache_salt="by hand"))
    assert result.text.strip() == answer.text.strip() != ""
    assert result.usage.completion_tokens == limit + len(end) + answer.usage.completion_tokens
    assert result.choices[0].finish_reason == answer.choices[0].finish_reason


@pytest.mark.parametrize("limit", [0, 3])
async def test_with_log_probabilities_all_its_tokens_are_told(server: InferenceServer, limit: int) -> None:
    """Then the end is not appended unseen, but checked like guesses that are right in any case."""
    plain = await server.run(thinking(limit, cache_salt=f"plain {limit}"))
    before = await engine_status(server)
    told = await server.run(thinking(limit, logprobs=2, cache_salt=f"told {limit}"))
    after = await engine_status(server)
    assert (told.choices[0].message, told.usage) == (plain.choices[0].message, plain.usage)
    scores = told.choices[0].logprobs
    end = tokens_of(THINK.end)
    assert ids([score.bytes for score in scores[limit : limit + len(end)]]) == end
    assert all(score.logprob is not None and score.logprob <= 0.0 for score in scores)
    assert after["accepted_tokens"] - before["accepted_tokens"] >= len(end) - 1


async def test_streams(server: InferenceServer) -> None:
    whole = await server.run(thinking(5))
    deltas: list[Delta] = await deltas_of(server, thinking(5))
    assert "".join(delta.reasoning for delta in deltas) == whole.choices[0].message.reasoning
    assert "".join(delta.text for delta in deltas) == whole.text
    kinds = [bool(delta.text) for delta in deltas if delta.text or delta.reasoning]
    assert kinds == sorted(kinds), "nothing is thought behind the answer"


async def test_each_choice_has_its_own_limit(server: InferenceServer) -> None:
    options = {"temperature": 1.5, "n": 6, "seed": 3, "logprobs": 0}
    result = await server.run(thinking(4, "Tell me a story.", **options))
    end, thoughts = tokens_of(THINK.end), set()
    for choice in result.choices:
        pieces = [score.bytes for score in choice.logprobs]
        text = b"".join(pieces)
        assert THINK.close.encode() in text
        thought = text[: text.index(THINK.close.encode())].decode().strip()
        assert (choice.message.reasoning or "") == thought
        if b"".join(pieces[:4]).count(b"<") == 0:  # it did not begin to end by itself
            assert ids(pieces[4 : 4 + len(end)]) == end
        thoughts.add(thought)
    assert len(thoughts) > 1


async def test_limits_while_others_run_and_after_preemption() -> None:
    questions = [f"Tell me a story about a {word}." for word in ("fox", "goat", "house", "river", "lamp", "bridge")]
    requests = [thinking(3 + n, question, max_tokens=150, logprobs=0) for n, question in enumerate(questions)]
    options = {"cache_tokens": 256}
    async with server_of(chat_template=TEMPLATE, context_size=256, max_sequences=6, options=options) as server:
        results = await run_all(server, [msgspec.structs.replace(one, ignore_eos=True) for one in requests])
        assert (await engine_status(server))["preemptions"] > 0
    end = tokens_of(THINK.end)
    for request, result in zip(requests, results, strict=True):
        pieces = [score.bytes for score in result.choices[0].logprobs]
        limit = request.reasoning_budget
        own = b"".join(pieces[:limit]).find(b"<")
        assert own >= 0 or ids(pieces[limit : limit + len(end)]) == end
        assert len(pieces) == 150


@pytest.mark.parametrize("mode", ["always", "off"])
async def test_with_guesses(server: InferenceServer, mode: str) -> None:
    plain = [await server.run(thinking(limit, cache_salt=f"alone {limit}")) for limit in (0, 2, 5)]
    async with server_of(chat_template=TEMPLATE, options={"speculation": {"mode": mode, "match": 1}}) as other:
        for alone, limit in zip(plain, (0, 2, 5), strict=True):
            result = await other.run(thinking(limit))
            assert result.choices == alone.choices
        assert ((await engine_status(other))["guessed_tokens"] > 0) == (mode == "always")


async def test_structured_output_begins_behind_it(server: InferenceServer) -> None:
    rule = JsonConstraint(schema={"type": "array", "items": {"enum": [1, 20]}, "minItems": 2, "maxItems": 3})
    for limit in (0, 1, 4):
        result = await server.run(thinking(limit, constraint=rule))
        assert 2 <= len(msgspec.json.decode(result.text, type=list[int])) <= 3
        reasoning = result.choices[0].message.reasoning or ""
        assert THOUGHTS.startswith(reasoning)
        assert len(tokens_of(reasoning)) <= limit


async def test_an_answer_that_ends_within_the_end_of_reasoning(server: InferenceServer) -> None:
    for most in range(1, 3 + len(tokens_of(THINK.end))):
        result = await server.run(thinking(2, max_tokens=most))
        assert result.usage.completion_tokens == most
        assert result.choices[0].finish_reason == "length"
        assert THINK.close not in result.text


async def test_a_prompt_without_reasoning_has_no_use_for_a_limit() -> None:
    async with plain_server() as server:
        free = await server.run(chat(COUNT, cache_salt="free"))
        limited = await server.run(chat(COUNT, reasoning_budget=0, cache_salt="limited"))
        assert limited.choices == free.choices


# --- the counting


def budget(limit: int, *, thought: bool) -> ReasoningBudget:
    """Whose end is its length in bytes."""
    return ReasoningBudget(THINK, limit, thought=thought, tokenize=lambda end: [len(end)])


def end_after(each: ReasoningBudget, *pieces: bytes) -> int | None:
    """The number of pieces after which the end is due, if it is."""
    for count, piece in enumerate(pieces):
        if each.forced():
            return count
        each.accept(piece)
    return len(pieces) if each.forced() else None


async def test_what_is_counted_is_thought_only() -> None:
    assert end_after(budget(2, thought=True), b"a", b"b", b"c") == 2
    assert end_after(budget(0, thought=True), b"a") == 0
    assert end_after(budget(2, thought=True), b"a", b"</think>", b"c", b"d") is None
    assert end_after(budget(4, thought=True), b"a", b"</", b"think", b">", b"d", b"e", b"f") is None
    assert end_after(budget(3, thought=True), b"</th", b"</", b"thing>", b"x") == 3


async def test_a_model_that_begins_to_think_by_itself() -> None:
    assert end_after(budget(2, thought=False), b"\n", b"<th", b"ink>", b"a", b"b", b"c") == 5
    assert end_after(budget(0, thought=False), b"<think>", b"a") == 1
    assert end_after(budget(0, thought=False), b"Well", b"<think>", b"a") is None


async def test_reasoning_is_ended_once() -> None:
    each = budget(0, thought=True)
    assert each.forced() == [len(THINK.end)]
    each.accept(THINK.end.encode())
    assert each.forced() == []
