"""A longer time under mixed load: nothing is lost, mixed up or left behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.served import Served, serve, until

QUESTIONS = [f"What is the capital of {c}?" for c in ("France", "Italy", "Norway", "Japan", "Peru", "Kenya", "Canada")]
REQUESTS = 4000
AT_ONCE = 24


async def ask(client: openai.AsyncOpenAI, question: str, **options: Any) -> Any:
    return await client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": question}], **options
    )


async def whole(client: openai.AsyncOpenAI, question: str) -> str:
    answer: str = (await ask(client, question)).choices[0].message.content
    return answer


async def streamed(client: openai.AsyncOpenAI, question: str) -> str:
    stream = await ask(client, question, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def given_up(client: openai.AsyncOpenAI, question: str) -> None:
    stream = await ask(client, f"{question} Tell me a story.", stream=True, max_tokens=300)
    async for _ in stream:
        break
    await stream.close()


async def one(client: openai.AsyncOpenAI, right: dict[str, str], dice: random.Random) -> None:
    question = dice.choice(QUESTIONS)
    kind = dice.choice([whole, streamed, given_up])
    said = await kind(client, question)
    assert said is None or said == right[question]


def quiet(served: Served) -> bool:
    engine = served.engine()
    return bool(engine["running"] == engine["waiting"] == 0 and served.status()["running"] == 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_mixed_load_for_a_while(tmp_path: Path) -> None:
    """Few cells and many conversations: sharing, eviction, preemption and cancellation all the time."""
    dice = random.Random(1)
    cells = 'models.demo.options={"cache_tokens": 1024}'
    with serve("--set", cells, "--set", "models.demo.max_queue=1000", cwd=tmp_path) as served:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            right = {question: await whole(client, question) for question in QUESTIONS}
            places = asyncio.Semaphore(AT_ONCE)

            async def limited() -> None:
                async with places:
                    await one(client, right, dice)

            await asyncio.gather(*(limited() for _ in range(REQUESTS)))
            await until(lambda: quiet(served))
            assert {question: await whole(client, question) for question in QUESTIONS} == right
        assert len(served.workers()) == 1, "one worker did it all"
        assert served.engine()["cells_used"] <= served.engine()["cells"]
        assert "Traceback" not in served.log
