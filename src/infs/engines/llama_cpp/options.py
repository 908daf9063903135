"""What `options` of a model may hold for this engine. Imports nothing of the engine: the API process checks it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]


class LlamaOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the llama-cpp engine.

    Attributes:
        cache_tokens: cells of the context cache that all sequences of an instance share; by default enough for
            `max_sequences` of 2048 tokens each and for two of the longest. At least `context_size`.
        batch_tokens: tokens that one step computes at most; smaller steps give streams a steadier pace, larger
            ones read long prompts faster.
        pooling: how the vectors of a text's tokens become one: the mean, that of the first (cls) or of the last
            token, or a reranker's score. By default what the model says, else the mean.
        flash_attention: use it, or not; by default where the device supports it.
        mmap: map the file into memory instead of reading it.
        check_tensors: look for invalid values in the weights while loading.
    """

    cache_tokens: Positive | None = None
    batch_tokens: Annotated[int, Meta(ge=8, le=8192)] = 256
    pooling: Literal["mean", "cls", "last", "rank"] | None = None
    flash_attention: bool | None = None
    mmap: bool = True
    check_tensors: bool = False
