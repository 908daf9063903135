"""Cuts texts that would overflow the stack of llama.cpp's tokenizer.

Many vocabularies are split into words by a regular expression, whose matching (by the C++ library) recurses for
every character of a match: forty thousand letters without a space end the process. A run that long is no text that
anybody trained for, so a word boundary in it changes nothing that matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

LONGEST_RUN = 2048  # characters; a thread of 1 MiB has stack for about 2600

_RUN = re.compile(rf"\S{{{LONGEST_RUN + 1},}}|\s{{{LONGEST_RUN + 1},}}")


def cut_runs(text: str, whole: Sequence[str] = ()) -> list[str]:
    """`text` in pieces without runs of more than `LONGEST_RUN` characters, all blank or all not.

    Args:
        whole: texts that are never cut in two: those of special tokens. They are short.
    """
    pieces, start = [], 0
    for run in _RUN.finditer(text):
        for place in _places(text, run.start(), run.end(), whole):
            pieces.append(text[start:place])
            start = place
    return [*pieces, text[start:]]


def _places(text: str, start: int, end: int, whole: Sequence[str]) -> Iterator[int]:
    while end - start > LONGEST_RUN:
        start = _before(text, start, start + LONGEST_RUN, whole)
        yield start


def _before(text: str, start: int, place: int, whole: Sequence[str]) -> int:
    """`place`, or the beginning of the text out of `whole` that it would cut, if that is behind `start`."""
    for special in whole:
        found = text.find(special, max(start + 1, place - len(special) + 1), place + len(special) - 1)
        if start < found < place:
            return found
    return place
