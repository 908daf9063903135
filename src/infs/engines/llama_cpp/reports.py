"""What llama.cpp's log says about memory, of models and contexts that are only simulated.

A simulated model logs on which device each layer is, but not how large its buffers are; so the sizes of tensors
come from the header. A simulated context logs the sizes of its compute buffers, and that of its cache as a whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import msgspec

from infs.store.gguf_header import GgufHeader, GgufTensor

MIB = 1 << 20
_LAYER = re.compile(r"load_tensors: layer +(\d+) assigned to device (\S+?),?(?: |$)")
_BUFFER = re.compile(r"(\S+) +(model|output|compute|RS) buffer size = +([\d.]+) MiB")
_CACHE_LAYER = re.compile(r": layer +\d+: dev = (\S+)")
_CACHE_SIZE = re.compile(r"size = +([\d.]+) MiB \(.*\bK \(")
_MOVED = re.compile(r"\(and (\d+) others\) cannot be used with preferred buffer type")
_BLOCK = re.compile(r"(?:blk|enc\.blk|dec\.blk)\.(\d+)\.")
_INPUT = re.compile(r"(?:token_embd|position_embd|token_types|per_layer_token_embd)\b")
HOST_BUFFERS = ("CPU", "CPU_Mapped")


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights of a model would be.

    Attributes:
        layers: the device of each layer, by ggml's name; the last one stands for the output.
        buffers: the names of the buffers that there would be.
        moved: tensors that are not in the kind of buffer that is preferred for them.
    """

    layers: dict[int, str]
    buffers: list[str]
    moved: int = 0

    def device(self, tensor: GgufTensor) -> str:
        """The device of `tensor`, by ggml's name."""
        block = _BLOCK.match(tensor.name)
        if _INPUT.match(tensor.name) or not self.layers:
            return "CPU"
        return self.layers.get(int(block[1]) if block else max(self.layers), "CPU")

    @property
    def repacks(self) -> bool:
        """Whether some of the weights are laid out anew for the CPU, beside those of the file."""
        return any(name.startswith("CPU_") or name == "AMX" for name in self.buffers if name not in HOST_BUFFERS)


class ContextReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a context would take, in bytes by the names of ggml's buffers and devices.

    Attributes:
        cache: keys and values.
        states: of recurrent layers. llama.cpp takes these really, as long as the simulated context is there.
        output: rows of scores, one for each sequence; taken really, too.
    """

    cache: dict[str, int]
    states: dict[str, int]
    compute: dict[str, int]
    output: dict[str, int]


def read_model(lines: Iterable[str]) -> ModelReport:
    """What the lines of loading a simulated model say."""
    layers: dict[int, str] = {}
    buffers: list[str] = []
    moved = 0
    for line in lines:
        if found := _LAYER.search(line):
            layers[int(found[1])] = found[2]
        elif (found := _BUFFER.search(line)) and found[2] == "model":
            buffers.append(found[1])
        elif found := _MOVED.search(line):
            moved = int(found[1]) + 1
    return ModelReport(layers=layers, buffers=buffers, moved=moved)


def read_context(lines: Iterable[str]) -> ContextReport:
    """What the lines of making a context of a simulated model say."""
    sizes: dict[str, Counter[str]] = {kind: Counter() for kind in ("output", "compute", "RS")}
    cache: Counter[str] = Counter()
    layers: list[str] = []
    for line in lines:
        if found := _CACHE_LAYER.search(line):
            layers.append(found[1])
        elif found := _CACHE_SIZE.search(line):
            for device in layers:
                cache[device] += _bytes(found[1]) // len(layers)
            layers = []
        elif (found := _BUFFER.search(line)) and found[2] in sizes:
            sizes[found[2]][found[1]] += _bytes(found[3])
    return ContextReport(
        cache=dict(cache),
        states=dict(sizes["RS"]),
        compute=dict(sizes["compute"]),
        output=dict(sizes["output"]),
    )


def repacked(header: GgufHeader, report: ModelReport) -> list[GgufTensor]:
    """The tensors that the CPU lays out anew.

    Which types those are depends on the processor. The log does not name them, but says how many tensors are not
    among them; so they are the types that together have as many as are left.
    """
    if not report.repacks:
        return []
    on_cpu = [tensor for tensor in header.tensors if report.device(tensor) == "CPU"]
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    by_type: dict[str, list[GgufTensor]] = {}
    for tensor in on_cpu:
        if len(tensor.shape) > 1 and (tied or not _INPUT.match(tensor.name)):
            by_type.setdefault(tensor.type, []).append(tensor)
    count = len(on_cpu) + tied - report.moved
    return next((tensors for tensors in _choices(list(by_type.values())) if len(tensors) == count), [])


def _choices(groups: Sequence[list[GgufTensor]]) -> Iterable[list[GgufTensor]]:
    """What any of `groups` have together, few groups first."""
    for number in range(1, len(groups) + 1):
        for chosen in combinations(groups, number):
            yield [tensor for group in chosen for tensor in group]


def _bytes(text: str) -> int:
    return round(float(text) * MIB)
