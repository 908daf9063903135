"""Where llama.cpp puts things: its names of buffers and devices, in those of `MemoryUse`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import msgspec

from infs.config import DeviceConfig
from infs.engines.base import DeviceMemory
from infs.engines.llama_cpp.gpus import GPU, INTEGRATED_GPU
from infs.engines.llama_cpp.native import Devices, ggml_base

HOST = "host"
METAL = "metal"
BACKENDS = {"mtl": METAL}  # the names of backends that ggml shortens


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A device that llama.cpp may use.

    Attributes:
        native: ggml's name of it (``CUDA0``), with which the names of its buffers begin.
        name: ours (``cuda:0``): the backend, and the number among the backend's devices.
        shared: its memory is the machine's main memory.
    """

    native: str
    name: str
    shared: bool = False


class Places:
    """The devices to choose among."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._by_native = {place.native: place for place in places}

    def of(self, buffer: str) -> Place | None:
        """The device of a buffer (``CUDA0``, ``MTL0_Mapped``) or a device; ``None`` for main memory.

        What a device reads from main memory (``CUDA_Host``) is main memory.
        """
        return self._by_native.get(buffer) or self._by_native.get(buffer.partition("_")[0])

    @property
    def first(self) -> Place | None:
        """The one that is used where only one is."""
        return next(iter(self._by_native.values()), None)


def find_places(device: DeviceConfig) -> tuple[Places, list[DeviceMemory]]:
    """The GPUs that a model with these settings may use, and their memory. None without a GPU.

    To ask for the memory of some GPUs wakes their driver, which takes memory in each process; so nothing is asked
    where the configuration leaves them alone.
    """
    if device.gpu is False:
        return Places([]), []
    base = _functions()
    found = [
        (place, _memory(base, address, place.name))
        for backend, addresses in Devices().by_backend().items()
        for place, address in _of_backend(base, BACKENDS.get(backend, backend), addresses)
        if _wanted(device, backend, place)
    ]
    return Places(place for place, _ in found), [memory for _, memory in found]


def _of_backend(base: Any, backend: str, addresses: list[int]) -> Iterable[tuple[Place, int]]:
    for number, address in enumerate(addresses):
        kind = base.ggml_backend_dev_type(address)
        if kind in (GPU, INTEGRATED_GPU):
            native = base.ggml_backend_dev_name(address).decode("utf-8", "replace")
            # Metal calls all its devices GPUs; those that llama.cpp supports have the main memory as theirs.
            shared = kind == INTEGRATED_GPU or backend == METAL
            yield Place(native=native, name=f"{backend}:{number}", shared=shared), address


def _wanted(device: DeviceConfig, backend: str, place: Place) -> bool:
    if not isinstance(device.gpu, str) or device.gpu == "auto":
        return True
    return device.gpu.lower() in (backend, place.name.partition(":")[0])


def _memory(base: Any, address: int, name: str) -> DeviceMemory:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(address, ctypes.byref(free), ctypes.byref(total))
    description = base.ggml_backend_dev_description(address).decode("utf-8", "replace")
    return DeviceMemory(name=name, description=description, total=total.value, free=free.value)


def _functions() -> Any:
    base = ggml_base()
    for name, result in (
        ("ggml_backend_dev_type", ctypes.c_int),
        ("ggml_backend_dev_name", ctypes.c_char_p),
        ("ggml_backend_dev_description", ctypes.c_char_p),
    ):
        function = getattr(base, name)
        function.argtypes, function.restype = [ctypes.c_void_p], result
    pointer = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, pointer, pointer]
    base.ggml_backend_dev_memory.restype = None
    return base
