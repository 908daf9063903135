"""What a model says of itself, read from headers and settings: nothing is loaded, and no engine's library needed."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from infs.errors import LoadFailed
from infs.store.capabilities import by_architecture, by_template, in_order
from infs.store.folders import list_folder, size_of
from infs.store.gguf_header import GgufHeader, is_gguf, read_gguf
from infs.store.gguf_types import FILE_TYPES
from infs.store.model_settings import ModelSettings, read_settings
from infs.store.rules import is_gguf_model, variant_of
from infs.store.safetensors_header import SafetensorsHeader, read_safetensors

# llama.cpp's ways to make one vector of those of all tokens; the last one makes a score.
_POOLED, _RANKED = (1, 2, 3), 4
# Tensors of whole numbers hold several weights in each: how many there are does not follow from the shape.
_PACKED = ("I32", "U8", "I8")


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """A model's description. What it does not say is empty, or ``None``.

    Attributes:
        files: all that were looked at, or that hold weights.
        size: their bytes.
        missing: bytes that the files of weights should have, and have not: the model is not complete.
        architecture: as its format calls it: ``qwen3``, ``Qwen3ForCausalLM``.
        parameters: numbers that were learnt.
        quantisation: ``Q4_K_M``, ``BF16``, ``gptq``.
        context_size: tokens that it was trained for.
        layers, embedding_size, vocabulary: its sizes.
        chat_template: the Jinja template of its chats.
        capabilities: of ``text-completion``, ``chat``, ``tools``, ``reasoning``, ``vision``, ``audio``, ``embedding``
            and ``rerank``, in this order, as far as header and template tell.
        licence: its name, as in ``apache-2.0``.
    """

    format: Literal["gguf", "safetensors", "onnx"]
    files: list[Path]
    size: int
    missing: int = 0
    architecture: str = ""
    name: str = ""
    parameters: int | None = None
    quantisation: str = ""
    context_size: int | None = None
    layers: int | None = None
    embedding_size: int | None = None
    vocabulary: int | None = None
    chat_template: str | None = None
    capabilities: list[str] = []
    licence: str = ""


def describe(path: Path) -> ModelMetadata:
    """The metadata of a GGUF file (with all parts of a split model), or of a folder with safetensors or ONNX files.

    Raises:
        LoadFailed: it is neither, it is damaged, or cannot be read.
        SourceError: the folder cannot be read.
    """
    if not path.is_dir():
        if path.name.endswith(".safetensors"):
            return _of_safetensors(read_safetensors(path), ModelSettings(), path.stem)
        return _of_gguf(read_gguf(path))
    names = [file.path for file in list_folder(path)]
    if any(name.endswith(".safetensors") and "/" not in name for name in names):
        return _of_safetensors(read_safetensors(path), read_settings(path), path.name)
    if any(name.endswith(".onnx") for name in names):
        return _of_onnx(path, names)
    models = [name for name in names if is_gguf_model(name) and is_gguf(path / name)]
    if not models:
        raise LoadFailed(f"{path} holds no model: no GGUF, safetensors or ONNX file.")
    return _of_gguf(read_gguf(path / models[0]))


# --- GGUF -----------------------------------------------------------------------------------------------------


def _of_gguf(header: GgufHeader) -> ModelMetadata:
    said = header.metadata
    template = _text(said.get("tokenizer.chat_template")) or None
    return ModelMetadata(
        format="gguf",
        files=header.files,
        size=header.size,
        missing=header.missing,
        architecture=header.architecture,
        name=_text(said.get("general.name")) or header.files[0].stem,
        parameters=sum(tensor.elements for tensor in header.tensors) or None,
        quantisation=_quantisation(header),
        context_size=_number(header.setting("context_length")),
        layers=_number(header.setting("block_count")),
        embedding_size=_number(header.setting("embedding_length")),
        vocabulary=header.length("tokenizer.ggml.tokens") or _number(header.setting("vocab_size")),
        chat_template=template,
        capabilities=_gguf_capabilities(header, template),
        licence=_text(said.get("general.license")),
    )


def _quantisation(header: GgufHeader) -> str:
    kind = header.metadata.get("general.file_type")
    known = FILE_TYPES.get(kind) if isinstance(kind, int) else None
    return known or _commonest((tensor.type, tensor.bytes) for tensor in header.tensors)


def _gguf_capabilities(header: GgufHeader, template: str | None) -> list[str]:
    pooling = header.setting("pooling_type")
    if pooling == _RANKED:
        return in_order({"rerank"})
    if pooling in _POOLED or by_architecture(header.architecture) == "embedding":
        return in_order({"embedding"})
    senses = {sense for sense in ("vision", "audio") if header.metadata.get(f"clip.has_{sense}_encoder") is True}
    if header.architecture == "clip" or header.metadata.get("general.type") in ("mmproj", "adapter"):
        return in_order(senses)
    return in_order({"text-completion", *by_template(template), *senses})


# --- folders --------------------------------------------------------------------------------------------------


def _of_safetensors(header: SafetensorsHeader, settings: ModelSettings, name: str) -> ModelMetadata:
    packed = any(tensor.dtype in _PACKED and len(tensor.shape) > 1 for tensor in header.tensors)
    parameters = None if packed else sum(tensor.elements for tensor in header.tensors)
    quantisation = settings.quantisation or _commonest((tensor.dtype, tensor.bytes) for tensor in header.tensors)
    return _of_folder("safetensors", settings, name, header.files, parameters or None, quantisation, header.missing)


def _of_onnx(folder: Path, names: list[str]) -> ModelMetadata:
    files = [folder / name for name in names if ".onnx" in name]
    variants = {variant_of(name) for name in names if name.endswith(".onnx")}
    return _of_folder("onnx", read_settings(folder), folder.name, files, None, ", ".join(sorted(variants - {""})))


def _of_folder(
    kind: Literal["safetensors", "onnx"],
    settings: ModelSettings,
    name: str,
    files: list[Path],
    parameters: int | None,
    quantisation: str,
    missing: int = 0,
) -> ModelMetadata:
    told = asdict(settings)  # under the names that they have here
    return ModelMetadata(
        **{**told, "name": settings.name or name, "quantisation": quantisation},
        format=kind,
        files=files,
        size=sum(size_of(file) for file in files),
        missing=missing,
        parameters=parameters,
    )


# --- values ---------------------------------------------------------------------------------------------------


def _commonest(sizes: Iterable[tuple[str, int]]) -> str:
    """The kind that most bytes are of."""
    totals: collections.Counter[str] = collections.Counter()
    for kind, size in sizes:
        totals[kind] += size
    return max(totals, key=lambda kind: totals[kind], default="")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
