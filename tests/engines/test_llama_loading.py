"""Files that are no models, settings that cannot be had: each a clear failure, and the others are served on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest
import pytest_asyncio

from infs.config import DeviceConfig
from infs.demo import MODEL_FILE, demo_model
from infs.engines.llama_cpp.contexts import context_params, new_context
from infs.engines.llama_cpp.gguf_file import check_file, has_tensor
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import choose_devices, cpu_threads
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import ConfigError, EngineError, InfsError, LoadFailed, SourceError
from infs.server import InferenceServer
from infs.types import ChatCompletionRequest, EmbeddingRequest
from tests.engines.kit import eventually
from tests.engines.llama import chat, demo_server, load_model, native_log, text, user
from tests.tiny import write_bert, write_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEMO = MODEL_FILE.read_bytes()


def workers() -> set[int]:
    """The processes that this one has started and that are still there."""
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[InferenceServer, Path]]:
    """A server with a good model, ``m``, and one whose file the tests put there, ``broken``."""
    path = tmp_path_factory.mktemp("broken") / "broken.gguf"
    models: dict[str, Any] = {"m": demo_model(), "broken": {"file": str(path), "ttl": 0.0}}
    async with InferenceServer(models) as server:
        await server.run(chat("hi", max_tokens=1))
        yield server, path


async def failure(server: InferenceServer) -> InfsError:
    """What using the broken model fails with; the good one is served on, and no other process is left."""
    with pytest.raises(InfsError) as caught:
        await server.run(ChatCompletionRequest(model="broken", messages=[user("hi")], max_tokens=1))
    assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"
    await eventually(lambda: len(workers()) == 1)
    return caught.value


BAD_FILES = {
    "empty": (b"", "is empty"),
    "short": (b"GGU", "starts with b'GGU'"),
    "text": (b"This is a readme and no model.\n" * 100, "starts with b'This'"),
    "header": (DEMO[:4], "could not be loaded"),
    "version": (b"GGUF" + b"\xff" * 60, "could not be loaded"),
    "garbage": (b"GGUF\3\0\0\0" + random.Random(1).randbytes(4000), "could not be loaded"),
    "counts": (b"GGUF\3\0\0\0" + b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 2, "could not be loaded"),
    "cut-in-header": (DEMO[:2000], "could not be loaded"),
    "cut-in-vocabulary": (DEMO[:20_000], "could not be loaded"),
    "cut-in-tensors": (DEMO[: len(DEMO) // 2], "could not be loaded.*file bounds"),
    "cut-at-the-end": (DEMO[:-1], "could not be loaded.*file bounds"),
    "other-family": (DEMO.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0lllll", 1), "unknown model architecture"),
}


@pytest.mark.parametrize("name", BAD_FILES)
async def test_a_bad_file_is_a_load_failure(broken: tuple[InferenceServer, Path], name: str) -> None:
    server, path = broken
    content, match = BAD_FILES[name]
    path.write_bytes(content)
    error = await failure(server)
    assert isinstance(error, LoadFailed)
    assert re.search(match, error.message, re.DOTALL), error.message
    assert "broken" in error.message  # the model, or its file


async def test_flipped_bytes_never_end_the_server(broken: tuple[InferenceServer, Path]) -> None:
    """Whatever a damaged header makes of the worker: an error, or a model that answers."""
    server, path = broken
    chance = random.Random(7)
    for _ in range(8):
        damaged = bytearray(DEMO)
        for _ in range(3):
            damaged[chance.randrange(8, 60_000)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(EngineError):
            await server.run(ChatCompletionRequest(model="broken", messages=[user("hi")], max_tokens=1))
        assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"


async def test_a_file_that_is_mended_is_loaded(broken: tuple[InferenceServer, Path]) -> None:
    server, path = broken
    path.write_bytes(b"nothing")
    assert isinstance(await failure(server), LoadFailed)
    path.write_bytes(DEMO)
    result = await server.run(ChatCompletionRequest(model="broken", messages=[user("Count from 1 to 5.")]))
    assert result.text.startswith("1")
    path.unlink()


async def test_what_is_no_file_is_told(broken: tuple[InferenceServer, Path]) -> None:
    server, path = broken
    path.unlink(missing_ok=True)
    assert isinstance(await failure(server), SourceError)
    path.mkdir()
    error = await failure(server)
    assert isinstance(error, LoadFailed | SourceError)
    assert str(path) in error.message
    path.rmdir()


@pytest.mark.parametrize(("name", "match"), [("", "cannot be read"), ("missing.gguf", "cannot be read: No such file")])
async def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, match: str) -> None:
    with pytest.raises(LoadFailed, match=match) as caught:
        check_file(tmp_path / name)
    assert str(tmp_path) in caught.value.message


async def test_a_native_abort_names_its_signal_and_its_reason(broken: tuple[InferenceServer, Path]) -> None:
    server, path = broken
    write_llama(path, kv_heads=3)
    error = await failure(server)
    assert isinstance(error, LoadFailed)
    assert re.search(r"worker process (was ended by signal 6|ended with status \d+)\b.*GGML_ASSERT", error.message)


# --- settings

SETTINGS: list[dict[str, Any]] = [
    {"device": DeviceConfig(gpu=False)},
    {"device": DeviceConfig(gpu=False, cpu_threads=1, mem_lock=True)},
    {"device": DeviceConfig(gpu="cpu")},
    {"device": DeviceConfig(gpu_layers=2**31)},
    {"options": {"mmap": False}},
    {"options": {"mmap": False}, "device": DeviceConfig(mem_lock=True)},
    {"options": {"check_tensors": True}},
    {"options": {"flash_attention": True}},
    {"options": {"flash_attention": False}},
    {"options": {"batch_tokens": 8}},
]


@pytest.mark.parametrize("settings", SETTINGS)
async def test_every_setting_loads_and_answers(settings: dict[str, Any]) -> None:
    async with demo_server(**settings) as server:
        assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"


@pytest.mark.parametrize(
    ("device", "match"),
    [
        (DeviceConfig(gpu="imaginary"), r"asks for 'imaginary', but this build of llama.cpp has: .*cpu"),
        (DeviceConfig(cpu_threads=100_000), "cpu_threads is 100000; llama.cpp takes 512"),
    ],
)
async def test_a_device_that_is_not_there_is_a_load_failure(device: DeviceConfig, match: str) -> None:
    async with demo_server(device=device) as server:
        with pytest.raises(LoadFailed, match=match):
            await server.run(chat("hi"))


async def test_insisting_on_a_gpu_uses_one_or_fails() -> None:
    async with demo_server(device=DeviceConfig(gpu=True)) as server:
        if llama_cpp.llama_supports_gpu_offload():
            assert (await server.run(chat("Count from 1 to 5."))).text == "1, 2, 3, 4, 5"
        else:
            with pytest.raises(LoadFailed, match="supports no GPU, or finds none"):
                await server.run(chat("hi"))


async def test_an_option_that_is_not_known_is_named() -> None:
    with pytest.raises(ConfigError, match=r"options.batch_token.*batch_tokens"):
        demo_server(options={"batch_token": 5})


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    model = load_model()
    yield model
    model.close()


@pytest.mark.parametrize("threads", [1, 2])
async def test_the_context_has_the_threads_that_are_asked_for(model: LlamaModel, threads: int) -> None:
    params = context_params(DeviceConfig(gpu=False, cpu_threads=threads), LlamaOptions())
    params.n_ctx = 64
    context = new_context(model, params, native_log())
    assert llama_cpp.llama_n_threads(context) == threads
    assert llama_cpp.llama_n_threads_batch(context) == threads
    llama_cpp.llama_free(context)
    assert cpu_threads(DeviceConfig()) >= 1


async def test_layers_and_devices() -> None:
    assert choose_devices(DeviceConfig(gpu=False))[0] == 0
    assert choose_devices(DeviceConfig(gpu="auto"))[0] < 0
    assert choose_devices(DeviceConfig(gpu_layers=3)) == (3, None)


async def test_tensors_are_found_by_name(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "rank.gguf", pooling="rank")
    assert has_tensor(path, "nothing", "cls.weight")
    assert not has_tensor(MODEL_FILE, "cls.weight", "cls.output.weight")
    assert not has_tensor(tmp_path / "missing.gguf", "cls.weight")


# --- templates

OTHER = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


async def test_a_configured_template_replaces_the_model_s(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", template="{% for m in messages %}{{ m.content }}{% endfor %}")
    options: dict[str, Any] = {"max_tokens": 5, "ignore_eos": True}
    async with demo_server(file=str(path)) as server:
        own = await server.run(chat("hello", **options))
        assert own.usage.prompt_tokens == 5
        assert (await server.status()).models["m"].instances[0].notes == []
    async with demo_server(file=str(path), chat_template=OTHER) as server:
        by_chat = await server.run(chat("hello", **options))
        by_text = await server.run(text("[user] hello\n[assistant] ", **options))
    assert by_chat.text == by_text.text
    assert by_chat.usage.prompt_tokens == by_text.usage.prompt_tokens > own.usage.prompt_tokens


@pytest.mark.parametrize("template", ["{% if %}", "{{ messages", "{% for m in messages %}"])
async def test_an_invalid_template_is_a_load_failure(template: str) -> None:
    async with demo_server(chat_template=template) as server:
        with pytest.raises(LoadFailed, match=r"chat template is not valid Jinja.*line 1"):
            await server.run(chat("hi"))


async def test_a_template_for_a_model_that_only_embeds_is_refused() -> None:
    async with demo_server(chat_template=OTHER, task="embedding") as server:
        with pytest.raises(LoadFailed, match="chat_template is for models that generate"):
            await server.run(EmbeddingRequest(model="m", input=["x"]))


async def test_the_status_tells_what_is_worked_on() -> None:
    async with demo_server(max_sequences=2) as server:
        asked = [text("Once", max_tokens=900, ignore_eos=True, n=2), text("Then", max_tokens=900, ignore_eos=True)]
        running = asyncio.gather(*(server.run(request) for request in asked))
        while not running.done():
            sequences = [
                sequence
                for instance in (await server.status()).models["m"].instances
                for sequence in instance.sequences
            ]
            if len(sequences) == 3 and sequences[0].generated_tokens:
                break
            await asyncio.sleep(0)
        assert sorted(sequence.index for sequence in sequences) == [0, 0, 1]
        assert len({sequence.request for sequence in sequences}) == 2
        assert {sequence.state for sequence in sequences} == {"running", "waiting"}, "there is room for two"
        assert all(sequence.prompt_tokens for sequence in sequences)
        await running
        assert (await server.status()).models["m"].instances[0].sequences == []
