"""The log of a command: readable lines or JSON lines on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from infs.config import LogConfig
from infs.errors import InfsError

COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
# Ours at the level that was asked for. The others only speak up: what they say of each step, we say already.
OTHERS = logging.WARNING
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def logging_to_stderr(config: LogConfig, *, quiet_failures: bool = False) -> Iterator[None]:
    """Log as `config` says while this is entered. An exception that leaves is logged with its traceback at ``debug``.

    Args:
        quiet_failures: leave out lines that only say an `InfsError`: the command will say it as its own end.
    """
    level = getattr(logging, config.level.upper())
    root, ours = logging.getLogger(), logging.getLogger("infs")
    handler = StderrHandler()
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines(colour=_is_terminal(sys.stderr)))
    if quiet_failures and level > logging.DEBUG:
        handler.addFilter(_says_more_than_a_failure)
    before = root.level, ours.level
    root.setLevel(OTHERS)
    ours.setLevel(level)
    root.addHandler(handler)
    try:
        yield
    except Exception:
        ours.debug("The command ended with an error.", exc_info=True)
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _says_more_than_a_failure(record: logging.LogRecord) -> bool:
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    return not any(isinstance(arg, InfsError) for arg in args)


class StderrHandler(logging.Handler):
    """Writes to what is standard error at that moment; a reader that is gone is no reason to stop."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return


class TextLines(logging.Formatter):
    """``2026-01-31 12:00:00 INFO    message``, the level in colour on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record; the traceback of an exception follows on its own lines."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname:<7}"
        if self._colour:
            level = f"\x1b[{COLOURS.get(record.levelname, '0')}m{level}\x1b[0m"
        text = f"{when} {level} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonLines(logging.Formatter):
    """One object a line: ``ts`` (UTC), ``level``, ``logger``, ``message``, ``exception`` if any, and what is extra."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "ts": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return json.dumps(fields | {name: value for name, value in extra.items() if name not in fields}, default=str)
