"""How a model is loaded, with which options, and how it is left."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infs.demo import MODEL_FILE
from infs.errors import ConfigError, InfsError, InvalidRequest, LoadFailed, ServerClosed, Unsupported
from infs.llama import Llama
from infs.types import AudioPart, ContentPart, ImagePart, Message, TextPart
from tests.engines.kit import eventually
from tests.llama.models import COUNT, QUESTIONS, demo, tiny
from tests.tiny import (
    write_audio_projector,
    write_bert,
    write_control_vector,
    write_image_projector,
    write_llama,
)
from tests.tiny.media import png, wav

TEXT = "the river and the stone"


def scores(llm: Llama) -> np.ndarray:
    """Of what follows `TEXT`."""
    with llm.new_sequence() as sequence:
        sequence.eval(llm.tokenize(TEXT))
        return sequence.logits()


# --- options


def test_types_of_the_cache() -> None:
    sizes, texts = [], []
    for kind in ("f32", "f16", "q8_0", "q4_0"):
        with demo(cache_type_k=kind, cache_type_v=kind, flash_attention=True) as llm:
            texts.append(llm.complete(COUNT, max_tokens=20).text)
            with llm.new_sequence() as sequence:
                sequence.eval(llm.tokenize(COUNT * 5))
                sizes.append(len(sequence.save()))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    "options",
    [
        {"mmap": False},
        {"mem_lock": True},
        {"mmap": False, "mem_lock": True},
        {"check_tensors": True},
        {"flash_attention": True},
        {"flash_attention": False},
        {"gpu": "auto"},
        {"batch_tokens": None},
        {"max_sequences": 1},
        {"speculation": {"mode": "off"}},
        {"speculation": {"mode": "always"}},
        {"host_cache": 0},
        {"context_size": 128, "cache_tokens": 128},
    ],
    ids=str,
)
def test_options_that_change_no_text(options: dict[str, Any], llm: Llama) -> None:
    with demo(**options) as other:
        assert other.chat(QUESTIONS[0]).text == "The capital of France is Paris."
        assert other.complete(COUNT, max_tokens=20).text == llm.complete(COUNT, max_tokens=20).text
        assert other.context_size == options.get("context_size", llm.context_size)


def test_options_that_change_what_is_computed(tmp_path: Path) -> None:
    path, vector = write_llama(tmp_path / "m.gguf"), str(write_control_vector(tmp_path / "v.gguf"))
    found = []
    changes: list[dict[str, Any]] = [
        {},
        {"rope": {"scaling": "linear", "freq_scale": 0.25}},
        {"rope": {"freq_base": 500.0}},
        {"control_vectors": [{"file": vector}]},
        {"control_vectors": [{"file": vector, "scale": -1.0, "first": 1, "last": 1}]},
    ]
    for options in changes:
        with tiny(path, **options) as llm:
            assert llm.complete(TEXT, max_tokens=3, ignore_eos=True).usage.completion_tokens == 3
            found.append((scores(llm), np.array(llm.embed(TEXT).as_lists()[0])))
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one[0] - other[0]).max() > 0.01
            assert np.abs(one[1] - other[1]).max() > 0.01
    with tiny(path, control_vectors=[{"file": vector, "scale": 0.0}]) as llm:
        assert scores(llm) == pytest.approx(found[0][0], abs=0.01)


def test_a_template_of_ones_own() -> None:
    template = COUNT.replace("from 1", "{{ messages[0].content }}")[:-1] + "{{ '\\n' }}"
    with demo(chat_template=template) as llm:
        assert llm.chat("from 1", max_tokens=10).text == llm.complete(COUNT, max_tokens=10).text


def test_relative_paths_start_at_the_cache_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_llama(tmp_path / "m.gguf")
    write_control_vector(tmp_path / "v.gguf")
    for cache in (tmp_path, None):
        monkeypatch.chdir(tmp_path if cache is None else Path(__file__).parent)
        with tiny(path, cache=cache, control_vectors=[{"file": "v.gguf"}]) as llm:
            assert llm.vocabulary_size > 0


def test_facts(llm: Llama) -> None:
    assert llm.details["architecture"] == llm.metadata["general.architecture"]
    assert llm.details["trained_context"] == llm.context_size
    assert (llm.details["vision"], llm.details["audio"]) == (False, False)
    assert llm.vocabulary_size == llm.details["vocabulary"]


# --- images and sound


def test_images_come_through_messages(tmp_path: Path) -> None:
    projector = str(write_image_projector(tmp_path / "mmproj.gguf"))
    with tiny(write_llama(tmp_path / "m.gguf"), projector=projector, batch_tokens=None) as llm:
        assert (llm.details["vision"], llm.details["audio"]) == (True, False)
        plain = llm.chat("What is it?", max_tokens=1).usage.prompt_tokens
        text, image = TextPart(text="What is it?"), png(1)
        message = Message(role="user", content=[ImagePart(data=image), text])
        result = llm.chat([message], max_tokens=5, ignore_eos=True)
        assert result.usage.prompt_tokens >= plain + 16
        assert result.usage.completion_tokens == 5
        parts = [{"type": "image", "data": image}, {"type": "text", "text": "What is it?"}]
        again = llm.submit([{"role": "user", "content": parts}], max_tokens=1).result()
        assert again.usage.prompt_tokens == result.usage.prompt_tokens
        assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
        with pytest.raises(InfsError, match="audio"):
            llm.chat([Message(role="user", content=[AudioPart(data=wav(1)), text])])
        with pytest.raises(InvalidRequest):
            llm.chat([Message(role="user", content=[ImagePart(data=b"no image"), text])])


def test_sound_comes_through_messages(tmp_path: Path) -> None:
    projector = str(write_audio_projector(tmp_path / "mmproj.gguf"))
    with tiny(write_llama(tmp_path / "m.gguf"), projector=projector) as llm:
        content: list[ContentPart] = [TextPart(text="Hear:"), AudioPart(data=wav(1)), TextPart(text="What is it?")]
        assert llm.chat([Message(role="user", content=content)], max_tokens=2, ignore_eos=True).usage.prompt_tokens > 20


def test_a_model_without_eyes_says_so(llm: Llama) -> None:
    with pytest.raises(InfsError, match="image"):
        llm.chat([Message(role="user", content=[ImagePart(data=png(1)), TextPart(text="?")])])


# --- what is wrong


@pytest.mark.parametrize(
    ("options", "said", "param"),
    [
        ({"cache_typ_k": "f16"}, "Did you mean cache_type_k", "cache_typ_k"),
        ({"n_gpu_layers": 3}, "Did you mean gpu_layers", "n_gpu_layers"),
        ({"anything": 1}, "There are: batch_tokens", "anything"),
        ({"cache_type_k": "q3"}, "'q3'", "cache_type_k"),
        ({"batch_tokens": 1}, ">= 8", "batch_tokens"),
        ({"threads": 0}, "threads: Expected `int` >= 1", "threads"),
        ({"gpu_layers": -1}, "gpu_layers: Expected", "gpu_layers"),
        ({"context_size": "large"}, "got `str`", "context_size"),
        ({"max_sequences": 500}, "<= 128", "max_sequences"),
        ({"chat_template": 5}, "got `int`", "chat_template"),
        ({"rope": {"scalin": "none"}}, "did you mean 'scaling'", "rope.scalin"),
        ({"lora": {"a": "file.gguf"}}, "got `str`", "lora[...]"),
        ({"lora": {"a": {"file": object()}}}, "not data", None),
        ({"defaults": {"temprature": 1.0}}, "did you mean 'temperature'", "defaults.temprature"),
        ({"defaults": {"temperature": -1.0}}, ">= 0.0", "defaults.temperature"),
        ({"defaults": 5}, "defaults: Expected", "defaults"),
        ({"run": "never"}, "'thread' or 'manual'", "run"),
        ({"low_sequences": 0}, "1 to 255", "low_sequences"),
        ({"low_sequences": True}, "1 to 255", "low_sequences"),
        ({"low_tokens": "many"}, "'many'", "low_tokens"),
        ({"cache": 5}, "cache must be a path", "cache"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], said: str, param: str | None) -> None:
    with pytest.raises(ConfigError, match=said.replace("`", ".")) as caught:
        demo(**options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context_size": 2}, "context_size is 2; it can be 4"),
        ({"cache_tokens": 10}, "cache_tokens is 10"),
        ({"gpu": "imaginary"}, "^gpu asks for 'imaginary'"),
        ({"tensor_split": [1.0, 1.0]}, "^tensor_split cannot be used: .* gpu is false"),
        ({"main_gpu": 0}, "^main_gpu cannot be used"),
        ({"split_mode": "row"}, "^split_mode cannot be used"),
        ({"lora": {"a": {"file": "missing.gguf"}}}, "^lora.a.file: .*missing.gguf is not there"),
        ({"projector": "missing.gguf"}, "^projector: .*missing.gguf is not there"),
        ({"projector": str(MODEL_FILE)}, "no projector"),
        ({"pooling": "rank"}, "no reranker"),
        ({"cache_type_v": "q8_0", "flash_attention": False}, "^cache_type_v cannot be used"),
        ({"chat_template": "{% nonsense"}, "not valid Jinja"),
    ],
)
def test_what_the_model_cannot_have_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadFailed, match=said):
        demo(**options)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("Once upon a time there was a river. " * 10)
    whole = MODEL_FILE.read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    for name, said in (
        ("none.gguf", "cannot be read"),
        ("text.gguf", "no GGUF"),
        ("half.gguf", "half.gguf"),
        (".", "cannot"),
    ):
        with pytest.raises(LoadFailed, match=said):
            Llama(tmp_path / name)
    for wrong in (None, 5):
        with pytest.raises(ConfigError, match="model must be a path"):
            Llama(wrong)  # type: ignore[arg-type]


def test_what_only_texts_need(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf", pooling="mean")
    for options in ({"chat_template": "x"}, {"projector": "x"}):
        with pytest.raises(LoadFailed, match="makes embeddings"):
            tiny(path, **options)


def test_progress_is_told() -> None:
    told: list[float] = []
    with demo(progress=told.append):
        assert told == sorted(told)
        assert told[-1] == 1.0
        assert len(told) > 2


def test_a_failure_of_progress_comes_out() -> None:
    def fail(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(progress=fail)


# --- the end


def test_a_closed_model_is_of_no_use() -> None:
    llm = demo()
    with llm:
        assert not llm.closed
    assert llm.closed
    llm.close()
    calls: list[Callable[[], object]] = [
        lambda: llm.complete(COUNT),
        lambda: llm.chat("x"),
        lambda: llm.infill("a", "b"),
        lambda: llm.stream_chat("x"),
        lambda: llm.submit("x"),
        lambda: llm.embed("x"),
        lambda: asyncio.run(llm.achat("x")),
        lambda: asyncio.run(llm.aembed("x")),
        lambda: llm.tokenize("x"),
        lambda: llm.detokenize([1]),
        lambda: llm.lookup_token("x"),
        llm.new_sequence,
        lambda: llm.model_pointer,
        lambda: llm.context_pointer,
        lambda: llm.context_lock,
        lambda: llm.end_tokens,
        lambda: llm.details,
    ]
    for call in calls:
        with pytest.raises(ServerClosed, match="closed"):
            call()


def test_closing_while_others_work() -> None:
    llm = demo()
    started = threading.Barrier(9)
    ends: list[BaseException] = []

    def work(number: int) -> None:
        started.wait()
        try:
            while True:
                if number % 4 == 0:
                    llm.complete(COUNT, max_tokens=20)
                elif number % 4 == 1:
                    llm.embed(["one", "two"])
                elif number % 4 == 2:
                    with llm.new_sequence() as sequence:
                        sequence.eval(llm.tokenize(COUNT))
                else:
                    llm.detokenize(llm.tokenize(COUNT))
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    llm.complete(COUNT, max_tokens=40)
    llm.close()
    for thread in threads:
        thread.join()
    assert [type(end) for end in ends] == [ServerClosed] * 8


async def test_closing_on_an_event_loop() -> None:
    async with demo() as llm:
        tasks = [asyncio.create_task(llm.achat(COUNT, max_tokens=900, ignore_eos=True)) for _ in range(4)]
        await eventually(lambda: llm.counts()["running"])
    for task in tasks:
        with pytest.raises(ServerClosed):
            await task


def test_what_was_not_closed_is_told_and_closed() -> None:
    kept = [demo()]
    handle = kept[0].submit(COUNT, max_tokens=900, ignore_eos=True)
    before = set(threading.enumerate())
    with pytest.warns(ResourceWarning, match="not closed"):
        kept.clear()
    for thread in set(threading.enumerate()) - before:
        thread.join()
    with pytest.raises(ServerClosed):
        handle.result()


def test_a_sequence_keeps_its_model() -> None:
    kept = [demo().new_sequence()]
    gc.collect()
    kept[0].eval([1])
    assert kept[0].logits().shape
    with pytest.warns(ResourceWarning, match="not closed"):
        kept.clear()


def test_a_process_ends_with_an_open_model() -> None:
    code = f"""
from infs.llama import Llama
llm = Llama({str(MODEL_FILE)!r}, threads=1, gpu=False, defaults={{"temperature": 0.0}})
sequence = llm.new_sequence()
stream = llm.stream_chat("Count from 1 to 40.", ignore_eos=True, max_tokens=900)
print(next(stream).text)
handle = llm.submit("x", ignore_eos=True, max_tokens=900)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")


def test_importing_infs_imports_none_of_this() -> None:
    code = "import sys, infs; print([name for name in sys.modules if name.split('.')[0] in ('llama_cpp', 'numpy')"
    code += " or name.startswith('infs.llama')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"


def test_two_models_at_once(tmp_path: Path, llm: Llama) -> None:
    with tiny(write_llama(tmp_path / "m.gguf")) as other:
        one, two = llm.submit(COUNT, max_tokens=40), other.submit(TEXT, max_tokens=40, ignore_eos=True)
        assert one.result().text == llm.complete(COUNT, max_tokens=40).text
        assert two.result().usage.completion_tokens == 40
        with pytest.raises(Unsupported):
            other.infill("a", "b")
