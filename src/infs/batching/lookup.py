"""Guessing by repetition: what followed where a sequence's last tokens occurred before."""

from __future__ import annotations

from typing import NamedTuple

CANDIDATES = 16  # occurrences that are compared: looking at one takes about as long as finding that there is none
LONGEST = 32  # tokens that are compared: two places that agree in so many are as good as the same


class Match(NamedTuple):
    """An earlier occurrence of the last `length` tokens, which ends before place `end`; capped at `LONGEST`.

    A length of 0 stands for a place that is only supposed to go on in the same way, see `PromptLookup.realigned`.
    """

    end: int
    length: int


class PromptLookup:
    """An index of the places of every `match` tokens in a row of one sequence.

    It is built when it is first asked, in one pass, and goes on with tokens that were appended since. A list that is
    another object than the one before, or shorter, is indexed anew; apart from appending, a list must not be changed.

    Args:
        match: tokens that must agree, at least.
    """

    def __init__(self, match: int, *, candidates: int = CANDIDATES, longest: int = LONGEST) -> None:
        self._match = match
        self._candidates = candidates
        self._longest = max(match, longest)
        self._start([])

    def _start(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._last: dict[int, int] = {}  # by the hash of `match` tokens: where they ended last
        self._before: list[int] = []  # for each end from `match` on: where the same tokens ended before that, or 0
        self._followed: Match | None = None
        self._asked = 0  # tokens there were when `_followed` was found
        self._trail: tuple[int, int] | None = None  # tokens there were when it was lost, and its end then

    def find(self, tokens: list[int]) -> Match | None:
        """The occurrence that agrees with the most tokens; of several the latest, or the one that is being followed.

        Only the latest `candidates` occurrences are compared, and the one that the tokens since the call before have
        followed.
        """
        if tokens is not self._tokens or len(tokens) < len(self._before) + self._match - 1:
            self._start(tokens)
        if len(tokens) <= self._match:
            return None
        self._index(tokens)
        latest = self._last.get(hash(tuple(tokens[-self._match :])))
        found = None if latest is None else self._longest_match(tokens, latest)
        if found is not None:
            self._trail = None
        elif self._followed is not None:
            self._trail = len(tokens), self._followed.end + len(tokens) - self._asked
        self._followed, self._asked = found, len(tokens)
        return found

    def realigned(self, tokens: list[int]) -> Match | None:
        """Where `find` has just found nothing any more: the place that it followed, as if a token of it was replaced.

        That is how edited copies go on. Soon after, `find` finds it again if so.
        """
        if self._trail is None:
            return None
        lost, end = self._trail
        end += len(tokens) - lost
        return Match(end, 0) if len(tokens) - lost < self._match and end < len(tokens) else None

    def _index(self, tokens: list[int]) -> None:
        """Take in every end before that of all tokens: something must follow."""
        start, size, last, before = len(self._before), self._match, self._last, self._before
        window = tokens[start:-1]
        for end, key in enumerate(map(hash, zip(*(window[k:] for k in range(size)), strict=False)), start + size):
            before.append(last.get(key, 0))
            last[key] = end

    def _longest_match(self, tokens: list[int], latest: int) -> Match | None:
        tail = tokens[-self._longest :]
        best = self._follow(tokens, tail)
        end, left = latest, self._candidates
        while end and left and (best is None or best.length < self._longest):
            length = _agreement(tokens, end, tail, self._match if best is None else best.length + 1)
            if length:
                best = Match(end, length)
            end, left = self._before[end - self._match], left - 1
        return best

    def _follow(self, tokens: list[int], tail: list[int]) -> Match | None:
        """The match before, as many tokens later. Only a full one counts: others may be older than an equal one."""
        if self._followed is None:
            return None
        end = self._followed.end + len(tokens) - self._asked
        length = _agreement(tokens, end, tail, self._longest) if end < len(tokens) else 0
        return Match(end, length) if length else None


def _agreement(tokens: list[int], end: int, tail: list[int], least: int) -> int:
    """How many tokens before `end` are those at the end of `tail`; 0 if less than `least`, which says quickly so."""
    if least > min(end, len(tail)) or tokens[end - least : end] != tail[-least:]:
        return 0
    most = min(end, len(tail))
    while least < most and tokens[end - least - 1] == tail[-least - 1]:
        least += 1
    return least


def continuation(tokens: list[int], end: int, most: int) -> list[int]:
    """The `most` tokens from place `end` on; where they reach the end of `tokens`, the repetition goes on."""
    guess = tokens[end : end + most]
    while len(guess) < most:
        guess += guess[: most - len(guess)]
    return guess
