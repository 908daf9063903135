"""How large the contexts of a model are, as the configuration says. Imports no engine library."""

from __future__ import annotations

import msgspec

from infs.config import ModelConfig
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import LoadFailed

MOST_CELLS = 2**31 - 1
MIN_CONTEXT = 4  # a prompt and an answer
MAX_CONTEXT = 8192  # by default: a model trained for a million tokens should not take all memory for them
USUAL_LENGTH = 2048  # tokens of a sequence, for the size of the cache
SPARE_SEQUENCES = 56  # conversations that may stay in the cache beside those that run
SPARE_STATES = 8  # the same where each takes a whole state
MAX_SEQUENCES = 255  # of llama.cpp, less the one through which cells come and go
LARGEST_STEP = 512  # tokens, where the size of steps is measured
UBATCH = 512  # tokens that are computed in one piece
UBATCH_OF_IMAGES = 2048  # the same where that must be a whole image
CATCH_UP = 256  # tokens that a draft model reads at once, at least
MAX_TEXTS = 64  # whose embeddings are computed in one batch
EMBEDDED_AT_ONCE = (
    256  # tokens, where that may be less than a text: each takes a row of scores as long as the vocabulary
)


class ContextSizes(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a llama.cpp context, by the names of its parameters."""

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int


class DecoderSizes(msgspec.Struct, frozen=True, kw_only=True):
    """What a context for generation is for.

    Attributes:
        cells: tokens that the cache holds for all sequences together; as many as there are sequences, at least.
        sequences: number of sequence ids.
        batch: tokens of the largest step.
        padding: cells on top, for tokens that belong to nobody.
        whole_images: an image must be computed in one piece.
    """

    cells: int
    sequences: int
    batch: int
    padding: int = 0
    whole_images: bool = False

    @property
    def context(self) -> ContextSizes:
        """The context's numbers; one sequence id more is that through which cells come and go."""
        batch = max(self.batch, self.sequences + 1)  # llama.cpp plans for one token of each sequence at least
        piece = min(UBATCH, batch)
        if self.whole_images:
            batch = piece = max(batch, UBATCH_OF_IMAGES)
        return ContextSizes(
            n_ctx=max(self.cells, self.sequences + 1) + self.padding,
            n_batch=batch,
            n_ubatch=piece,
            n_seq_max=self.sequences + 1,
        )


def default_context(config: ModelConfig, trained: int) -> int:
    """Tokens of the longest sequence of a model that was trained for `trained`; 0 for one that does not tell."""
    return config.context_size or min(trained or MAX_CONTEXT, MAX_CONTEXT)


def check_context(context: int) -> None:
    """Raise `LoadFailed` for a size of the longest sequence that no context can have."""
    if not MIN_CONTEXT <= context <= MOST_CELLS:
        raise LoadFailed(
            f"context_size is {context}; it can be {MIN_CONTEXT} (a prompt and an answer) to {MOST_CELLS}.",
            param="context_size",
        )


def generation_sizes(
    config: ModelConfig, options: LlamaOptions, *, context: int, cuttable: bool, pinned: int = 0
) -> DecoderSizes:
    """The context for generation.

    Args:
        context: tokens of the longest sequence.
        cuttable: the cache can be cut at any token.
        pinned: tokens that are kept for good.

    Raises:
        LoadFailed: `cache_tokens` are too few for one sequence, or there would be too many.
    """
    spare = SPARE_SEQUENCES if cuttable else SPARE_STATES
    sequences = min(MAX_SEQUENCES, config.max_sequences + spare + bool(pinned))
    return DecoderSizes(
        cells=max(_cells(config, options, context, pinned), sequences + 1),
        sequences=sequences,
        batch=max(options.batch_tokens or LARGEST_STEP, config.max_sequences),
    )


def draft_sizes(cells: int, sequences: int) -> DecoderSizes:
    """The context of a draft model, for a model with as many `cells` that runs as many `sequences` at once."""
    return DecoderSizes(cells=max(cells, sequences), sequences=sequences, batch=max(CATCH_UP, 2 * sequences))


def embedding_sizes(context: int, *, in_pieces: bool) -> ContextSizes:
    """The context for embeddings of texts of up to `context` tokens; see `Embedder`.

    llama.cpp plans for batches of equally long texts, so the size must be a multiple of their number.
    """
    texts = min(MAX_TEXTS, context)
    room = -(-context // texts) * texts
    piece = min(EMBEDDED_AT_ONCE // texts * texts, room) if in_pieces else room
    return ContextSizes(n_ctx=room, n_batch=piece, n_ubatch=piece, n_seq_max=texts)


def _cells(config: ModelConfig, options: LlamaOptions, context: int, pinned: int) -> int:
    """Cells of the cache; what is pinned comes on top, so that one whole context always fits."""
    usual = max(2 * context, config.max_sequences * min(context, USUAL_LENGTH))
    cells = options.cache_tokens or usual
    if cells < context:
        raise LoadFailed(f"options.cache_tokens is {cells}, and must hold at least one context of {context} tokens.")
    if cells + pinned > MOST_CELLS:
        raise LoadFailed(
            f"The context cache would have {cells + pinned} cells, and can have {MOST_CELLS}. Lower context_size, "
            "max_sequences or options.cache_tokens."
        )
    return cells + pinned
