"""A server behind iterators: progress, streams, cancellation, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from msgspec import structs

from infs.cli.session import Session
from infs.config import ModelConfig
from infs.demo import demo_model
from infs.errors import ModelNotFound, SourceError
from infs.server import InferenceServer
from infs.types import ChatCompletionRequest, ChatCompletionResult, Delta, Message, Progress


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A session with the demo model, which answers one at a time, and one that has no file."""
    models = {"demo": structs.replace(demo_model(), max_sequences=1), "none": ModelConfig(file="/not/there.gguf")}
    with Session(InferenceServer(models)) as session:
        yield session


def ask(text: str, **options: object) -> ChatCompletionRequest:
    """A request to the demo model."""
    return ChatCompletionRequest(model="demo", messages=[Message(role="user", content=text)], **options)  # type: ignore[arg-type]


def test_stream_ends_with_the_result(session: Session) -> None:
    *_, result = session.stream(ask("What is the capital of France?"))
    assert isinstance(result, ChatCompletionResult)
    assert result.text == "The capital of France is Paris."


def test_load_gives_progress_and_nothing_else(session: Session) -> None:
    assert all(isinstance(event, Progress) for event in session.load("demo"))


def test_errors_come_out_of_the_iterator(session: Session) -> None:
    with pytest.raises(ModelNotFound):
        list(session.load("nobody"))
    with pytest.raises(SourceError):
        list(session.load("none"))
    with pytest.raises(ModelNotFound):
        list(session.stream(ChatCompletionRequest(model="nobody", messages=[Message(role="user", content="x")])))


def test_closing_an_iterator_cancels_the_request(session: Session) -> None:
    endless = ask("Tell me a story.", ignore_eos=True, context_overflow="shift", max_tokens=10**8)
    with closing(session.stream(endless)) as events:
        assert any(isinstance(event, Delta) for event in events)
    assert list(session.stream(ask("Hello!"))), "its place is free again"


def test_failed_start_leaves_nothing_behind() -> None:
    before = threading.active_count()
    server = InferenceServer({"a": {"file": "/not/there.gguf", "prepare": "blocking"}})
    with pytest.raises(SourceError), Session(server):
        pass
    assert threading.active_count() == before
