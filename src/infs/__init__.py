"""Run AI models on your own machine.

`InferenceServer` is where to start; `infs.types` has the requests and results, `infs.errors` what can go wrong.
"""

from __future__ import annotations

from infs.config import Config, DeviceConfig, ModelConfig, ToolConfig, load_config
from infs.demo import demo_model
from infs.errors import InfsError
from infs.runner import Runner
from infs.server import InferenceServer
from infs.toolbox import ServerTool, ToolContext, tool
from infs.types import (
    ChatCompletionRequest,
    ChatCompletionResult,
    ChoiceQuestion,
    DecisionRequest,
    DecisionResult,
    Delta,
    EmbeddingRequest,
    EmbeddingResult,
    Event,
    Message,
    Predicate,
    Progress,
    Request,
    RerankRequest,
    RerankResult,
    Result,
    ScoreQuestion,
    TextCompletionRequest,
    TextCompletionResult,
    Tool,
    ToolCall,
    ToolUse,
    Usage,
)
from infs.version import VERSION as __version__

__all__ = [
    "ChatCompletionRequest",
    "ChatCompletionResult",
    "ChoiceQuestion",
    "Config",
    "DecisionRequest",
    "DecisionResult",
    "Delta",
    "DeviceConfig",
    "EmbeddingRequest",
    "EmbeddingResult",
    "Event",
    "InferenceServer",
    "InfsError",
    "Message",
    "ModelConfig",
    "Predicate",
    "Progress",
    "Request",
    "RerankRequest",
    "RerankResult",
    "Result",
    "Runner",
    "ScoreQuestion",
    "ServerTool",
    "TextCompletionRequest",
    "TextCompletionResult",
    "Tool",
    "ToolCall",
    "ToolConfig",
    "ToolContext",
    "ToolUse",
    "Usage",
    "__version__",
    "demo_model",
    "load_config",
    "tool",
]
