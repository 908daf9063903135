"""From the bytes of tokens to text that may be shown: whole characters, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StopMatcher:
    """Finds the first of some strings in a text that comes in pieces.

    Text is held back only while it may turn out to be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What of the text so far can be shown now."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and is no stop string after all: nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with, without being all of it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - size :]):
            return size
    return 0


class TextStream:
    """Bytes in, text out: a character comes when all of its bytes are there; invalid bytes become U+FFFD."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing comes after it."""
        return self._matcher.found

    def feed(self, data: bytes) -> str:
        """The text that `data` makes ready."""
        return self._matcher.feed(self._decoder.decode(data))

    def flush(self) -> str:
        """The rest: nothing follows."""
        return self._matcher.feed(self._decoder.decode(b"", final=True)) + self._matcher.flush()
