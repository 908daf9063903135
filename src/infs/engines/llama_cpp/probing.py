"""What this build of llama.cpp is, and what of this machine it can use."""

from __future__ import annotations

import re
from typing import Any

import llama_cpp
import msgspec

from infs.config import DeviceConfig
from infs.engines.llama_cpp.native import Devices, cpu_threads
from infs.engines.llama_cpp.places import find_places

_FEATURE = re.compile(r"(\w+) = (\w+)")


def describe() -> dict[str, Any]:
    """See `infs.engines.base.EngineSpec`; besides, `threads` that it takes by default."""
    features = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    return {
        "build": {name: value for name, value in _FEATURE.findall(features) if value != "0"},
        "backends": sorted(Devices().by_backend()),
        "offloads": bool(llama_cpp.llama_supports_gpu_offload()),
        "devices": [msgspec.to_builtins(device) for device in find_places(DeviceConfig())[1]],
        "threads": cpu_threads(DeviceConfig()),
    }
