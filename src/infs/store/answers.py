"""What a web server's answer says about the bytes in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-\d+|\*)/(?P<total>\d+|\*)")


def is_encoded(response: httpx.Response) -> bool:
    """Whether the bytes must be unpacked: then neither ranges nor lengths mean those of the file."""
    return response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")


def extent(response: httpx.Response) -> tuple[int, int | None]:
    """The first byte of the answer and the size of the whole file; -1 when the answer does not say where it begins."""
    if response.status_code == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or found["first"] is None:
            return -1, None
        return int(found["first"]), int(found["total"]) if found["total"] != "*" else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and not is_encoded(response) else None


def ends_at(response: httpx.Response) -> int | None:
    """The size of the file, from an answer that says that nothing was asked for that is in it."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found["total"]) if found is not None and found["total"] != "*" else None


def has_ranges(response: httpx.Response) -> bool:
    """Whether the server says, or just showed, that it sends parts of this file."""
    return response.status_code == 206 or response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
