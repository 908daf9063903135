"""How a model is spread over the GPUs."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import msgspec

from infs.config import DeviceConfig
from infs.engines.llama_cpp.native import Devices, ggml_base
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import LoadFailed

GPU, INTEGRATED_GPU = 1, 2  # ggml_backend_dev_type
MODES = {
    "none": llama_cpp.LLAMA_SPLIT_MODE_NONE,
    "layer": llama_cpp.LLAMA_SPLIT_MODE_LAYER,
    "row": llama_cpp.LLAMA_SPLIT_MODE_ROW,
}


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that llama.cpp would use. `splits_rows`: its backend can spread the rows of a tensor."""

    name: str
    splits_rows: bool


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """What llama.cpp is told. `shares` has as many values as it has room for devices, or none."""

    mode: int
    main_gpu: int
    shares: list[float]

    def put(self, params: Any) -> Any:
        """Set the fields of `llama_model_params`; what is returned must live until the model is loaded."""
        params.split_mode, params.main_gpu = self.mode, self.main_gpu
        if not self.shares:
            return None
        shares = (ctypes.c_float * len(self.shares))(*self.shares)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        return shares


def find_split(device: DeviceConfig, options: LlamaOptions) -> Split | None:
    """How to spread the model; ``None`` where the options leave that to llama.cpp.

    Raises:
        LoadFailed: there are not the GPUs that the options speak of.
    """
    named = _named(options)
    if not named:
        return None
    if device.gpu is False:
        raise _refused(named[0], "it is for GPUs, and device.gpu is false.")
    return choose_split(options, list_gpus(device))


def choose_split(options: LlamaOptions, gpus: list[Gpu]) -> Split:
    """How to spread the model over `gpus`; see `find_split`."""
    names = ", ".join(f"{index}: {gpu.name}" for index, gpu in enumerate(gpus))
    if not gpus:
        raise _refused(_named(options)[0], "it is for GPUs, and this build of llama.cpp supports none, or finds none.")
    mode = options.split_mode or ("none" if options.main_gpu is not None else "layer")
    if options.main_gpu is not None and mode != "none":
        raise _refused("main_gpu", f"a model that is split by {mode} has no main GPU; set split_mode to none.")
    if options.main_gpu is not None and options.main_gpu >= len(gpus):
        raise _refused("main_gpu", f"there is no GPU {options.main_gpu}; there are {names}.")
    if mode == "row" and not all(gpu.splits_rows for gpu in gpus):
        raise _refused("split_mode", f"rows cannot be split on {names}; set it to layer.")
    shares = _shares(options, mode, gpus, names)
    return Split(mode=MODES[mode], main_gpu=options.main_gpu or 0, shares=shares)


def _shares(options: LlamaOptions, mode: str, gpus: list[Gpu], names: str) -> list[float]:
    shares = options.tensor_split
    if shares is None:
        return []
    if mode == "none":
        raise _refused("tensor_split", "nothing is split, since split_mode is none or main_gpu is set.")
    if len(shares) > len(gpus):
        raise _refused("tensor_split", f"it has {len(shares)} shares, and there are {len(gpus)} GPUs: {names}.")
    if not any(shares):
        raise _refused("tensor_split", "at least one share must be above 0.")
    return [*shares, *[0.0] * (int(llama_cpp.llama_max_devices()) - len(shares))]


def _named(options: LlamaOptions) -> list[str]:
    return [name for name in ("split_mode", "main_gpu", "tensor_split") if getattr(options, name) is not None]


def _refused(name: str, why: str) -> LoadFailed:
    return LoadFailed(f"options.{name} cannot be used: {why}", param=f"options.{name}")


def list_gpus(device: DeviceConfig) -> list[Gpu]:
    """The GPUs that llama.cpp would use, in its order: integrated ones only if there are no others."""
    base, found = _functions(), Devices().by_backend()
    wanted = device.gpu.lower() if isinstance(device.gpu, str) and device.gpu != "auto" else None
    devices = [d for name, group in found.items() if wanted in (None, name) for d in group]
    for kind in (GPU, INTEGRATED_GPU):
        gpus = [d for d in devices if base.ggml_backend_dev_type(d) == kind]
        if gpus:
            return [_describe(base, gpu) for gpu in gpus]
    return []


def _describe(base: Any, device: int) -> Gpu:
    backend = base.ggml_backend_dev_backend_reg(device)
    splits = base.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_split_buffer_type")
    return Gpu(name=base.ggml_backend_dev_name(device).decode("utf-8", "replace"), splits_rows=bool(splits))


def _functions() -> Any:
    base = ggml_base()
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_type.restype = ctypes.c_int
    base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_name.restype = ctypes.c_char_p
    base.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    base.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    return base
