"""What the tests of the llama-cpp engine share: servers with the demo model, short requests, the bare model."""

from __future__ import annotations

import asyncio
import functools
import logging
from pathlib import Path
from typing import Any

import msgspec

from infs.config import DeviceConfig
from infs.demo import MODEL_FILE, demo_model
from infs.engines.llama_cpp.model import LlamaModel
from infs.engines.llama_cpp.native import NativeLog
from infs.engines.llama_cpp.options import LlamaOptions
from infs.server import InferenceServer
from infs.types import (
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    Event,
    Message,
    Request,
    TextCompletionRequest,
    TextCompletionResult,
)


def demo_server(**model: Any) -> InferenceServer:
    """A server whose one model, ``m``, is the demo model with other settings; nothing is cached on disk unless told."""
    model["options"] = {"disk_cache": 0, **model.get("options", {})}
    return InferenceServer({"m": msgspec.structs.replace(demo_model(), **model)})


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def chat(*messages: str | Message, **options: Any) -> ChatCompletionRequest:
    """A conversation; texts are messages of the user."""
    told = [user(message) if isinstance(message, str) else message for message in messages]
    return ChatCompletionRequest(model="m", messages=told, **options)


def text(prompt: str | list[int], **options: Any) -> TextCompletionRequest:
    return TextCompletionRequest(model="m", prompt=prompt, **options)


async def events_of(server: InferenceServer, request: Request[Any]) -> list[Event]:
    return [event async for event in server.stream(request)]


async def deltas_of(server: InferenceServer, request: Request[Any]) -> list[Delta]:
    return [event for event in await events_of(server, request) if isinstance(event, Delta)]


async def run_all(
    server: InferenceServer, requests: list[Any]
) -> list[ChatCompletionResult] | list[TextCompletionResult] | Any:
    """The results of requests that run at the same time."""
    return await asyncio.gather(*(server.run(request) for request in requests))


async def engine_status(server: InferenceServer) -> dict[str, Any]:
    """The counters of the one instance."""
    status = await server.status()
    engine: dict[str, Any] = status.models["m"].instances[0].engine
    return engine


@functools.cache
def native_log() -> NativeLog:
    """llama.cpp has one log for a process."""
    log = NativeLog(logging.getLogger("tests.llama"))
    log.install()
    return log


def load_model(path: Path = MODEL_FILE) -> LlamaModel:
    """The bare model, in this process."""
    return LlamaModel(path, DeviceConfig(gpu=False), LlamaOptions(), native_log())
