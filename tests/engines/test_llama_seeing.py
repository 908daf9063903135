"""Models that see or hear, from the request to the answer: what is shared, moved and evicted changes no answer."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from infs.config import DeviceConfig, ModelConfig, Preload
from infs.errors import ContextLengthExceeded, InvalidRequest, LoadFailed, Unsupported
from infs.server import InferenceServer
from infs.types import (
    AudioPart,
    ChatCompletionRequest,
    ContentPart,
    DecisionRequest,
    EmbeddingRequest,
    ImagePart,
    Message,
    Predicate,
    RegexConstraint,
    TextPart,
)
from tests.engines.equality import assert_all_same_or_tie, assert_same_or_tie, plain_server, server_of
from tests.engines.llama import assistant, chat, engine_status, run_all, user
from tests.tiny import (
    write_audio_projector,
    write_bert,
    write_grid_projector,
    write_image_projector,
    write_llama,
    write_whole_projector,
)
from tests.tiny.media import png, wav

TEMPLATE = (
    "{%- for m in messages -%}<|user|>{{ m.role[0] }}:{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for p in m.content -%}{{ p.text if p.type == 'text' else '<image>' if p.type == 'image' else '' }}"
    "{%- endfor -%}{%- endif -%}<|end|>{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
SIZES = {"image": (0, 16, 0), "grid": (16, 15, 14), "whole": (16, 16, 14), "audio": (13, 7, 0)}
"""Tokens before a medium that its projector wants there, cells, and tokens behind it."""

WRITERS: dict[str, Callable[[Path], Path]] = {
    "image": write_image_projector,
    "grid": write_grid_projector,
    "whole": write_whole_projector,
    "audio": write_audio_projector,
}


class Tiny(NamedTuple):
    """A tiny model with its projector.

    Attributes:
        make: a medium by a number.
        sizes: as in `SIZES`.
    """

    model: Path
    projector: Path
    make: Callable[[int], ContentPart]
    sizes: tuple[int, int, int]

    @property
    def grid(self) -> bool:
        """Whether positions have several dimensions."""
        return self.sizes == SIZES["grid"]

    def settings(self, **more: Any) -> dict[str, Any]:
        """The configuration of its server."""
        options = {"projector": str(self.projector), **more.pop("options", {})}
        return {"chat_template": TEMPLATE, "options": options, **more}

    def server(self, **more: Any) -> InferenceServer:
        return server_of(self.model, **self.settings(**more))

    async def plain(self, requests: list[Any], **more: Any) -> list[Any]:
        """The first choices of `requests`, each alone in an empty cache, with the scores of 50 candidates."""
        async with plain_server(self.model, **self.settings(**more)) as server:
            results = [
                await server.run(msgspec.structs.replace(request, n=1, logprobs=50, cache_salt=secrets.token_hex()))
                for request in requests
            ]
        assert all(result.usage.cached_tokens == 0 for result in results)
        return [result.choices[0] for result in results]


def image(number: int) -> ImagePart:
    return ImagePart(data=png(number, width=40, height=24))


def write(folder: Path, kind: str, *, context: int = 1024) -> Tiny:
    folder.mkdir(exist_ok=True)
    write_projector = WRITERS[kind]
    architecture = "qwen2vl" if kind == "grid" else "llama"
    model = write_llama(folder / "model.gguf", architecture=architecture, context=context)
    make = image if kind != "audio" else lambda number: AudioPart(data=wav(number))
    return Tiny(model, write_projector(folder / "mmproj.gguf"), make, SIZES[kind])


# Two of the four kinds come with the slow tests: what they add to the others is seldom touched.
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("grid", "whole") else []) for kind in WRITERS]


@pytest.fixture(params=KINDS)
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> Tiny:
    return write(tmp_path / "tiny", request.param)


@pytest.fixture
def seeing(tmp_path: Path) -> Tiny:
    return write(tmp_path / "tiny", "image")


def says(*parts: ContentPart | str) -> Message:
    return Message(role="user", content=[TextPart(text=part) if isinstance(part, str) else part for part in parts])


def ask(*parts: ContentPart | str, **options: Any) -> ChatCompletionRequest:
    return going_on(says(*parts), **options)


def going_on(*messages: Message, **options: Any) -> ChatCompletionRequest:
    """A conversation; answers are bytes of any kind, so they are told as tokens."""
    return chat(*messages, **{"max_tokens": 12, "logprobs": 0, **options})


def bytes_before(text: str) -> int:
    """Tokens of a prompt whose first message begins with `text`, up to its end: one for each byte, and the role."""
    return 1 + len("u:") + len(text)


# --- sharing


async def test_a_second_turn_computes_no_medium_again(tiny: Tiny) -> None:
    first = ask("Look: ", tiny.make(1), "what is it?")
    async with tiny.server() as server:
        one = await server.run(first)
        assert one.usage.prompt_tokens == bytes_before("Look: ") + sum(tiny.sizes) + len("what is it?") + 2
        assert one.usage.cached_tokens == 0
        second = going_on(*first.messages, assistant("x"), user("And now?"), max_tokens=12)
        two = await server.run(second)
        assert two.usage.cached_tokens >= one.usage.prompt_tokens - 1
        again = await server.run(second)
        assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
        other = await server.run(ask("Look: ", tiny.make(2), "what is it?"))
        assert other.usage.cached_tokens == bytes_before("Look: ") + tiny.sizes[0]
    alone = await tiny.plain([first, second, ask("Look: ", tiny.make(2), "what is it?")])
    assert_all_same_or_tie(alone, [one, two, other])
    assert_same_or_tie(alone[1], again.choices[0])
    assert len({choice.logprobs[0].logprob for choice in alone}) == 3, "what it sees counts"


async def test_many_requests_side_by_side_are_answered_as_alone(tiny: Tiny) -> None:
    """More than fit into the cells at once, so that some are evicted, and some go back into the queue."""
    one, two = tiny.make(1), tiny.make(2)
    requests = [
        ask("Tell me a story.", max_tokens=60),
        ask("Look: ", one, "what is it?", max_tokens=40),
        ask("Look: ", two, "what is it?"),
        ask("Look: ", one, two, "what are they?"),
        ask("Look: ", two, one, "what are they?"),
        ask(one, "?"),
        ask("a" * 60, one, "b" * 60, two, "c"),
        going_on(says("Look: ", one), assistant("A cat."), says("And ", two, "this?"), max_tokens=30),
        ask("Count to ten.", max_tokens=60),
    ]
    alone = await tiny.plain(requests, context_size=256)
    for cells in (0, 280):
        options = {"cache_tokens": cells} if cells else {}
        async with tiny.server(context_size=256, max_sequences=4, options=options) as server:
            for _ in range(2):
                assert_all_same_or_tie(alone, await run_all(server, requests))
            if cells:
                assert (await engine_status(server))["cells_evicted"] > 0


async def test_streams_go_on_beside_images(seeing: Tiny) -> None:
    stream = ask("Tell me a story.", max_tokens=200)
    images = [ask("Look: ", seeing.make(number), "what?", max_tokens=8) for number in range(6)]
    alone = await seeing.plain([stream, *images])
    async with seeing.server() as server:
        assert_all_same_or_tie(alone, await run_all(server, [stream, *images]))


async def test_images_that_are_longer_than_a_usual_step(tmp_path: Path) -> None:
    """Where all of an image sees all of it, it is computed in one piece, with streams beside it."""
    model = write_llama(tmp_path / "model.gguf", context=2048)
    large = Tiny(model, write_whole_projector(tmp_path / "mmproj.gguf", side=96), image, (16, 576, 14))
    requests = [ask("Tell me a story.", max_tokens=60), *(ask("Look: ", image(number), "what?") for number in (1, 2))]
    alone = await large.plain(requests)
    for options in ({}, {"batch_tokens": 64}):
        async with large.server(max_sequences=4, options=options) as server:
            assert_all_same_or_tie(alone, await run_all(server, requests))


async def test_an_image_that_is_too_long_for_any_step(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model.gguf", context=4096)
    large = Tiny(model, write_whole_projector(tmp_path / "mmproj.gguf", side=184), image, (16, 2116, 14))
    request = ask("Look: ", image(1), "what?")
    async with large.server() as server:
        with pytest.raises(InvalidRequest, match=r"takes 2116 tokens, which must be computed together.*batch_tokens"):
            await server.run(request)
    async with large.server(options={"batch_tokens": 2200}) as server:
        assert (await server.run(request)).usage.prompt_tokens > 2116


async def test_choices_share_a_medium(tiny: Tiny) -> None:
    request = ask("Look: ", tiny.make(1), "what is it?", n=4)
    (alone,) = await tiny.plain([request])
    async with tiny.server() as server:
        result = await server.run(request)
        assert_all_same_or_tie([alone], [result])
        assert (await engine_status(server))["computed_tokens"] < 2 * result.usage.prompt_tokens


async def test_who_leaves_leaves_the_others_alone(tiny: Tiny) -> None:
    request = ask("Look: ", tiny.make(1), "what is it?", max_tokens=20)
    (alone,) = await tiny.plain([request])
    async with tiny.server() as server:
        leaving = [asyncio.create_task(server.run(request)) for _ in range(3)]
        staying = asyncio.create_task(server.run(request))
        await server.run(ask("x", max_tokens=1))
        for task in leaving:
            task.cancel()
        assert_same_or_tie(alone, (await staying).choices[0])
        await asyncio.gather(*leaving, return_exceptions=True)
        assert_same_or_tie(alone, (await server.run(request)).choices[0])


async def test_a_conversation_with_an_image_comes_back_from_memory(tiny: Tiny) -> None:
    first = ask("Look: ", tiny.make(1), "what is it?")
    other = ask("x" * 235)
    (alone,) = await tiny.plain([first], context_size=256)
    async with tiny.server(context_size=256, options={"cache_tokens": 256, "host_cache": 1 << 24}) as server:
        await server.run(first)
        await server.run(other)
        back = await server.run(first)
        assert_same_or_tie(alone, back.choices[0])
        restored = (await engine_status(server))["tiers"]
        # With positions of several dimensions there is no memory beside the cells.
        assert (back.usage.cached_tokens > bytes_before("Look: ")) is bool(restored)
        assert bool(restored) is not tiny.grid


async def test_a_conversation_with_an_image_is_kept_while_another_one_starts(tiny: Tiny) -> None:
    """Also where cells cannot go to memory: there is room for both of them."""
    first = ask("Look: ", tiny.make(1), "what is it?")
    (alone,) = await tiny.plain([first], context_size=256)
    async with tiny.server(context_size=256, options={"cache_tokens": 1024, "host_cache": 1 << 24}) as server:
        await server.run(first)
        await server.run(ask("x" * 100))
        back = await server.run(first)
    assert_same_or_tie(alone, back.choices[0])
    assert back.usage.cached_tokens > bytes_before("Look: ")


# --- what requests may say


async def test_settings_that_look_at_the_prompt(tiny: Tiny) -> None:
    """What a medium is in the sequence is no token that a penalty, a constraint or a guess could be about."""
    penalties = {"repeat_penalty": 1.3, "presence_penalty": 0.5, "penalty_last_n": -1, "dry_multiplier": 0.8}
    requests = [
        ask("Look: ", tiny.make(1), "what is it?", **penalties),
        ask("Look: ", tiny.make(1), "what is it?", constraint=RegexConstraint(pattern="[a-c]{6}"), ignore_eos=False),
        ask("ab ab ab ", tiny.make(1), "ab ab ab", constraint=RegexConstraint(pattern="(ab ){4}"), ignore_eos=False),
    ]
    alone = await tiny.plain(requests)
    async with tiny.server(options={"speculation": {"mode": "always"}}) as server:
        results = await run_all(server, requests)
    assert_all_same_or_tie(alone, results)
    assert set(results[1].text) <= set("abc")
    assert results[2].text == "ab ab ab ab "


async def test_a_conversation_that_outgrows_the_context_loses_whole_messages(tiny: Tiny) -> None:
    turns = [
        message
        for number in range(8)
        for message in (says(f"{number}: ", tiny.make(number), "?"), assistant(f"answer {number}"))
    ]
    request = going_on(*turns, user("Go on."), context_overflow="shift", max_tokens=100)
    async with tiny.server(context_size=128) as server:
        result = await server.run(request)
        assert result.usage.completion_tokens == 100
        assert (await engine_status(server))["shifts"] > 0
        (alone,) = await tiny.plain([request], context_size=128)
        assert_same_or_tie(alone, result.choices[0])


async def test_a_preloaded_image_is_there_for_the_first_request(tiny: Tiny) -> None:
    messages = [Message(role="system", content=[TextPart(text="This: "), tiny.make(1), TextPart(text="is it.")])]
    request = going_on(*messages, user("What is it?"), max_tokens=12)
    (alone,) = await tiny.plain([request])
    async with tiny.server(preload=Preload(messages=messages)) as server:
        result = await server.run(request)
        assert result.usage.cached_tokens == bytes_before("This: ") + sum(tiny.sizes) + len("is it.") + 1
        assert_same_or_tie(alone, result.choices[0])


async def test_decisions_about_images(tiny: Tiny) -> None:
    def about(number: int) -> DecisionRequest:
        questions: list[Any] = [Predicate(question="Is it a cat?"), Predicate(question="Is it a dog?")]
        return DecisionRequest(model="m", messages=[says("Look: ", tiny.make(number))], questions=questions)

    async with tiny.server() as server:
        one, two = await server.run(about(1)), await server.run(about(2))
        again = await server.run(about(1))
    shares = [[answer.probability for answer in result.answers] for result in (one, two, again)]  # type: ignore[union-attr]
    assert shares[2] == pytest.approx(shares[0], rel=2e-3)
    assert shares[1] != pytest.approx(shares[0], rel=5e-3)
    assert again.usage.cached_tokens > bytes_before("Look: ") + sum(tiny.sizes)


async def test_the_model_tells_what_it_reads(tiny: Tiny) -> None:
    async with tiny.server() as server:
        await server.run(ask("x"))
        instance = (await server.status()).models["m"].instances[0]
    told = str(instance)
    audio = tiny.sizes == SIZES["audio"]
    assert ("The model reads audio." in told, "The model reads images." in told) == (audio, not audio)


# --- refusals


@pytest.mark.parametrize(
    ("parts", "error", "param", "said"),
    [
        (["a", AudioPart(data=wav(1)), "b"], Unsupported, "messages[0].content[1]", "audio, which this model cannot"),
        (["a", ImagePart(data=png(1)[:60]), "b"], InvalidRequest, "messages[0].content[1]", "is damaged"),
        (["a", ImagePart(data=b"GIF? no"), "b"], InvalidRequest, "messages[0].content[1]", "no image or audio"),
        (["a", ImagePart(data=wav(1)), "b"], InvalidRequest, "messages[0].content[1]", "given as image, and is audio"),
        (["a", ImagePart(data=png(1)), "b" * 2000], ContextLengthExceeded, "prompt", "has 2022 tokens"),
    ],
    ids=range(5),
)
async def test_what_cannot_be_read(seeing: Tiny, parts: Any, error: Any, param: str, said: str) -> None:
    async with seeing.server() as server:
        with pytest.raises(error, match=said) as caught:
            await server.run(ask(*parts))
        assert caught.value.param == param
        assert (await server.run(ask("a", seeing.make(1), "b"))).usage.completion_tokens == 12


async def test_a_prompt_must_not_end_in_an_image(seeing: Tiny) -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    async with seeing.server(chat_template=bare) as server:
        with pytest.raises(InvalidRequest, match="must end in text"):
            await server.run(ask("a", seeing.make(1)))


async def test_moved_cells_and_images(tiny: Tiny) -> None:
    """Where positions have several dimensions nothing can be moved; elsewhere a medium moves as a whole."""
    history = [says("Look: ", tiny.make(1), "what is it?"), assistant("A cat, I think."), user("y" * 40)]
    async with tiny.server() as server:
        if tiny.grid:
            with pytest.raises(Unsupported, match="cannot be moved"):
                await server.run(going_on(*history, max_tokens=4, cache_reuse=8))
            return
        await server.run(going_on(user("z" * 30), *history, max_tokens=4, cache_reuse=8))
        moved = await server.run(going_on(*history, max_tokens=4, cache_reuse=8))
        assert moved.usage.cached_tokens > tiny.sizes[1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"options": {"projector": "/none/there.gguf"}}, r"options.projector: .*there.gguf is not there"),
        ({"preload": Preload(messages=[says("a", ImagePart(data=b"x"))])}, "preload cannot be used.*no image"),
        ({"preload": Preload(messages=[says("a", AudioPart(data=wav()))])}, "preload cannot be used.*audio"),
        ({"task": "embedding"}, "options.projector is for models that generate text"),
    ],
)
async def test_configurations_that_cannot_be(seeing: Tiny, change: dict[str, Any], match: str) -> None:
    settings = seeing.settings()
    settings = {**settings, **change, "options": {**settings["options"], **change.get("options", {})}}
    if change.get("task"):
        settings.pop("chat_template")
    async with server_of(seeing.model, **settings) as server:
        with pytest.raises(LoadFailed, match=match):
            await server.run(ask("x"))


async def test_a_projector_beside_a_model_of_embeddings(tmp_path: Path) -> None:
    model, projector = write_bert(tmp_path / "m.gguf", pooling="mean"), write_image_projector(tmp_path / "p.gguf")
    config = ModelConfig(file=str(model), options={"projector": str(projector)}, device=DeviceConfig(gpu=False))
    async with InferenceServer({"m": config}) as server:
        with pytest.raises(LoadFailed, match=r"options\.projector is for models that generate text"):
            await server.run(EmbeddingRequest(model="m", input=["x"]))
