"""Loading a draft model, and checking that its guesses mean something to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import msgspec

from infs.config import DeviceConfig
from infs.engines.llama_cpp.decoder import LlamaDecoder
from infs.engines.llama_cpp.draft import DraftModel
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.engines.llama_cpp.sizing import draft_sizes
from infs.errors import LoadFailed

PADDING = 128  # tokens by which vocabularies differ only because their sizes were rounded up
PARAM = "options.speculation.draft.file"


def load_draft(
    path: Path,
    device: DeviceConfig,
    options: LlamaOptions,
    log: NativeLog,
    target: LlamaModel,
    *,
    cells: int,
    sequences: int,
    progress: Callable[[float], None] = lambda share: None,
) -> DraftModel:
    """The draft model in `path` for `target`, on the same devices; `options` are those of the target.

    Args:
        cells: tokens that its cache holds for all sequences together.
        sequences: sequences that it guesses for at the same time.

    Raises:
        LoadFailed: it cannot be loaded, or cannot guess for this model.
    """
    device, own = draft_device(device, options), own_options(options)
    model = LlamaModel(path, device, own, log, progress)
    try:
        vocabulary = check_draft(model, target)
        sizes = draft_sizes(cells, sequences)
        decoder = LlamaDecoder(model, device, own, log, cells=sizes.cells, sequences=sizes.sequences, batch=sizes.batch)
    except BaseException:
        model.close()
        raise
    return DraftModel(
        decoder,
        vocabulary=vocabulary,
        known=model.size,
        ends=frozenset(model.end_tokens),
        catch_up=sizes.batch,
        close=model.close,
    )


def draft_device(device: DeviceConfig, options: LlamaOptions) -> DeviceConfig:
    """Where the draft model runs: where its target does, but for what its own options say."""
    draft = options.speculation.draft
    if draft is None or draft.gpu_layers is None:
        return device
    return msgspec.structs.replace(device, gpu_layers=draft.gpu_layers)


def own_options(options: LlamaOptions) -> LlamaOptions:
    """Of the target's options those that say something of the machine, and nothing of the target."""
    return LlamaOptions(
        flash_attention=options.flash_attention,
        split_mode=options.split_mode,
        main_gpu=options.main_gpu,
        tensor_split=options.tensor_split,
        mmap=options.mmap,
        check_tensors=options.check_tensors,
    )


def check_draft(draft: LlamaModel, target: LlamaModel) -> int:
    """The number of tokens that both have, the same under the same number.

    Control tokens may have other names: a guess of one that means something else is only wrong.

    Raises:
        LoadFailed: guesses of `draft` would mean nothing to `target`, or it cannot make any.
    """
    if not draft.generates:
        raise _refused(draft, f"a {draft.architecture} model makes no text.")
    if not draft.cuttable:
        raise _refused(draft, f"a {draft.architecture} model's state cannot be cut where a guess was wrong.")
    if llama_cpp.llama_vocab_type(draft.vocab) != llama_cpp.llama_vocab_type(target.vocab):
        raise _refused(draft, "its vocabulary is of another kind than the model's.")
    if abs(draft.size - target.size) > PADDING:
        raise _refused(draft, f"its vocabulary has {draft.size} tokens, and the model's has {target.size}.")
    shared = min(draft.size, target.size)
    for token in range(shared):
        ours, theirs = (llama_cpp.llama_vocab_get_text(model.vocab, token) for model in (draft, target))
        if ours != theirs and not (_is_control(draft, token) and _is_control(target, token)):
            raise _refused(draft, f"token {token} is {_shown(ours)}, and the model's is {_shown(theirs)}.")
    return shared


def _is_control(model: LlamaModel, token: int) -> bool:
    attributes = llama_cpp.llama_vocab_get_attr(model.vocab, token)
    return bool(attributes & (llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNUSED))


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))


def _refused(draft: LlamaModel, why: str) -> LoadFailed:
    return LoadFailed(
        f"{draft.path} cannot be the draft model: {why} A draft model needs the vocabulary of the model; a smaller "
        "one of the same family usually has it.",
        param=PARAM,
    )
