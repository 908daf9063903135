"""Images and audio from the official client to real models that read them."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.e2e.served import Served, serve
from tests.engines.test_llama_seeing import TEMPLATE
from tests.store.servers import Server, serving
from tests.tiny import write_audio_projector, write_image_projector, write_llama
from tests.tiny.media import png, wav
from tests.tiny.projector import AUDIO_CELLS, IMAGE_CELLS

CONFIG = """
[server]
fetch_media = "anywhere"

[models.demo]

[models.sees]
file = '{model}'
options = {{ projector = '{eye}', disk_cache = 0 }}

[models.hears]
file = '{model}'
options = {{ projector = '{ear}', disk_cache = 0 }}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("media")
    files = {
        "model": write_llama(folder / "model.gguf", template=TEMPLATE, context=1024),
        "eye": write_image_projector(folder / "eye.gguf"),
        "ear": write_audio_projector(folder / "ear.gguf"),
    }
    (folder / "infs.toml").write_text(CONFIG.format(**files), encoding="utf-8")
    with serve("--no-gpu", "--threads", "1", cwd=folder) as server:
        yield server


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def files() -> Iterator[Server]:
    with serving() as server:
        yield server


def image(data: bytes) -> dict[str, Any]:
    return link(f"data:image/png;base64,{base64.b64encode(data).decode()}")


def link(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def audio(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def says(*parts: dict[str, Any] | str) -> Any:
    told = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": told}


async def ask(client: openai.AsyncOpenAI, model: str, *messages: Any, **options: Any) -> Any:
    settings = {"max_tokens": 8, "temperature": 0, "logprobs": True, **options}
    return await client.chat.completions.create(model=model, messages=list(messages), **settings)


def said(answer: Any) -> list[int]:
    """The bytes of an answer, which are of any kind."""
    return [byte for token in answer.choices[0].logprobs.content for byte in token.bytes]


def cached(answer: Any) -> int:
    found: int = answer.usage.prompt_tokens_details.cached_tokens
    return found


def text_tokens(*texts: str) -> int:
    """Tokens of one message with these texts, up to where the answer begins."""
    return len("u:") + sum(map(len, texts)) + 3


async def test_an_image_counts_and_is_cached(client: openai.AsyncOpenAI) -> None:
    question = says("Look at this: ", image(png(1)), "What is it?")
    first = await ask(client, "sees", question)
    assert first.usage.prompt_tokens == text_tokens("Look at this: ", "What is it?") + IMAGE_CELLS
    assert cached(first) == 0
    second = await ask(client, "sees", question, {"role": "assistant", "content": "A cat."}, says("Are you sure?"))
    assert cached(second) >= first.usage.prompt_tokens - 1
    other = await ask(client, "sees", says("Look at this: ", image(png(2)), "What is it?"))
    assert cached(other) == 1 + len("u:Look at this: ")
    again = await ask(client, "sees", question)
    assert cached(again) == again.usage.prompt_tokens - 1
    assert said(again) == said(first)
    scores = [answer.choices[0].logprobs.content[0].logprob for answer in (first, again, other)]
    assert math.isclose(scores[0], scores[1], abs_tol=0.05)
    assert not math.isclose(scores[0], scores[2], abs_tol=1e-6)


async def test_audio_counts_and_is_cached(client: openai.AsyncOpenAI) -> None:
    question = says("Listen: ", audio(wav(1)), "What is it?")
    first = await ask(client, "hears", question)
    around = len("[BEGIN_AUDIO]")
    assert first.usage.prompt_tokens == text_tokens("Listen: ", "What is it?") + around + AUDIO_CELLS
    second = await ask(client, "hears", question, {"role": "assistant", "content": "A cat."}, says("Sure?"))
    assert cached(second) >= first.usage.prompt_tokens - 1
    other = await ask(client, "hears", says("Listen: ", audio(wav(2)), "What is it?"))
    assert cached(other) == 1 + len("u:Listen: ") + around


async def test_several_images_in_one_question(client: openai.AsyncOpenAI, files: Server) -> None:
    one, two = image(png(1)), link(files.add("/two.png", png(2), kind="image/png"))
    pair = await ask(client, "sees", says("First ", one, two, "and last."))
    assert pair.usage.prompt_tokens == text_tokens("First ", "and last.") + 2 * IMAGE_CELLS
    turned = await ask(client, "sees", says("First ", two, one, "and last."))
    assert cached(turned) == 1 + len("u:First ")
    begun = await ask(client, "sees", says("First ", one, image(png(3)), "and last."))
    assert cached(begun) == 1 + len("u:First ") + IMAGE_CELLS


async def test_streams_run_beside_images(client: openai.AsyncOpenAI) -> None:
    async def stream(text: str, *parts: dict[str, Any]) -> list[Any]:
        chunks = await ask(client, "sees", says(text, *parts, "."), stream=True, max_tokens=60)
        return [chunk async for chunk in chunks]

    found = await asyncio.gather(
        stream("Tell me a story"),
        stream("Look at this", image(png(7))),
        stream("Count to a hundred"),
        stream("And at this", image(png(8)), image(png(7))),
    )
    for chunks in found:
        told = [chunk.choices[0].logprobs for chunk in chunks]
        tokens = [token for logprobs in told if logprobs for token in logprobs.content or []]
        reason = chunks[-1].choices[0].finish_reason
        assert (len(tokens), reason) == (60, "length") or reason == "stop"


@pytest.mark.parametrize(
    ("model", "part", "place", "message"),
    [
        ("demo", image(png(1)), "content[1]", "an image, which this model cannot read as it is configured"),
        ("demo", audio(wav(1)), "content[1]", "audio, which this model cannot read as it is configured"),
        ("sees", audio(wav(1)), "content[1]", "audio, which this model cannot read: it reads images only"),
        ("hears", image(png(1)), "content[1]", "an image, which this model cannot read: it reads audio only"),
        ("sees", image(png(1)[:60]), "content[1]", "is damaged, or not complete"),
        ("sees", image(b"hello"), "content[1]", "starts with b'hello'"),
        ("sees", image(wav(1)), "content[1]", "is given as image, and is audio"),
        ("sees", link("data:image/png;base64,???"), "content[1].image_url.url", "not valid base64"),
        ("sees", link("http://127.0.0.1:1/a.png"), "content[1].image_url.url", "could not be fetched"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_read_is_said(
    client: openai.AsyncOpenAI, model: str, part: dict[str, Any], place: str, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, model, says("Look: ", part, "What is it?"), stream=stream)
    assert (caught.value.param, caught.value.type) == (f"messages[0].{place}", "invalid_request_error")
    assert message in caught.value.message
