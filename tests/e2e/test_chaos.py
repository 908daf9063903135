"""Workers killed at random under load, for two minutes: nobody loses anything."""

from __future__ import annotations

import sys

import pytest
from benchmarks.chaos import chaos


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 of a process is POSIX")
def test_every_request_has_its_whole_text_though_a_worker_dies_every_second() -> None:
    outcome = chaos(120.0)
    assert outcome.kills > 60
    assert outcome.replays > 20
    assert outcome.requests > 100
    assert (outcome.errors, outcome.wrong) == ([], [])
