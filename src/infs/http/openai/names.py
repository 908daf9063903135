"""The names of fields: errors speak of the vocabulary's, clients know those of the body they sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from infs.errors import Failure, InfsError

# Pattern of a field's path in the vocabulary, and what it is called in the body.
Names = Mapping[str, str]


@contextmanager
def renamed(names: Names) -> Iterator[None]:
    """Errors raised in here name the fields of the body."""
    try:
        yield
    except InfsError as error:
        failure = _rename(error.to_failure(), names)
        if failure.param == error.param:
            raise
        # Another error: this one may be raised for other requests as well.
        raise InfsError.from_failure(failure) from error


def _rename(failure: Failure, names: Names) -> Failure:
    param = failure.param or ""
    for pattern, name in names.items():
        if found := re.match(rf"{pattern}(?!\w)", param):
            new = found.expand(name) + param[found.end() :]
            message = failure.message
            if message.startswith(f"{param}: "):
                message = new + message.removeprefix(param)
            return msgspec.structs.replace(failure, param=new, message=message)
    return failure
