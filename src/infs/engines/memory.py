"""What estimates of memory have in common, and those of models in safetensors files: from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import psutil

from infs.engines.base import DeviceMemory, MemoryUse
from infs.errors import LoadFailed
from infs.store.safetensors_header import DTYPE_BITS, SafetensorsHeader, SafetensorsTensor

MIB = 1 << 20
TORCH_PROCESS = 370_000_000  # bytes of a process that has imported PyTorch and the code of a model, as measured
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})  # what is converted to the type that a model is loaded in
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
GENERATING = ("ForCausalLM", "LMHeadModel")
GATES = ("gate_proj", "gate_up_proj", "wi_1.", ".w3.")  # tensors of layers that multiply two widened halves
WIDTH = ("hidden_size", "d_model", "n_embd", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers", *LAYERS)
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")
FEED_FORWARD = ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "encoder_ffn_dim", "hidden_dim")


def resident() -> int:
    """Bytes of main memory that this process has now, mapped files included."""
    return int(psutil.Process().memory_info().rss)


class Tally:
    """Adds up what a model takes, by where it is and by what it is."""

    def __init__(self) -> None:
        self.host = 0
        self.devices: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()

    def add(self, part: str, size: float, device: str | None = None, *, shared: bool = False) -> None:
        """Count `size` bytes as `part`.

        Args:
            device: where they are; ``None`` is main memory.
            shared: the device's memory is main memory too, so they count in both.
        """
        count = round(size)
        if not count:
            return
        self.parts[part] += count
        if device is not None:
            self.devices[device] += count
        if device is None or shared:
            self.host += count

    def use(self, *, spare: int = 0, machine: Sequence[DeviceMemory] = ()) -> MemoryUse:
        """What came of it."""
        return MemoryUse(
            host=self.host,
            devices=dict(self.devices),
            spare=spare,
            parts=dict(self.parts),
            machine=list(machine),
        )


class _Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of a ``config.json``, by whatever names it has there."""

    kind: Literal["decoder", "encoder", "encoder-decoder"]
    width: int
    layers: int
    heads: int
    kv_width: int
    feed_forward: int
    vocabulary: int
    gated: bool
    biased: bool


def estimate_safetensors(
    header: SafetensorsHeader,
    config: Mapping[str, Any],
    *,
    dtype: str | None = None,
    context: int,
    batch: int = 1,
    process: int = TORCH_PROCESS,
    device: str | None = None,
) -> MemoryUse:
    """What a model in the format of Transformers takes when PyTorch runs it.

    Args:
        config: its ``config.json``.
        dtype: what its weights are converted to (``"bfloat16"``, ``"float32"``, ...); as they are by default.
        context: tokens of the longest sequence; of an encoder and a decoder, of each of the two.
        batch: sequences of that length at the same time.
        process: bytes of the process before it loads.
        device: the device that it runs on; main memory by default.

    Raises:
        LoadFailed: a size is missing in `config`, or there is no such `dtype`.
    """
    sizes, tally = _read_sizes(header, config), Tally()
    target = None if dtype is None else _dtype_of(dtype)
    weights = sum(_loaded(tensor, target) for tensor in header.tensors)
    number = (DTYPE_BITS[target] if target is not None else _usual_bits(header)) // 8
    cache, compute = _activations(sizes, context, batch, number)
    tally.add("process", process)
    tally.add("weights", weights, device)
    tally.add("context", cache, device)
    # While they are converted the original weights are in main memory too, and gone before anything is computed.
    original = sum(tensor.bytes for tensor in header.tensors if _loaded(tensor, target) != tensor.bytes)
    if device is None:
        tally.add("compute", max(compute, original - cache))
    else:
        tally.add("compute", compute, device)
        tally.add("conversion", original)
    return tally.use()


def _activations(sizes: _Sizes, context: int, batch: int, number: int) -> tuple[int, int]:
    """Bytes of keys and values, and of what else is there while a prompt is computed.

    The widest place of a layer counts: the halves of a feed-forward part, their product and a few vectors as wide as
    the model. Attention needs no matrix, but for models that add a bias to its scores, where there are three.
    """
    tokens = context * batch
    wide = 4 * sizes.feed_forward + 6 * sizes.width if sizes.gated else 2 * sizes.feed_forward + 4 * sizes.width
    compute = tokens * wide * number + 2 * 4 * batch * sizes.vocabulary
    if sizes.biased:
        compute += 3 * number * batch * sizes.heads * context**2
    elif batch > 1:
        compute += batch * context**2  # a mask, since sequences of a batch are not equally long
    if sizes.kind == "encoder":
        return 0, compute
    cache = 2 * sizes.layers * sizes.kv_width * number * tokens
    # A decoder behind an encoder keeps those of the encoder's tokens as well, when the encoder has finished.
    return (2 * cache, max(0, compute - cache)) if sizes.kind == "encoder-decoder" else (cache, compute)


def _read_sizes(header: SafetensorsHeader, config: Mapping[str, Any]) -> _Sizes:
    text = config.get("text_config")
    own: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    width, heads = _number(own, WIDTH), _number(own, HEADS)
    kv_heads = own.get("num_key_value_heads") or heads
    head = own.get("head_dim") or own.get("d_kv") or width // max(1, heads)
    experts = (own.get("moe_intermediate_size") or 0) * (own.get("num_experts_per_tok") or 0)
    kind = _kind(config)
    return _Sizes(
        kind=kind,
        width=width,
        layers=_number(own, DECODER_LAYERS if kind == "encoder-decoder" else LAYERS),
        heads=heads,
        kv_width=kv_heads * head,
        feed_forward=max(experts, _number(own, FEED_FORWARD, 4 * width)),
        vocabulary=_number(own, ("vocab_size",), 0),
        gated=any(gate in tensor.name for tensor in header.tensors for gate in GATES),
        biased="relative_attention_num_buckets" in own,
    )


def _kind(config: Mapping[str, Any]) -> Literal["decoder", "encoder", "encoder-decoder"]:
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    names = [str(name) for name in config.get("architectures") or []]
    # Models that see as well are for conditional generation, and have a decoder only.
    writes = any(name.endswith((*GENERATING, "ForConditionalGeneration")) for name in names)
    return "decoder" if writes or config.get("is_decoder") else "encoder"


def _number(config: Mapping[str, Any], names: Sequence[str], default: int | None = None) -> int:
    found = next((config[name] for name in names if isinstance(config.get(name), int)), default)
    if found is None:
        raise LoadFailed(f"The config.json of the model has none of {', '.join(names)}, so its memory is not known.")
    return int(found)


def _dtype_of(name: str) -> str:
    found = DTYPES.get(name.removeprefix("torch."))
    if found is None:
        raise LoadFailed(f"There is no dtype {name!r} for weights; there are: {', '.join(DTYPES)}.", param="dtype")
    return found


def _loaded(tensor: SafetensorsTensor, target: str | None) -> int:
    """Bytes of `tensor` in memory. What is quantised, or no number with a fraction, stays as it is."""
    if target is None or tensor.dtype not in FLOATS:
        return tensor.bytes
    return tensor.elements * DTYPE_BITS[target] // 8


def _usual_bits(header: SafetensorsHeader) -> int:
    """Bits of the type that most of the weights have among those that can be computed with."""
    counts: Counter[str] = Counter()
    for tensor in header.tensors:
        if tensor.dtype in FLOATS:
            counts[tensor.dtype] += tensor.elements
    return DTYPE_BITS[counts.most_common(1)[0][0]] if counts else 16
