"""What `options` of a model may hold for this engine. Imports nothing of the engine: the API process checks it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
HOST_CACHE = 1 << 30  # bytes that are worth having, where nobody says how many
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class LoraOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter: a GGUF file, and the scale that requests get that choose none."""

    file: str
    scale: Annotated[float, Meta(ge=-100.0, le=100.0)] = 1.0


class ControlVector(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control vector: a GGUF file, applied with `scale` to the layers `first` to `last` (counted from 1)."""

    file: str
    scale: Annotated[float, Meta(ge=-100.0, le=100.0)] = 1.0
    first: Positive | None = None
    last: Positive | None = None


class RopeOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How positions are encoded, where that is not as the model says; the names are llama.cpp's."""

    scaling: Literal["none", "linear", "yarn", "longrope"] | None = None
    freq_base: Annotated[float, Meta(gt=0.0)] | None = None
    freq_scale: Annotated[float, Meta(gt=0.0)] | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: Positive | None = None


class DraftOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A small model of the same vocabulary whose guesses the model checks."""

    file: str
    gpu_layers: Annotated[int, Meta(ge=0)] | None = None


class SpeculationOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guessing tokens and checking several at once.

    Attributes:
        mode: ``auto`` guesses where it pays, as measured while running; ``always`` guesses whenever there is a
            guess; ``off`` never.
        most: tokens that are guessed at once, at most.
        match: tokens that must have occurred before, for what followed them to be a guess.
        draft: a draft model, for places where nothing occurred before.
    """

    mode: Literal["auto", "always", "off"] = "auto"
    most: Annotated[int, Meta(ge=1, le=64)] = 16
    match: Annotated[int, Meta(ge=1, le=16)] = 3
    draft: DraftOptions | None = None


class LlamaOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the llama-cpp engine.

    Attributes:
        cache_tokens: cells of the context cache that all sequences of an instance share; by default enough for
            `max_sequences` of 2048 tokens each and for two of the longest. At least `context_size`.
        batch_tokens: tokens that one step computes at most; by default what `target_latency` leaves time for, as
            measured at load.
        target_latency: seconds between two tokens of a stream that reading the prompts of others may take.
        host_cache: bytes of host memory for the context of conversations whose cells were needed by others; by
            default as many as the server's memory leaves, up to 1 GiB.
        disk_cache: bytes on disk for the context of conversations, which outlives the instance and the server; 0
            keeps none.
        pooling: how the vectors of a text's tokens become one: the mean, that of the first (cls) or of the last
            token, or a reranker's score. By default what the model says, else the mean.
        flash_attention: use it, or not; by default where the device supports it.
        cache_type_k, cache_type_v: how keys and values are stored; a quantised `cache_type_v` needs flash attention.
        rope: how positions are encoded.
        lora: adapters, by the names that requests choose them by.
        control_vectors: added to the states of all requests.
        projector: the file (mmproj) that turns images and audio into what the model understands.
        speculation: guessing tokens.
        split_mode: what is spread over several GPUs: layers, rows of tensors, or nothing.
        main_gpu: the GPU that has everything; stands for `split_mode` none.
        tensor_split: shares of the GPUs.
        mmap: map the file into memory instead of reading it.
        check_tensors: look for invalid values in the weights while loading.
    """

    cache_tokens: Positive | None = None
    batch_tokens: Annotated[int, Meta(ge=8, le=8192)] | None = None
    target_latency: Annotated[float, Meta(gt=0.0)] = 0.25
    host_cache: Annotated[int, Meta(ge=0)] | None = None
    disk_cache: Annotated[int, Meta(ge=0)] = 4 << 30
    pooling: Literal["mean", "cls", "last", "rank"] | None = None
    flash_attention: bool | None = None
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    rope: RopeOptions = RopeOptions()
    lora: dict[str, LoraOptions] = {}
    control_vectors: list[ControlVector] = []
    projector: str | None = None
    speculation: SpeculationOptions = SpeculationOptions()
    split_mode: Literal["none", "layer", "row"] | None = None
    main_gpu: Annotated[int, Meta(ge=0)] | None = None
    tensor_split: list[Annotated[float, Meta(ge=0.0)]] | None = None
    mmap: bool = True
    check_tensors: bool = False


def host_cache(options: LlamaOptions, spare: int | None) -> int:
    """Bytes of host memory for contexts, where `spare` may be had for caches; ``None`` is any number."""
    if options.host_cache is not None:
        return options.host_cache
    return HOST_CACHE if spare is None else min(HOST_CACHE, spare)
