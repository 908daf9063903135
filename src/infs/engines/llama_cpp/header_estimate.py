"""What a GGUF model would take, by its header alone: for machines and processes without llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from infs.config import ModelConfig, convert
from infs.engines.base import MemoryUse
from infs.engines.llama_cpp.cache_sizes import Layers
from infs.engines.llama_cpp.locating import locate
from infs.engines.llama_cpp.options import HOST_CACHE, LlamaOptions
from infs.engines.llama_cpp.sizing import (
    ContextSizes,
    default_context,
    draft_sizes,
    embedding_sizes,
    generation_sizes,
)
from infs.engines.memory import MIB, Tally
from infs.store.gguf_header import GgufHeader, GgufTensor, read_gguf

PROCESS = 60 * MIB  # a worker that has imported this engine
VOCABULARY = 400  # bytes that llama.cpp keeps of a token
SERVING = 12 * MIB  # what Python grows by while it serves: threads, requests, messages
SERVING_TOKEN = 64  # bytes of the same for each token of the vocabulary
FLOAT = 4
MASK = 2  # bytes of a value of the mask that says which token sees which cell
# Projectors whose images take fewer positions than cells, for which nothing is kept beside the live cells.
GRIDS = frozenset({"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "glm4v", "paddleocr"})
WHOLE_IMAGES = frozenset({"gemma3", "gemma4uv", "deepseek4v"})  # whose tokens all see each other
CAUSAL_WIDTHS = (1536, 2560)  # of the models of the Gemma 4 family for which that is not so
GRID_PATCHES = 4 * 46 * 46  # for which llama.cpp plans where images are of any size
AUDIO_FRAMES = 3000


def estimate_from_header(path: Path, config: ModelConfig, *, cache: Path | None = None) -> MemoryUse:
    """What the llama-cpp engine would take for the GGUF file `path`, all of it in main memory.

    A GPU cannot be seen from here: with one, most of it is there instead.

    Args:
        path: the file, or the first one of a split model.
        cache: where relative paths of the options start.

    Raises:
        LoadFailed: a file is not there, or no valid GGUF file.
        ConfigError: the options are not this engine's.
    """
    options = convert(config.options, LlamaOptions, "the configuration", "options")
    header, tally = read_gguf(path), Tally()
    layers, vocabulary = Layers(header), vocabulary_size(header)
    projector = _header_of(options.projector, cache, "options.projector")
    tally.add("weights", sum(tensor.bytes for tensor in header.tensors))
    _count_adapters(tally, layers, options, cache)
    if projector is not None:
        tally.add("projector", sum(tensor.bytes for tensor in projector.tensors))
        tally.add("projector", projector_compute(projector, flash=options.flash_attention is not False))
    generates = _generates(header, config)
    context = default_context(config, layers.number("context_length"))
    if generates:
        _count_generation(tally, layers, vocabulary, config, options, context, cache)
    if not generates or config.task is None:
        sizes = embedding_sizes(context, in_pieces=_causal(header))
        _count_context(tally, layers, vocabulary, sizes, options, rows=sizes.n_batch)
    tally.add("process", PROCESS + SERVING + (VOCABULARY + SERVING_TOKEN) * vocabulary)
    tiers = generates and has_tiers(projector)
    if tiers and options.host_cache is not None:
        tally.add("cache", options.host_cache)
    return tally.use(spare=wish(options) if tiers else 0)


# --- what the engine's own estimate counts in the same way


def wish(options: LlamaOptions) -> int:
    """Bytes of main memory that caches could make use of, where the options leave that open."""
    return HOST_CACHE if options.host_cache is None else 0


def has_tiers(projector: GgufHeader | None) -> bool:
    """Whether contexts can be kept beside the live cells."""
    return projector is None or projector_type(projector) not in GRIDS


def adapter_weights(path: Path) -> list[GgufTensor]:
    """The tensors of a LoRA adapter."""
    return read_gguf(path).tensors


def control_bytes(options: LlamaOptions, width: int, layers: int) -> int:
    """What control vectors take: one for each layer, here and in the context."""
    return 2 * FLOAT * width * layers if options.control_vectors else 0


def projector_type(header: GgufHeader) -> str:
    """The kind of a projector; empty for some of the llava family, which do not tell."""
    told = (header.metadata.get(key) for key in ("clip.projector_type", "clip.vision.projector_type"))
    return next((text for text in told if isinstance(text, str)), "")


def reads_whole_images(header: GgufHeader) -> bool:
    """Whether the model must compute all tokens of an image in one piece."""
    kind = projector_type(header)
    if kind == "gemma4v":
        return header.metadata.get("clip.vision.projection_dim") not in CAUSAL_WIDTHS
    return kind in WHOLE_IMAGES


def projector_compute(header: GgufHeader, *, flash: bool) -> int:
    """Bytes of what a projector computes with, for its usual image or piece of audio."""
    return max(_encoder_compute(header, kind, flash=flash) for kind in ("vision", "audio"))


def _encoder_compute(header: GgufHeader, kind: str, *, flash: bool) -> int:
    def number(key: str) -> int:
        value = header.metadata.get(f"clip.{kind}.{key}")
        return int(value) if isinstance(value, int) else 0

    width, hidden, heads = number("embedding_length"), number("feed_forward_length"), number("attention.head_count")
    if kind == "audio":
        tokens = AUDIO_FRAMES if width else 0
    elif projector_type(header) in GRIDS:
        tokens = GRID_PATCHES
    else:
        tokens = (number("image_size") // max(1, number("patch_size"))) ** 2
    scores = 0 if flash else 2 * heads * tokens
    return FLOAT * tokens * (6 * width + 2 * hidden + scores)


def vocabulary_size(header: GgufHeader) -> int:
    """Tokens of the vocabulary, as the header tells."""
    return header.length("tokenizer.ggml.tokens") or int(header.setting("vocab_size") or 0)


# --- by the header only


def _generates(header: GgufHeader, config: ModelConfig) -> bool:
    return _causal(header) and config.task not in ("embedding", "rerank") and header.setting("pooling_type") != 4


def _causal(header: GgufHeader) -> bool:
    encoder = "bert" in header.architecture or header.architecture.startswith("t5")
    return header.setting("attention.causal") is not False and not encoder


def _count_generation(
    tally: Tally,
    layers: Layers,
    vocabulary: int,
    config: ModelConfig,
    options: LlamaOptions,
    context: int,
    cache: Path | None,
) -> None:
    sizes = generation_sizes(
        config, options, context=context, cuttable=layers.cuttable, pinned=_pinned(config, context)
    )
    _count_context(tally, layers, vocabulary, sizes.context, options, rows=sizes.context.n_seq_max)
    draft = options.speculation.draft
    if draft is None or options.speculation.mode == "off":
        return
    small = read_gguf(locate(draft.file, cache, "options.speculation.draft.file"))
    tally.add("draft", sum(tensor.bytes for tensor in small.tensors))
    own = draft_sizes(sizes.cells, config.max_sequences).context
    plain = LlamaOptions(flash_attention=options.flash_attention)
    _count_context(tally, Layers(small), vocabulary_size(small), own, plain, rows=own.n_seq_max)


def _count_context(
    tally: Tally, layers: Layers, vocabulary: int, sizes: ContextSizes, options: LlamaOptions, *, rows: int
) -> None:
    """A context of which `rows` of scores are wanted at once."""
    tally.add("context", layers.cache_bytes(sizes, options.cache_type_k, options.cache_type_v))
    tally.add("output", FLOAT * rows * (vocabulary + layers.width))
    tally.add("compute", compute_bytes(layers, vocabulary, sizes, rows, flash=options.flash_attention is not False))


def compute_bytes(layers: Layers, vocabulary: int, sizes: ContextSizes, rows: int, *, flash: bool) -> int:
    """What a step of full size computes with: the widest layer, or the scores behind the last one.

    The buffers of the one are used again for the other.
    """
    tokens = sizes.n_ubatch
    layer = tokens * (5 * layers.width + 2 * layers.feed_forward)
    if not flash:
        layer += 2 * tokens * layers.heads * sizes.n_ctx
    scores = rows * vocabulary + 2 * tokens * layers.width
    mask = 0 if layers.architecture in ("mamba", "mamba2") else MASK * tokens * sizes.n_ctx
    return FLOAT * max(layer, scores) + mask


def _count_adapters(tally: Tally, layers: Layers, options: LlamaOptions, cache: Path | None) -> None:
    for name, lora in options.lora.items():
        path = locate(lora.file, cache, f"options.lora.{name}.file")
        tally.add("adapters", sum(tensor.bytes for tensor in adapter_weights(path)))
    tally.add("adapters", control_bytes(options, layers.width, layers.count))


def _pinned(config: ModelConfig, context: int) -> int:
    """Tokens of what is preloaded, by the length of its text: four bytes make a token, roughly."""
    preload = config.preload
    if preload is None:
        return 0
    texts: Iterable[str] = [preload.prefix or "", *(message.text for message in preload.messages or [])]
    return min(context - 2, sum(len(text) for text in texts) // 4 + 16)


def _header_of(file: str | None, cache: Path | None, key: str) -> GgufHeader | None:
    return None if file is None else read_gguf(locate(file, cache, key))
