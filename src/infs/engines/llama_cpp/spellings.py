"""Which tokens an answer may begin with for each of its options, and how probable that makes the options.

An answer counts for an option when it begins with it, and does not go on to a longer option: "New York is it" counts
for "New York", and not for "New". A model writes the same answer in several ways (with a blank before it, with a
capital); all of them count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from infs.errors import GenerationFailed, InvalidRequest

Path = tuple[int, ...]
"""Tokens behind a prompt."""

Scores = Mapping[Path, float]
"""The natural-log probability of the last token of a path, given the prompt and the tokens before it."""

NOTHING = 1e-3  # what begins with less than this share of what all begin with is not followed to its end
UNCLEAR = 1e-2  # the share of first tokens in common from which on first tokens do not tell the options apart

LINE = "\n"


class Spellings:
    """The ways to write the options of one question.

    Args:
        answers: the texts of the options.
        tokenize: the tokens of a text.
        exact: options are to be read to their end, even if their first tokens tell them apart.

    Raises:
        InvalidRequest: an option has no tokens, or two have the same.
    """

    def __init__(self, answers: Sequence[str], tokenize: Callable[[str], list[int]], *, exact: bool) -> None:
        line = tokenize(LINE)

        def tokens(text: str) -> list[Path]:
            """As on a line of its own, alone (where some vocabularies put a blank before it), behind a blank."""
            behind = tokenize(LINE + text)
            inside = behind[len(line) :] if behind[: len(line)] == line else []
            return [tuple(found) for found in (inside, tokenize(text), tokenize(f" {text}")) if found]

        self.count = len(answers)
        self._exact = exact
        ways = [list(chain.from_iterable(map(tokens, _cases(answer)))) for answer in answers]
        own = [found[0] if found else () for found in ways]
        _check(answers, own)
        self._own = {path: option for option, path in enumerate(own)}
        self.all = _unshared([(path, option) for option, found in enumerate(ways) for path in found], self._own)

    @property
    def first_tokens(self) -> list[int]:
        """The first tokens of all ways."""
        return sorted({path[0] for path in self.all})

    def by_first_token(self, scores: Scores) -> list[float] | None:
        """The log-probability of each option by the first token of the answer; ``None`` if that tells too little.

        Args:
            scores: of `first_tokens`.
        """
        own_firsts = {path[0] for path in self._own}
        if (self._exact and any(len(path) > 1 for path in self.all)) or len(own_firsts) < self.count:
            return None
        firsts = [((path[0],), option) for path, option in self.all.items()]
        owners = _unshared(firsts, {(path[0],): option for path, option in self._own.items()})
        shared = [scores[first] for first in {first for first, _ in firsts if first not in owners}]
        owned = [[scores[first] for first, owner in owners.items() if owner == option] for option in range(self.count)]
        if log_sum(shared) > math.log(UNCLEAR) + log_sum(chain.from_iterable(owned)):
            return None
        return [log_sum(parts) for parts in owned]

    def likely(self, scores: Scores) -> dict[Path, int]:
        """The ways that count, with their options: those that the options are given in, and those that are likely.

        Args:
            scores: of `first_tokens`.
        """
        least = log_sum(scores[(token,)] for token in self.first_tokens) + math.log(NOTHING)
        return {path: option for path, option in self.all.items() if path in self._own or scores[path[:1]] >= least}


def _cases(text: str) -> list[str]:
    """`text`, and the same with its first letter the other way round (a letter alone is a label, and stays)."""
    first, rest = text[:1], text[1:]
    other = first.lower() if first.isupper() else first.upper()
    return [text, other + rest] if rest else [text]


def _check(answers: Sequence[str], own: Sequence[Path]) -> None:
    seen: dict[Path, str] = {}
    for answer, path in zip(answers, own, strict=True):
        if not path:
            raise InvalidRequest(f"The option {answer!r} is nothing to the model's tokenizer.", param="questions")
        if path in seen:
            raise InvalidRequest(
                f"The options {seen[path]!r} and {answer!r} are the same to the model's tokenizer.", param="questions"
            )
        seen[path] = answer


def _unshared(ways: Sequence[tuple[Path, int]], own: Mapping[Path, int]) -> dict[Path, int]:
    """The option of each way that stands for one option only, or is its own."""
    options: dict[Path, set[int]] = {}
    for path, option in ways:
        options.setdefault(path, set()).add(option)
    return {
        path: own[path] if path in own else min(claims)
        for path, claims in options.items()
        if path in own or len(claims) == 1
    }


class Tree:
    """All beginnings of some ways to write options, which share what they have in common."""

    def __init__(self, ways: Mapping[Path, int]) -> None:
        self._ways = ways
        self._next: dict[Path, list[int]] = {}
        for path in sorted({way[:length] for way in ways for length in range(1, len(way) + 1)}):
            self._next.setdefault(path[:-1], []).append(path[-1])

    def next(self, path: Path) -> list[int]:
        """The tokens that may follow `path`."""
        return self._next.get(path, [])

    @property
    def readings(self) -> list[Path]:
        """The paths that have to be computed for the probabilities of all tokens but the first."""
        inner = [path for path in self._next if path]
        covered = {path[:length] for path in inner for length in range(len(path))}
        return [path for path in inner if path not in covered]

    def options(self, scores: Scores, count: int) -> list[float]:
        """The log-probability that an answer begins with each of the `count` options, and with no longer one."""
        found: list[list[float]] = [[] for _ in range(count)]
        for path, option in self._ways.items():
            begins = sum(scores[path[:length]] for length in range(1, len(path) + 1))
            goes_on = math.exp(log_sum(scores[(*path, token)] for token in self.next(path)))
            found[option].append(begins + math.log1p(-goes_on) if goes_on < 1.0 else -math.inf)
        return [log_sum(parts) for parts in found]


def log_sum(logs: Iterable[float]) -> float:
    """The logarithm of the sum of what `logs` are the logarithms of; of nothing, minus infinity."""
    parts = list(logs)
    top = max(parts, default=-math.inf)
    return top + math.log(sum(math.exp(part - top) for part in parts)) if math.isfinite(top) else top


def shares(logs: Sequence[float]) -> tuple[list[float], float]:
    """Probabilities that sum to 1, out of log-probabilities, and what they were together.

    Raises:
        GenerationFailed: the model's scores say nothing.
    """
    together = log_sum(logs)
    if not math.isfinite(together):
        raise GenerationFailed("The model's scores for all options are nothing, or no numbers: nothing can be decided.")
    return [math.exp(log - together) for log in logs], min(1.0, math.exp(together))
