"""What a model says of itself, without being loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from infs.demo import MODEL_FILE
from infs.errors import LoadFailed
from infs.store.metadata import ModelMetadata, describe
from tests.store.servers import overwrite
from tests.store.test_headers import entry, safetensors

CHAT = (
    "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}{% for m in messages %}{% endfor %}"
)
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "max_position_embeddings": 40960,
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "vocab_size": 151936,
}


def write(path: Path, architecture: str, *, tensors: tuple[str, ...] = ("F32",), **values: object) -> ModelMetadata:
    """Describe a GGUF file with these values and tensors; keys have two underscores for a dot."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        name = key.replace("__", ".")
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}[
            type(value)
        ]
        add(name, value)
    for number, kind in enumerate(tensors):
        data = np.zeros((2, 64), dtype=np.float16 if kind == "F16" else np.float32)
        writer.add_tensor(f"t{number}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return describe(path)


def test_the_demo_model() -> None:
    found = describe(MODEL_FILE)
    assert found.chat_template is not None
    assert (found.format, found.files, found.size) == ("gguf", [MODEL_FILE], MODEL_FILE.stat().st_size)
    assert (found.architecture, found.name, found.parameters, found.quantisation) == (
        "llama",
        "infs demo",
        2_755_008,
        "Q8_0",
    )
    assert (found.context_size, found.layers, found.embedding_size, found.vocabulary) == (1024, 6, 192, 2048)
    assert found.capabilities == ["text-completion", "chat", "tools"]


@pytest.mark.parametrize(
    ("architecture", "values", "capabilities"),
    [
        ("llama", {}, ["text-completion"]),
        ("qwen3", {"tokenizer__chat_template": CHAT}, ["text-completion", "chat", "tools", "reasoning"]),
        ("bert", {}, ["embedding"]),
        ("qwen3", {"qwen3__pooling_type": 3}, ["embedding"]),
        ("qwen3", {"qwen3__pooling_type": 4}, ["rerank"]),
        ("clip", {"clip__has_vision_encoder": True, "clip__has_audio_encoder": True}, ["vision", "audio"]),
        ("llama", {"general__type": "adapter"}, []),
    ],
)
def test_what_a_gguf_file_can_do(
    tmp_path: Path, architecture: str, values: dict[str, Any], capabilities: list[str]
) -> None:
    assert write(tmp_path / "m.gguf", architecture, **values).capabilities == capabilities


def test_what_else_a_gguf_file_says(tmp_path: Path) -> None:
    found = write(
        tmp_path / "m.gguf", "llama", tensors=("F16", "F32", "F16", "F16"), general__license="mit", llama__vocab_size=7
    )
    assert (found.name, found.quantisation, found.licence, found.vocabulary) == ("m", "F16", "mit", 7)
    assert found.parameters == 4 * 128
    assert describe(tmp_path) == found
    odd = write(tmp_path / "odd.gguf", "llama", general__file_type=9999, general__name="", llama__context_length="x")
    assert (odd.quantisation, odd.name, odd.context_size) == ("F32", "odd", None)
    (tmp_path / "m.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:-10])
    assert describe(tmp_path / "m.gguf").missing == 10


def folder(path: Path, config: object, **files: object) -> Path:
    overwrite(path / "config.json", json.dumps(config).encode())
    for name, content in files.items():
        data = content if isinstance(content, bytes) else str(content).encode()
        overwrite(path / name.replace("__", "."), data)
    return path


WEIGHTS = safetensors({"a": entry("BF16", [4, 8], 0, 64), "b": entry("F32", [2], 64, 72)}, 72)


def test_a_safetensors_folder(tmp_path: Path) -> None:
    card = "---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\nlicense: other"
    tokenizer = json.dumps(
        {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT}]}
    )
    path = folder(tmp_path / "m", CONFIG, model__safetensors=WEIGHTS, tokenizer_config__json=tokenizer)
    overwrite(path / "README.md", card.encode())
    found = describe(path)
    assert found == ModelMetadata(
        format="safetensors",
        files=[path / "model.safetensors"],
        size=len(WEIGHTS),
        architecture="Qwen3ForCausalLM",
        name="m",
        parameters=34,
        quantisation="BF16",
        context_size=40960,
        layers=28,
        embedding_size=1024,
        vocabulary=151936,
        chat_template=CHAT,
        capabilities=["text-completion", "chat", "tools", "reasoning"],
        licence="apache-2.0",
    )
    overwrite(path / "chat_template.jinja", b"own")
    assert describe(path).chat_template == "own"
    assert describe(path / "model.safetensors").parameters == 34


@pytest.mark.parametrize(
    ("config", "files", "capabilities"),
    [
        ({"architectures": ["BertModel"]}, {}, ["embedding"]),
        ({"architectures": ["Qwen3ForCausalLM"]}, {"modules__json": "[]"}, ["embedding"]),
        ({"architectures": ["XLMRobertaForSequenceClassification"]}, {}, ["rerank"]),
        (
            {"architectures": ["AnyForConditionalGeneration"], "vision_config": {"a": 1}, "audio_config": {"a": 1}},
            {},
            ["text-completion", "vision", "audio"],
        ),
        ({"model_type": "strange"}, {}, []),
        ({"architectures": 3}, {}, []),
        ([], {}, []),
    ],
)
def test_what_a_folder_can_do(
    tmp_path: Path, config: object, files: dict[str, object], capabilities: list[str]
) -> None:
    assert describe(folder(tmp_path, config, model__safetensors=WEIGHTS, **files)).capabilities == capabilities


def test_quantised_weights_are_not_counted(tmp_path: Path) -> None:
    packed = safetensors({"a": entry("I32", [4, 4], 0, 64)}, 64)
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}, "text_config": {"hidden_size": 5}}
    found = describe(folder(tmp_path, config, model__safetensors=packed))
    assert (found.parameters, found.quantisation, found.embedding_size) == (None, "gptq", 5)
    found = describe(folder(tmp_path, {"quantization": {"bits": 4}}, model__safetensors=packed))
    assert found.quantisation == "4-bit"


def test_an_onnx_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", CONFIG, model__onnx=b"12345", model_q4__onnx=b"123", model__onnx_data=b"12")
    found = describe(path)
    assert (found.format, found.size, found.quantisation, found.layers) == ("onnx", 10, "q4", 28)
    assert [file.name for file in found.files] == ["model.onnx", "model.onnx_data", "model_q4.onnx"]


def test_damaged_settings_say_nothing(tmp_path: Path) -> None:
    path = folder(
        tmp_path, CONFIG, model__safetensors=WEIGHTS, tokenizer_config__json=b"{", chat_template__jinja=b"\xff"
    )
    overwrite(path / "README.md", b"\xff\xfe")
    for content in (b"[" * 100_000, b"\xff", b"3"):
        overwrite(path / "config.json", content)
        found = describe(path)
        assert (found.architecture, found.chat_template, found.parameters) == ("", None, 34)


def test_what_is_no_model(tmp_path: Path) -> None:
    overwrite(tmp_path / "a.gguf", b"nothing")
    overwrite(tmp_path / "b.txt", b"nothing")
    for path in (tmp_path, tmp_path / "a.gguf", tmp_path / "b.txt", tmp_path / "none"):
        with pytest.raises(LoadFailed):
            describe(path)
