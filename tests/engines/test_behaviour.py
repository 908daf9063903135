"""The behaviour kit over the fake engine in process and the real ones in their worker."""

from __future__ import annotations

from typing import Any

import msgspec

from infs.demo import demo_model
from infs.server import InferenceServer
from infs.testing import FakeEngine
from tests.engines.kit import BehaviourKit


class TestFakeEngine(BehaviourKit):
    endless: dict[str, Any] = {}  # noqa: RUF012
    long_prompt = "tell me a long story of many words, please " * 3000
    long_start = long_prompt

    def make_server(self, **model: Any) -> InferenceServer:
        return InferenceServer({"m": {"engine": "fake", "max_sequences": 3, **model}}, {"fake": FakeEngine})


class TestLlamaCpp(BehaviourKit):
    endless: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}  # noqa: RUF012

    def make_server(self, **model: Any) -> InferenceServer:
        return InferenceServer({"m": msgspec.structs.replace(demo_model(), max_sequences=3, **model)})
