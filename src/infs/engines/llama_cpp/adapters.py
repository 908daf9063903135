"""What changes a model without changing its weights: LoRA adapters, which requests choose, and control vectors."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from infs.engines.llama_cpp.gguf_file import GgufFile
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import ControlVector, LlamaOptions
from infs.errors import GenerationFailed, InvalidRequest, LoadFailed
from infs.types import UNSET, LoraScale, UnsetType

LoraKey = tuple[tuple[str, float], ...]
DIRECTION = re.compile(r"direction\.(\d+)")


class Adapters:
    """The adapters and control vectors of a model, loaded once, for all of its contexts.

    A context is told to `attach` once, and from then on belongs to the thread that computes with it. The adapters'
    memory is the model's, which frees it.

    Args:
        locate: where a file of the configuration is: of the text in it, and its key.

    Raises:
        LoadFailed: a file is not there, not of its kind, or made for another model.
    """

    def __init__(
        self, model: LlamaModel, options: LlamaOptions, log: NativeLog, locate: Callable[[str, str], Path]
    ) -> None:
        self._loaded = {
            name: _load_lora(model, locate(lora.file, key), key, log)
            for name, lora in options.lora.items()
            if (key := f"options.lora.{name}.file")
        }
        self._default = _canonical({name: lora.scale for name, lora in options.lora.items()})
        self._width = int(llama_cpp.llama_model_n_embd(model.pointer))
        self._control = _sum_control(model, options.control_vectors, locate)
        self._active: dict[int, LoraKey] = {}

    @property
    def names(self) -> list[str]:
        """The adapters that requests can choose."""
        return sorted(self._loaded)

    def key(self, wanted: list[LoraScale] | UnsetType = UNSET) -> LoraKey:
        """The set of adapters of a request, as one value: equal sets are equal, whatever their order.

        `UNSET` is the scales of the configuration; a list is exactly its adapters. What has scale 0 is left out.

        Raises:
            InvalidRequest: an adapter is not there, or named twice.
        """
        if isinstance(wanted, UnsetType):
            return self._default
        scales: dict[str, float] = {}
        for lora in wanted:
            if lora.name not in self._loaded:
                there = f"it has: {', '.join(self.names)}" if self._loaded else "it has none"
                raise InvalidRequest(f"The model has no adapter {lora.name!r}; {there}.", param="lora")
            if lora.name in scales:
                raise InvalidRequest(f"lora names {lora.name!r} twice.", param="lora")
            scales[lora.name] = lora.scale
        return _canonical(scales)

    def attach(self, context: Any) -> None:
        """Give a new context the control vectors, and the adapters of the configuration.

        Raises:
            LoadFailed: the control vectors could not be set.
        """
        self._active[context] = ()
        if self._control is not None:
            data = self._control.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            last = len(self._control)
            if llama_cpp.llama_set_adapter_cvec(context, data, self._control.size, self._width, 1, last):
                raise LoadFailed("The control vectors could not be set.", param="options.control_vectors")
        self.apply(context, self._default)

    def apply(self, context: Any, key: LoraKey) -> None:
        """Have `context` compute with the adapters of `key` from now on; does nothing where it already does.

        What is in its cache was computed with others, and is not for sequences of this key.

        Raises:
            GenerationFailed: llama.cpp refused.
        """
        if self._active[context] == key:
            return
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * len(key))(*(self._loaded[name] for name, _ in key))
        scales = (ctypes.c_float * len(key))(*(scale for _, scale in key))
        if llama_cpp.llama_set_adapters_lora(context, adapters, len(key), scales):
            raise GenerationFailed("llama.cpp could not change the LoRA adapters.")
        self._active[context] = key

    def detach(self, context: Any) -> None:
        """Forget a context that is about to be freed."""
        self._active.pop(context, None)


def _canonical(scales: dict[str, float]) -> LoraKey:
    return tuple(sorted((name, scale) for name, scale in scales.items() if scale != 0.0))


# --- LoRA


def _load_lora(model: LlamaModel, path: Path, key: str, log: NativeLog) -> Any:
    try:
        _check_lora(model, path)
    except LoadFailed as error:
        raise LoadFailed(f"{key}: {error.message}", param=key) from error
    log.forget()
    adapter = llama_cpp.llama_adapter_lora_init(model.pointer, str(path).encode("utf-8"))
    if not adapter:
        raise LoadFailed(
            f"{key}: {path} could not be loaded; llama.cpp says: {log.last_errors() or 'nothing'}", param=key
        )
    return adapter


def _check_lora(model: LlamaModel, path: Path) -> None:
    """Raise `LoadFailed` unless `path` is an adapter for `model`; llama.cpp aborts over some that are not."""
    with GgufFile(path) as file:
        kind = file.text("adapter.type") if file.text("general.type") == "adapter" else None
        if kind != "lora":
            raise LoadFailed(f"{path} is no LoRA adapter; convert it with llama.cpp's convert_lora_to_gguf.py.")
        made_for = file.text("general.architecture")
        if made_for != model.architecture:
            raise LoadFailed(f"{path} was made for {made_for} models, and this is a {model.architecture} model.")
        if file.has("adapter.lora.alpha") and file.number("adapter.lora.alpha") is None:
            raise LoadFailed(f"{path} is not valid: its adapter.lora.alpha is no 32-bit float.")
        if file.has("adapter.alora.invocation_tokens"):
            raise LoadFailed(
                f"{path} is an activated LoRA (aLoRA), which starts in the middle of a prompt. That is not supported; "
                "use an ordinary LoRA adapter."
            )


# --- control vectors


def _sum_control(
    model: LlamaModel, vectors: list[ControlVector], locate: Callable[[str, str], Path]
) -> NDArray[np.float32] | None:
    """What is added behind each layer but the first; shape (layers - 1, width). ``None`` where there are none."""
    if not vectors:
        return None
    if not model.generates:
        raise LoadFailed(
            f"options.control_vectors are for models that generate text; a {model.architecture} model does not.",
            param="options.control_vectors",
        )
    layers = int(llama_cpp.llama_model_n_layer(model.pointer)) - 1
    total = np.zeros((layers, int(llama_cpp.llama_model_n_embd(model.pointer))), np.float32)
    for index, vector in enumerate(vectors):
        key = f"options.control_vectors[{index}]"
        try:
            _add_control(total, vector, locate(vector.file, f"{key}.file"))
        except LoadFailed as error:
            raise LoadFailed(f"{key}: {error.message}", param=key) from error
    return total


def _add_control(total: NDArray[np.float32], vector: ControlVector, path: Path) -> None:
    """Add `vector`, of the file `path`, to the rows of its layers."""
    layers, width = total.shape
    first, last = vector.first or 1, vector.last or layers
    if not first <= last <= layers:
        raise LoadFailed(f"its layers {first} to {last} are not in the order of, or among, 1 to {layers}.")
    with GgufFile(path) as file:
        names = {name: int(found[1]) for name in file.tensors() if (found := DIRECTION.fullmatch(name))}
        if not names:
            raise LoadFailed(f"{path} is no control vector: it has no tensor direction.1, direction.2, ...")
        for name, layer in names.items():
            if not 1 <= layer <= layers or file.shape(name) != (width,):
                shape = " x ".join(map(str, file.shape(name)))
                raise LoadFailed(
                    f"{path} was made for another model: its tensor {name} has {shape} values, and the model takes "
                    f"direction.1 to direction.{layers} with {width} each."
                )
            if first <= layer <= last:
                total[layer - 1] += np.float32(vector.scale) * file.floats(name)
