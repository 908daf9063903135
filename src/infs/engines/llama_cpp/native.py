"""The few things that must be right about the bindings: the log, the devices, the threads."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp

from infs.config import DeviceConfig
from infs.errors import LoadFailed

LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}  # ggml_log_level

MISLEADING = (
    # It takes the size of the whole cache, which all sequences share, for the length of each.
    "possible training context overflow",
    # Pooling is always told; most models that generate say nothing of it.
    "model default pooling_type is [-1]",
)


class NativeLog:
    """Takes llama.cpp's own log lines: into our log, and the last errors into our messages.

    llama.cpp has one callback for the process; a worker hosts one engine, so it is this one.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._errors: deque[str] = deque(maxlen=5)
        self._level = logging.DEBUG
        self._heard: list[str] | None = None
        self._callback = llama_cpp.llama_log_callback(self._take)

    def install(self, *setters: Callable[[Any, ctypes.c_void_p], None]) -> None:
        """Have llama.cpp log here, or the libraries beside it with these `setters`."""
        for set_log in setters or (llama_cpp.llama_log_set,):
            set_log(self._callback, ctypes.c_void_p(0))
            # The library calls it until it gets another one, so it lives as long, whatever becomes of this object.
            set_log.infs_callback = self._callback  # type: ignore[union-attr]

    def last_errors(self) -> str:
        """What was complained about lately, as one line."""
        return " ".join(self._errors)

    def forget(self) -> None:
        """Start anew with collecting errors."""
        self._errors.clear()

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """The lines that come while the context is open, as they come; for one listener at a time."""
        heard: list[str] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None

    def _take(self, level: int, text: bytes, user_data: Any) -> None:
        self._level = LEVELS.get(level, self._level)  # 5 goes on with the line before
        line = text.decode("utf-8", "replace").strip()
        if self._heard is not None:
            self._heard.append(line)
        if not line or line == "." or any(part in line for part in MISLEADING):
            return
        if self._level >= logging.ERROR:
            self._errors.append(line)
            self._log.info("llama.cpp: %s", line)  # what it means for us comes as a failure, which is logged
        else:
            self._log.log(self._level, "llama.cpp: %s", line)


MOST_THREADS = 512  # of ggml
MOST_LAYERS = 10_000  # more than any model has


def cpu_threads(device: DeviceConfig) -> int:
    """Threads for the CPU: those configured, else the cores this process may use.

    Beyond eight logical cores half of them are taken: two threads on the two sides of one core only disturb
    each other here.
    """
    if device.cpu_threads is not None:
        if device.cpu_threads > MOST_THREADS:
            raise LoadFailed(f"device.cpu_threads is {device.cpu_threads}; llama.cpp takes {MOST_THREADS} at most.")
        return device.cpu_threads
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable if usable <= 8 else max(8, usable // 2)


def ggml_base() -> Any:
    """The library below ggml; on Windows its functions cannot be had through the ones above."""
    from llama_cpp._ctypes_extensions import load_shared_library
    from llama_cpp._ggml import libggml_base_path

    return load_shared_library("ggml-base", libggml_base_path)


class Devices:
    """The devices that llama.cpp was built for and found, by ggml's registry."""

    def __init__(self) -> None:
        from llama_cpp._ggml import libggml

        self._lib, self._base = libggml, ggml_base()
        libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
        libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
        self._base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
        self._base.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
        self._base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
        self._base.ggml_backend_reg_name.restype = ctypes.c_char_p

    def by_backend(self) -> dict[str, list[int]]:
        """The addresses of the devices of each backend, by its lower-case name; the CPU is one of them."""
        found: dict[str, list[int]] = {}
        for index in range(self._lib.ggml_backend_dev_count()):
            device = self._lib.ggml_backend_dev_get(index)
            name = self._base.ggml_backend_reg_name(self._base.ggml_backend_dev_backend_reg(device))
            found.setdefault(name.decode().lower(), []).append(device)
        return found


def choose_devices(device: DeviceConfig) -> tuple[int, Any]:
    """How many layers go to a GPU (negative: all), and the list of devices for llama.cpp (``None``: its choice).

    Raises:
        LoadFailed: a GPU is insisted on and there is none of that kind.
    """
    layers = -1 if device.gpu_layers is None else min(device.gpu_layers, MOST_LAYERS)
    if device.gpu is False:
        return 0, _device_list([])
    if isinstance(device.gpu, str) and device.gpu != "auto":
        found = Devices().by_backend()
        wanted = found.get(device.gpu.lower())
        if not wanted:
            raise LoadFailed(
                f"device.gpu asks for {device.gpu!r}, but this build of llama.cpp has: {', '.join(sorted(found))}. "
                "Install a build of llama-cpp-python for that backend, or set device.gpu to auto."
            )
        return layers, _device_list(wanted)
    if device.gpu is True and not llama_cpp.llama_supports_gpu_offload():
        raise LoadFailed(
            "device.gpu is true, but this build of llama.cpp supports no GPU, or finds none. "
            "Install a build of llama-cpp-python for your GPU, or set device.gpu to auto."
        )
    return layers, None


def _device_list(devices: list[int]) -> Any:
    return (ctypes.c_void_p * (len(devices) + 1))(*devices, None)


def offloads(device: DeviceConfig) -> bool:
    """Whether any of the computing is done by a GPU."""
    return device.gpu is not False and device.gpu_layers != 0 and bool(llama_cpp.llama_supports_gpu_offload())
