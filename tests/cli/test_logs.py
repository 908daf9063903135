"""The log of a command."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable

import pytest

from infs.cli.logs import StderrHandler, TextLines, logging_to_stderr
from infs.config import LogConfig
from infs.errors import LoadFailed

log = logging.getLogger("infs.tests")
Read = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Read:
    """Reads the new lines on standard error."""
    return lambda: capsys.readouterr().err.splitlines()


def test_text_lines_have_time_level_and_message(lines: Read) -> None:
    with logging_to_stderr(LogConfig()):
        log.info("one %s", "two")
        log.debug("not this")
        logging.getLogger("uvicorn.error").info("nor this")
        logging.getLogger("somebody").warning("but this")
    first, second = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    one two", first)
    assert second.endswith("WARNING but this")


def test_json_lines_have_everything(lines: Read) -> None:
    with logging_to_stderr(LogConfig(level="debug", format="json")):
        log.warning("a\nb ü", extra={"model": "demo", "where": io, "ts": "mine"})
    (line,) = lines()
    record = json.loads(line)
    assert list(record) == ["ts", "level", "logger", "message", "model", "where"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["ts"])
    assert (record["level"], record["logger"], record["message"]) == ("warning", "infs.tests", "a\nb ü")
    assert record["where"].startswith("<module 'io'")


@pytest.mark.parametrize("style", ["text", "json"])
def test_exceptions_come_with_their_traceback(lines: Read, style: str) -> None:
    with logging_to_stderr(LogConfig(format="json" if style == "json" else "text")):
        try:
            raise ValueError("wrong")
        except ValueError:
            log.exception("Oh")
    shown = lines()
    text = json.loads(shown[0])["exception"] if style == "json" else "\n".join(shown)
    assert text.startswith("Traceback" if style == "json" else "2")
    assert text.endswith("ValueError: wrong")


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False)])
def test_error_that_ends_the_command_is_logged_for_debugging_only(lines: Read, level: str, shown: bool) -> None:
    config = LogConfig(level="debug" if level == "debug" else "info")
    with pytest.raises(LoadFailed), logging_to_stderr(config):
        raise LoadFailed("broken")
    assert any("Traceback" in line for line in lines()) == shown


def test_failures_may_be_left_to_the_command(lines: Read) -> None:
    with logging_to_stderr(LogConfig(), quiet_failures=True):
        log.error("%s", LoadFailed("said elsewhere"))
        log.error("said %s", "here")
        log.info("no arguments")
        log.info("%(name)s", {"name": "by name"})
    assert [line.partition(" INFO    ")[2] or line.partition(" ERROR   ")[2] for line in lines()] == [
        "said here",
        "no arguments",
        "by name",
    ]


def test_logging_is_as_before_afterwards(lines: Read) -> None:
    root, ours = logging.getLogger(), logging.getLogger("infs")
    before = root.handlers[:], root.level, ours.level
    with logging_to_stderr(LogConfig(level="debug")):
        assert ours.level == logging.DEBUG
    assert (root.handlers, root.level, ours.level) == before


def test_colour_is_for_terminals() -> None:
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": "x"})
    assert "\x1b[31mERROR  \x1b[0m x" in TextLines(colour=True).format(record)
    assert "\x1b" not in TextLines(colour=False).format(record)


def test_closed_stream_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    StderrHandler().emit(logging.makeLogRecord({"msg": "x"}))
