"""Images and audio in words: what reaches the chat model, and when, and what it costs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

import images_described
import media_as_text
import speech_to_function
from combining import model_of
from images_described import ImageOptions
from infs.config import DeviceConfig, ModelConfig
from infs.engines.base import EngineSpec
from infs.errors import ConfigError, ContextLengthExceeded, LoadFailed, ModelNotFound
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import AudioPart, Delta, ImagePart, Message, Progress, ToolUse
from speech_to_function import SpeechOptions
from tests.engines.kit import eventually
from tests.engines.test_llama_seeing import TEMPLATE
from tests.examples.serving import ask, chats, events_of, says, server_of, usage
from tests.tiny import write_audio_projector, write_image_projector, write_llama
from tests.tiny.media import png, wav
from tests.toolbox.scripted import Scripted, calling, saying

CAT, DOG = ImagePart(data=b"cat"), ImagePart(data=b"dog")
SPEECH = AudioPart(data=b"speech")
OPTIONS = {"reader": "reader", "chat": "chat"}
LOOK = ImageOptions(reader="", chat="").instruction
LISTEN = SpeechOptions(reader="", chat="").instruction


def seeing(reader: FakeEngine, answering: FakeEngine, **options: Any) -> InferenceServer:
    return server_of(images_described.ENGINE, {**OPTIONS, **options}, {"reader": reader, "chat": answering})


async def test_descriptions_take_the_places_of_images() -> None:
    reader, chat = FakeEngine(words=["a", "cat"]), FakeEngine()
    system = Message(role="system", content="Be brief.")
    async with seeing(reader, chat) as server:
        events, result = await events_of(server, ask(system, says("What", CAT, "and", DOG, CAT, "?")))
        with_audio = await server.run(ask(says(CAT, SPEECH)))
    told = "What\n(Image 1 shows: a cat)\nand\n(Image 2 shows: a cat)\n(Image 1 shows: a cat)\n?"
    assert chats(chat) == [
        [system, Message(role="user", content=told)],
        [says("(Image 1 shows: a cat)", SPEECH)],
    ]
    assert chats(reader) == [[says(LOOK, image)] for image in (CAT, DOG)], "each once"
    assert any(isinstance(event, Progress) and event.detail == "describing images" for event in events)
    assert result.text == "".join(event.text for event in events if isinstance(event, Delta)) == " ".join(told.split())
    words = len(told.split())
    reading = len(LOOK.split())
    assert result.usage == usage(2 * reading + words, 2 * 2 + words)
    assert with_audio.usage == usage(5, 5)


async def test_the_answer_streams_while_it_is_made() -> None:
    gate = asyncio.Semaphore(0)
    chat = FakeEngine(words=["a", "b", "c"], gate=gate)
    async with (
        seeing(FakeEngine(), chat) as server,
        aclosing(server.stream(ask(says(CAT)))) as events,
    ):
        for text in ("a", " b"):
            gate.release()
            assert await anext(event async for event in events if isinstance(event, Delta)) == Delta(text=text)
        assert chat.running == 1
    await eventually(lambda: chat.running == 0)


async def test_what_was_read_is_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_as_text, "REMEMBERED", 2)
    reader, chat = FakeEngine(words=["x"]), FakeEngine(words=["y"])
    bird = ImagePart(data=b"bird")
    async with seeing(reader, chat, instruction="Look") as server:
        for message, read in ((says(CAT, DOG), 2), (says(DOG, CAT), 2), (says(bird), 3), (says(DOG), 4)):
            await server.run(ask(message))
            assert len(reader.requests) == read


async def test_failures_are_those_of_the_models_behind() -> None:
    reader = FakeEngine(error=ContextLengthExceeded("too large", param="messages"))
    async with seeing(reader, FakeEngine()) as server:
        with pytest.raises(ContextLengthExceeded, match="too large"):
            await server.run(ask(says(CAT, DOG)))
        assert (await server.run(ask(says("no image")))).text == "no image"
    async with seeing(reader, FakeEngine(), chat="nobody") as server:
        with pytest.raises(ModelNotFound, match="nobody"):
            await server.run(ask(says("x")))


def test_options_are_checked() -> None:
    for options, said in (({"chat": "c"}, "reader"), ({**OPTIONS, "words": 1}, "options.words")):
        with pytest.raises(ConfigError, match=said):
            server_of(images_described.ENGINE, options, {})


async def test_in_a_worker_there_are_no_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    spec = EngineSpec(name="alone", factory="images_described:ImagesDescribed", needs_files=False)
    async with InferenceServer({"m": ModelConfig(engine="alone")}, {"alone": spec}) as server:
        with pytest.raises(LoadFailed, match="cannot do in a worker process"):
            await server.run(ask(says("x")))


async def test_what_is_said_calls_a_function() -> None:
    hearing = FakeEngine(words=["The", "weather", "in", "Rome?"])
    chat = Scripted(calling(("get_weather", {"location": "Rome"})), saying("Sunny there."))
    async with server_of(speech_to_function.ENGINE, OPTIONS, {"reader": hearing, "chat": chat}) as server:
        request = ask(says(SPEECH), tools=[speech_to_function.get_weather], tool_choice="required")
        events, result = await events_of(server, request)
    first, second = chat.asked
    assert first.messages == [Message(role="user", content="The weather in Rome?")]
    assert (first.tool_choice, second.tool_choice) == ("required", "auto")
    assert second.messages[0] == first.messages[0]
    assert second.messages[-1].text == "sunny, 21 degrees"
    assert len(hearing.requests) == 1, "the second run of the chat model needs no second listening"
    assert [event.result for event in events if isinstance(event, ToolUse)] == [None, "sunny, 21 degrees"]
    assert [event.text for event in events if isinstance(event, Delta) and event.text] == ["Sunny ", "there."]
    assert result.text == "Sunny there."
    reading = len(LISTEN.split())
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (reading + 2 * 10, 4 + 2 * 3)


# --- the programs, with real models


def run_program(
    program: ModuleType, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Run it with a tiny model of images or audio, which says `sentence` of whatever it gets, and the demo model."""
    kind = "vision" if program is images_described else "hearing"
    write: Callable[[Path], Path] = write_image_projector if kind == "vision" else write_audio_projector
    files = [write_llama(folder / "model.gguf", template=TEMPLATE, context=1024), write(folder / "projector.gguf")]

    def constrained(text: str, projector: str | None = None) -> ModelConfig:
        config = model_of(text, projector)
        if projector is None:
            return config
        defaults = {"constraint": {"type": "choice", "options": [sentence]}}
        device = DeviceConfig(gpu=False, cpu_threads=1)
        options = {**config.options, "disk_cache": 0}
        return replace(config, completion_defaults=defaults, device=device, options=options)

    monkeypatch.setattr(program, "model_of", constrained)
    named = [f"--{kind}", str(files[0]), "--projector", str(files[1])]
    monkeypatch.setattr(sys, "argv", [program.__name__, *arguments, *named])
    program.main()


def test_the_program_for_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.png").write_bytes(png(1))
    arguments = [str(tmp_path / "one.png"), "What is my favourite colour?"]
    run_program(images_described, arguments, "My favourite colour is red.", monkeypatch, tmp_path)
    out, err = capsys.readouterr()
    assert out == "Your favourite colour is red.\n"
    assert "[describing images: 0 of 1]" in err


def test_the_program_for_speech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.wav").write_bytes(wav(1))
    run_program(speech_to_function, [str(tmp_path / "one.wav")], "What is the weather in Rome?", monkeypatch, tmp_path)
    out, err = capsys.readouterr()
    assert out == "The weather in Rome is sunny, 21 degrees.\n"
    assert '[get_weather {"location": "Rome"}: sunny, 21 degrees]' in err
