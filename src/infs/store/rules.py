"""What models consist of, by their formats: one GGUF file or several, a Transformers folder, an ONNX folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infs.config import ModelConfig
from infs.store.names import part_names
from infs.store.selection import FileRule, RepoFile, Selection, Wish

PROJECTOR = "options.projector"
PIPELINE = "model_index.json"  # of several models, each in a folder of its own
_GGUF = ".gguf"
# In the order in which one is taken where there are several: the first costs no quality, and others no more than it.
_PROJECTOR_TYPES = ("f16", "bf16", "f32", "q8_0")
_LABEL = re.compile(
    r"(?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32|FP8)(?![A-Z0-9])", re.IGNORECASE
)
_SETTINGS = re.compile(
    r"(?!.*\.index\.json$)[^/]+\.(?:json|jinja|model|tiktoken)|vocab\.txt|merges\.txt|bpe\.codes"
    r"|additional_chat_templates/[^/]+\.jinja|\d+_[^/]+/config\.json"
)
_WEIGHTS = re.compile(r"(?!adapter_|consolidated)[^/]+\.safetensors")
_SHARD = re.compile(r"(?P<stem>[^/]+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_MOST_SHARDS = 1000
_VARIANT = re.compile(r"_(?P<name>quantized|fp16|int8|uint8|bnb4|q8|q4|q4f16|q8f16|fp32|bf16)$", re.IGNORECASE)


class GgufRule:
    """A model is a GGUF file with all parts that it was split into."""

    format = "GGUF model"
    mark = ".gguf file"

    def select(self, files: Sequence[RepoFile], wish: Wish) -> list[Selection]:
        """See `FileRule`."""
        names = {file.path for file in files}
        firsts = sorted({part_names(name)[0] for name in names if is_gguf_model(name)})
        if wish.path:
            firsts = [first for first in firsts if wish.path in part_names(first)]
        if wish.quant:
            firsts = _of_quant(firsts, wish.quant)
        return [self._selection(first, names) for first in firsts]

    def recognises(self, beginning: bytes) -> bool:
        """See `FileRule`."""
        return beginning.startswith(b"GGUF")

    def extras(self, config: ModelConfig) -> Mapping[str, str]:
        """See `FileRule`: projector, draft model, adapters and control vectors."""
        options = config.options
        draft = _table(_table(options, "speculation"), "draft")
        lora = _table(options, "lora")
        vectors = options.get("control_vectors")
        named = {
            PROJECTOR: options.get("projector"),
            "options.speculation.draft.file": draft.get("file"),
            **{f"options.lora.{name}.file": _table(lora, name).get("file") for name in lora},
            **{
                f"options.control_vectors.{place}.file": vector.get("file")
                for place, vector in enumerate(vectors if isinstance(vectors, list) else [])
                if isinstance(vector, Mapping)
            },
        }
        return {key: value for key, value in named.items() if isinstance(value, str)}

    def _selection(self, first: str, names: set[str]) -> Selection:
        parts = part_names(first)
        projector = _projector(first, names)
        return Selection(
            main=first,
            files=tuple(parts),
            label=quant_of(first),
            missing=tuple(part for part in parts if part not in names),
            beside={PROJECTOR: projector} if projector else {},
        )


class TransformersRule:
    """A model is a folder: weights in safetensors, settings, tokenizer and chat templates."""

    format = "Transformers model (safetensors)"
    mark = "config.json beside .safetensors files"

    def select(self, files: Sequence[RepoFile], wish: Wish) -> list[Selection]:
        """See `FileRule`. There is one at most, and none by a quantisation or the name of a file."""
        names = {file.path for file in files}
        weights = _weights(names)
        if not weights or wish.quant or wish.path:
            return []
        needed = ["config.json", *weights]
        taken = names if wish.allow is not None else {name for name in names if _SETTINGS.fullmatch(name)}
        index = {f"{_stem(name)}.safetensors.index.json" for name in weights} & names
        present = (*needed, *taken, *index)
        return [
            Selection(
                main="",
                files=tuple(sorted(set(present))),
                missing=tuple(name for name in needed if name not in names),
            )
        ]

    def recognises(self, beginning: bytes) -> bool:
        """See `FileRule`: a single file is none."""
        return False

    def extras(self, config: ModelConfig) -> Mapping[str, str]:
        """See `FileRule`."""
        return {}


class OnnxRule:
    """A model is a folder: graphs with their external data, settings, tokenizer and preprocessor."""

    format = "ONNX model"
    mark = ".onnx file"

    def select(self, files: Sequence[RepoFile], wish: Wish) -> list[Selection]:
        """See `FileRule`. The quantisation is the ending of the graphs' names, as in ``model_q4f16.onnx``."""
        names = {file.path for file in files}
        graphs = sorted(name for name in names if name.endswith(".onnx"))
        if PIPELINE in names and not wish.quant:
            return [self._selection(graphs, "", names, wish)]
        groups: dict[tuple[str, str], list[str]] = {}
        for name in graphs:
            groups.setdefault((_folder(name), variant_of(name)), []).append(name)
        wanted = _groups_of(groups, wish)
        return [self._selection(groups[key], key[1], names, wish) for key in wanted]

    def recognises(self, beginning: bytes) -> bool:
        """See `FileRule`: nothing marks such files but their names."""
        return False

    def extras(self, config: ModelConfig) -> Mapping[str, str]:
        """See `FileRule`."""
        return {}

    def _selection(self, graphs: list[str], variant: str, names: set[str], wish: Wish) -> Selection:
        folders = None if PIPELINE in names else {"", *(_folder(graph) for graph in graphs)}
        beside = {name for name in names if _is_beside(name, graphs, folders)}
        taken = names if wish.allow is not None else beside
        return Selection(main="", files=tuple(sorted({*graphs, *taken})), label=variant)


GGUF = GgufRule()
TRANSFORMERS = TransformersRule()
ONNX = OnnxRule()
FORMATS: tuple[FileRule, ...] = (GGUF, TRANSFORMERS, ONNX)
BUILTIN: Mapping[str, FileRule] = {"llama-cpp": GGUF}


# --- GGUF -----------------------------------------------------------------------------------------------------


def is_gguf_model(path: str) -> bool:
    """Whether `path` is the name of a model by itself; some GGUF files are only for use beside one."""
    name = path.rpartition("/")[2].lower()
    return name.endswith(_GGUF) and not name.startswith("imatrix") and "mmproj" not in name


def quant_of(path: str) -> str:
    """The quantisation in the name of a file, or else of its folder, in capitals; empty where there is none."""
    for part in reversed(path.split("/")):
        found = _LABEL.findall(part)
        if found:
            return str(found[-1]).upper()
    return ""


def _of_quant(paths: list[str], quant: str) -> list[str]:
    """Those whose names carry `quant`, or whose folders do; where several do, those that carry just that."""
    pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
    fitting = [path for path in paths if pattern.search(_stem(path.rpartition("/")[2]))]
    fitting = fitting or [path for path in paths if pattern.search(path)]
    exact = [path for path in fitting if quant_of(path) == quant.upper()]
    return exact if len(exact) == 1 else fitting


def _projector(model: str, names: Iterable[str]) -> str | None:
    """The projector that lies nearest to `model`: in its folder, or above."""
    near = [
        name
        for name in names
        if name.endswith(_GGUF) and "mmproj" in name.rpartition("/")[2].lower() and model.startswith(_folder(name))
    ]
    return min(near, key=lambda name: (-len(_folder(name)), _preference(name), name), default=None)


def _preference(name: str) -> int:
    label = quant_of(name).lower().replace("fp", "f")
    return _PROJECTOR_TYPES.index(label) if label in _PROJECTOR_TYPES else len(_PROJECTOR_TYPES)


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, Mapping) else {}


# --- safetensors ----------------------------------------------------------------------------------------------


def _weights(names: set[str]) -> list[str]:
    """The files of weights that a model needs: the one file, else all parts, else all that there are."""
    there = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    if "model.safetensors" in there:
        return ["model.safetensors"]
    for name in there:
        shard = _SHARD.fullmatch(name)
        if shard is not None and 1 <= int(shard["count"]) <= _MOST_SHARDS:
            count = int(shard["count"])
            return [f"{shard['stem']}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return there


# --- ONNX -----------------------------------------------------------------------------------------------------


def variant_of(path: str) -> str:
    """The ending of a graph's name that tells how it was quantised, in small letters; empty where there is none."""
    found = _VARIANT.search(_stem(path))
    return found["name"].lower() if found else ""


def _groups_of(groups: Mapping[tuple[str, str], list[str]], wish: Wish) -> list[tuple[str, str]]:
    if wish.path:
        return [key for key, graphs in groups.items() if wish.path in graphs]
    if wish.quant:
        return [key for key in groups if key[1] == wish.quant.lower()]
    return [key for key in groups if not key[1]] or list(groups)


def _is_beside(name: str, graphs: list[str], folders: set[str] | None) -> bool:
    """Whether `name` holds settings of the model, or data of one of `graphs`."""
    if (folders is None or _folder(name) in folders) and _SETTINGS.fullmatch(name.rpartition("/")[2]):
        return True
    return any(
        name.startswith((f"{graph}_data", f"{graph}.data")) or name == f"{_stem(graph)}.data" for graph in graphs
    )


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _stem(path: str) -> str:
    """`path` without its ending and the number of its part."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", re.sub(r"\.[A-Za-z]+$", "", path))
