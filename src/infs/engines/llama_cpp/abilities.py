"""What a model can do, and what of it the configuration asks for."""

from __future__ import annotations

from infs.config import ModelConfig
from infs.engines.llama_cpp.embedder import pooling_of
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import LoadFailed


def tasks_of(model: LlamaModel, config: ModelConfig, options: LlamaOptions) -> list[str]:
    """The tasks that `model` is loaded for.

    Raises:
        LoadFailed: the configuration names one that it cannot do.
    """
    wanted = config.task
    ranks = model.ranks and pooling_of(model, options) == "rank"
    if wanted == "rerank" and not ranks:
        raise LoadFailed("task is rerank, but the model is no reranker, or options.pooling is another.", param="task")
    if wanted in ("embedding", "rerank"):
        return [wanted]
    if ranks and wanted is None:
        return ["embedding", "rerank"]
    if not model.generates:
        if wanted is not None:
            raise LoadFailed(f"A {model.architecture} model makes embeddings only; its task cannot be {wanted}.")
        return ["embedding"]
    # A generating model can complete texts and chats alike, and its states can serve as embeddings.
    return ["text-completion", "chat-completion", "decision", *(["embedding"] if wanted is None else [])]
