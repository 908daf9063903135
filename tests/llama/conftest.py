"""Models that many tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infs.llama import Llama
from tests.llama.models import demo


@pytest.fixture(scope="session")
def llm() -> Iterator[Llama]:
    """The demo model, with its loop on a thread of its own."""
    with demo() as llm:
        yield llm


@pytest.fixture
def manual() -> Iterator[Llama]:
    """The demo model, whose loop the test has to run."""
    with demo(run="manual") as llm:
        yield llm
