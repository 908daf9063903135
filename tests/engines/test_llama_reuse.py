"""What is computed once is not computed again, and nobody ever sees what is in somebody else's cells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from infs.config import Preload
from infs.errors import LoadFailed
from infs.server import InferenceServer
from infs.types import ImagePart, Message, TextCompletionResult
from tests.engines.llama import assistant, chat, demo_server, engine_status, run_all, text, user
from tests.tiny import write_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

SYSTEM = Message(role="system", content="You are Ada, a helpful assistant. " + "Be brief. " * 40)
SECRETS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "garden",
    "window",
    "table",
    "lamp",
    "bridge",
    "forest",
    "mountain",
    "candle",
    "basket",
    "mirror",
    "ladder",
    "pocket",
    "engine",
    "bottle",
    "button",
    "castle",
    "desert",
    "feather",
    "hammer",
    "island",
]


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[InferenceServer]:
    async with demo_server() as server:
        yield server


async def computed(server: InferenceServer) -> int:
    return int((await engine_status(server))["computed_tokens"])


async def test_a_second_turn_computes_only_its_new_tokens(server: InferenceServer) -> None:
    first = await server.run(chat(SYSTEM, user("The secret word is river.")))
    before = await computed(server)
    second = await server.run(
        chat(SYSTEM, user("The secret word is river."), assistant(first.text), user("What is the secret word?"))
    )
    assert "river" in second.text
    new = second.usage.prompt_tokens - first.usage.total_tokens
    assert 0 < new < 25
    # The token that ended the answer has no cell: the conversation is told again by the template from there.
    assert second.usage.cached_tokens >= first.usage.total_tokens - 2
    assert await computed(server) - before == second.usage.prompt_tokens - second.usage.cached_tokens
    status = await engine_status(server)
    assert status["cached_tokens"] == first.usage.cached_tokens + second.usage.cached_tokens
    assert status["prompt_tokens"] == first.usage.prompt_tokens + second.usage.prompt_tokens


async def test_the_same_prompt_again_computes_one_token(server: InferenceServer) -> None:
    request = chat(SYSTEM, user("Count from 1 to 5."))
    first, second = await server.run(request), await server.run(request)
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert second.text == first.text


async def test_choices_compute_their_prompt_once(server: InferenceServer) -> None:
    result = await server.run(chat(SYSTEM, user("Tell me a story."), n=6, temperature=1.0, max_tokens=8))
    # Each of the others computes the last token of the prompt anew: that is where its own scores come from.
    assert await computed(server) == result.usage.prompt_tokens + 5
    assert result.usage.cached_tokens == 0


async def test_requests_at_the_same_time_share_a_beginning(server: InferenceServer) -> None:
    results = await run_all(server, [chat(SYSTEM, user(f"Count from {n} to 20."), max_tokens=4) for n in range(1, 9)])
    whole = results[0].usage.prompt_tokens
    assert await computed(server) < whole + 8 * 25
    assert sum(result.usage.cached_tokens > whole // 2 for result in results) == 7


async def test_a_text_that_goes_on_from_an_answer(server: InferenceServer) -> None:
    first = await server.run(text("Once upon a time there was", max_tokens=20))
    again = await server.run(text("Once upon a time there was" + first.text, max_tokens=5))
    assert again.usage.cached_tokens >= first.usage.total_tokens - 3


# --- preload

PRELOADS = {
    "messages": Preload(messages=[SYSTEM]),
    "prefix": Preload(prefix="<|im_start|>system\n" + SYSTEM.text + "<|im_end|>\n"),
}


@pytest.mark.parametrize("preload", PRELOADS.values(), ids=PRELOADS)
async def test_a_preloaded_beginning_is_there_for_the_first_request_and_stays(preload: Preload) -> None:
    options = {"cache_tokens": 400}
    async with demo_server(preload=preload, context_size=400, max_sequences=3, options=options) as server:
        request = chat(SYSTEM, user("Count from 1 to 5."))
        first = await server.run(request)
        assert first.text == "1, 2, 3, 4, 5"
        assert first.usage.cached_tokens >= first.usage.prompt_tokens - 20 > 50
        await run_all(server, [text(f"In a {word} lived", ignore_eos=True) for word in SECRETS[:8]])
        assert (await engine_status(server))["cells_evicted"] > 0
        last = await server.run(request)
        assert last.usage.cached_tokens >= first.usage.cached_tokens
        assert last.text == first.text


@pytest.mark.parametrize(
    ("preload", "match"),
    [
        (Preload(prefix="apple river " * 1000), r"preload has 2\d{3} tokens.*1024"),
        (Preload(prefix="apple river " * 100_000), r"preload cannot be used.*at least \d+ tokens.*1024"),
        (Preload(prefix=""), "preload has 0 tokens"),
        (Preload(messages=[]), "preload has 0 tokens"),
        (Preload(messages=[Message(role="user", content=[ImagePart(data=b"x")])]), "preload cannot be used.*image"),
    ],
)
async def test_a_preload_that_cannot_be_is_refused(preload: Preload, match: str) -> None:
    async with demo_server(preload=preload) as server:
        for _ in range(2):
            with pytest.raises(LoadFailed, match=match) as caught:
                await server.run(chat("hi"))
            assert caught.value.param == "preload"


async def test_a_preload_of_a_model_that_only_embeds_is_refused() -> None:
    async with demo_server(preload=Preload(prefix="a"), task="embedding") as server:
        with pytest.raises(LoadFailed, match="generate text"):
            await server.embedding(model="m", input=["a"])


# --- no leak


async def converse(server: InferenceServer, secret: str, start: asyncio.Event) -> str:
    """Three turns, in which the word is told in the first one and asked for in the last."""
    await start.wait()
    messages: list[Message] = []
    for said in (f"The secret word is {secret}.", "What is the capital of France?", "What is the secret word?"):
        messages.append(user(said))
        result = await server.run(chat(*messages, max_tokens=40))
        messages.append(assistant(result.text))
        await asyncio.sleep(0)
    return messages[-1].text


async def test_many_conversations_never_see_each_other() -> None:
    """Few cells, so that conversations are cut, evicted, computed again and put back all the time."""
    options = {"cache_tokens": 320}
    async with demo_server(context_size=320, max_sequences=6, max_queue=512, options=options) as server:
        start = asyncio.Event()
        conversations = [asyncio.ensure_future(converse(server, secret, start)) for secret in SECRETS]
        start.set()
        answers = await asyncio.gather(*conversations)
        status = await engine_status(server)
    for secret, answer in zip(SECRETS, answers, strict=True):
        others = [other for other in SECRETS if other != secret and other in answer]
        assert not others, f"{secret}: {answer}"
        assert secret in answer
    assert status["cells_evicted"] > 500
    assert status["cached_tokens"] > 0


def check_same(one: TextCompletionResult, two: TextCompletionResult) -> None:
    """Both are the same text, but where the two best tokens are equally good: batches differ in rounding."""
    for first, second in zip(one.choices[0].logprobs or [], two.choices[0].logprobs or [], strict=True):
        best, next_best = first.top
        if first.bytes != second.bytes:
            assert best.logprob - next_best.logprob < 0.02
            return
        assert second.logprob == pytest.approx(first.logprob, abs=0.02)


async def test_texts_of_a_random_model_are_those_that_it_has_alone(tmp_path: Path) -> None:
    """A model with random weights forgives nothing: one wrong cell, and its scores are other ones."""
    path = write_llama(tmp_path / "random.gguf", context=512)
    prompts = [f"{word} " * count for word in SECRETS[:8] for count in (1, 4, 9)]
    requests = [text(prompt, max_tokens=12, ignore_eos=True, logprobs=2) for prompt in prompts]
    async with demo_server(file=str(path), max_sequences=1) as server:
        alone = [await server.run(request) for request in requests]
    async with demo_server(file=str(path), context_size=128, max_sequences=8, options={"cache_tokens": 256}) as server:
        together = await run_all(server, requests * 2)
        assert (await engine_status(server))["cells_evicted"] > 0
    for one, two in zip(alone * 2, together, strict=True):
        check_same(one, two)
    assert len({result.text for result in alone}) > len(alone) // 2
