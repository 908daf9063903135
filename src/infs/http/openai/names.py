"""The names of fields: errors speak of the vocabulary's, clients know those of the body they sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from infs.errors import InfsError

# Pattern of a field's path in the vocabulary, and what it is called in the body.
Names = Mapping[str, str]


@contextmanager
def renamed(names: Names) -> Iterator[None]:
    """Errors raised in here name the fields of the body."""
    try:
        yield
    except InfsError as error:
        if error.param is not None:
            _rename(error, error.param, names)
        raise


def _rename(error: InfsError, param: str, names: Names) -> None:
    for pattern, name in names.items():
        found = re.match(rf"{pattern}(?![\w])", param)
        if found:
            error.param = found.expand(name) + param[found.end() :]
            if error.message.startswith(f"{param}: "):
                error.message = error.param + error.message.removeprefix(param)
            return
