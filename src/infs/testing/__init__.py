"""Fakes and fixtures: for infs's own tests, and for those of programs that use it.

`demo_server` gives a real server with the model that ships with the package; `FakeEngine` is an engine without a
model, quick and predictable; `FakeDecoder` and `FakeOutput` stand in for a model below the batching.
"""

from infs.testing.decoder import FakeDecoder, FakeOutput, next_token
from infs.testing.engine import FakeEngine, demo_server

__all__ = ["FakeDecoder", "FakeEngine", "FakeOutput", "demo_server", "next_token"]
