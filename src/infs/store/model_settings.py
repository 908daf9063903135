"""What the settings beside a model's weights say: ``config.json``, the tokenizer's, chat templates, a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from infs.store.capabilities import by_architecture, by_template, in_order

LARGEST = 1 << 24  # bytes of a file of settings; larger ones are left alone
CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_CARD = 1 << 14
_LICENCE = re.compile(r"^license:[ \t]*([\w.-]+)", re.MULTILINE)


class ModelSettings(Struct, frozen=True, kw_only=True):
    """See `infs.store.metadata.ModelMetadata`."""

    architecture: str = ""
    name: str = ""
    quantisation: str = ""
    context_size: int | None = None
    layers: int | None = None
    embedding_size: int | None = None
    vocabulary: int | None = None
    chat_template: str | None = None
    capabilities: list[str] = []
    licence: str = ""


def read_settings(folder: Path) -> ModelSettings:
    """What the files in `folder` say; what is not there, or damaged, says nothing."""
    config = _table(folder / "config.json")
    text = _inner(config, "text_config") or _inner(config, "llm_config") or config
    template = _template(folder)
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    architecture = named if isinstance(named, str) else ""
    name = config.get("_name_or_path")
    return ModelSettings(
        architecture=architecture,
        name=name.rpartition("/")[2] if isinstance(name, str) else "",
        quantisation=_quantisation(config),
        context_size=_first(text, CONTEXT),
        layers=_first(text, LAYERS),
        embedding_size=_first(text, WIDTH),
        vocabulary=_first(text, ("vocab_size",)),
        chat_template=template,
        capabilities=_capabilities(folder, config, architecture, template),
        licence=_licence(folder / "README.md"),
    )


def _capabilities(folder: Path, config: Mapping[str, Any], architecture: str, template: str | None) -> list[str]:
    kind = "embedding" if (folder / "modules.json").is_file() else by_architecture(architecture)
    if kind in ("embedding", "rerank"):
        return in_order({kind})
    senses = {sense for sense in ("vision", "audio") if _inner(config, f"{sense}_config")}
    return in_order({*([kind] if kind else []), *by_template(template), *senses})


def _quantisation(config: Mapping[str, Any]) -> str:
    said = _inner(config, "quantization_config") or _inner(config, "quantization")
    method, bits = said.get("quant_method"), said.get("bits")
    if isinstance(method, str):
        return method
    return f"{bits}-bit" if isinstance(bits, int) else ""


def _template(folder: Path) -> str | None:
    """The chat template: a file of its own, else that of the tokenizer, the default one where there are several."""
    try:
        own = _bytes(folder / "chat_template.jinja").decode()
    except UnicodeDecodeError:
        own = ""
    found = own or _table(folder / "tokenizer_config.json").get("chat_template")
    found = found or _table(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, Mapping)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) and found else None


def _licence(card: Path) -> str:
    """The licence in the front matter of a model card."""
    try:
        with card.open("rb") as file:
            text = file.read(_CARD).decode("utf-8", "replace")
    except OSError:
        return ""
    found = _LICENCE.search(text.split("\n---", 1)[0]) if text.startswith("---") else None
    return found[1] if found else ""


def _table(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(_bytes(path))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError:
        return b""
    return data if len(data) <= LARGEST else b""


def _inner(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = table.get(key)
    return found if isinstance(found, Mapping) else {}


def _first(table: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    values = (table.get(key) for key in keys)
    return next((value for value in values if type(value) is int and value > 0), None)
