"""Speculative decoding, the guessing half: which sequence gets how many guesses in the next step, and from where.

Guesses come from the sequence itself (`lookup`), and from a draft model where that has none or is worse at it. The
model computes them in the same step as the last token and keeps those that it would have said. What is chosen
here decides only how fast that is, never what is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from infs.batching.costs import StepCosts
from infs.batching.lookup import Match, PromptLookup, continuation

Mode = Literal["auto", "always", "off"]

REALIGNED, DRAFT = 3, 4  # sources behind the three kinds of matches, which `_source` tells apart by their length
LEAST_GAIN = 0.02  # accepted tokens to be expected of a guess, below which it is not worth being considered
MARGIN = 1.03  # by how much a step with guesses must be better: what is measured is not that exact
REFRESH = 256  # steps after which one without guesses is taken, to see what it costs today
PROBE = 2  # guesses that are tried where they do not seem to pay, after `FIRST_PROBE` steps, then twice as many ...
PRIOR = 0.8  # share of right guesses while nothing is known: what is not tried is never known, and trying costs little
FIRST_PROBE, LAST_PROBE = 16, 256


@dataclass(slots=True)
class Wanted:
    """A sequence in the next step: `key` stands for it, `tokens` are all it has, `most` guesses are of use.

    With `blocks` some of `tokens` are stand-ins for images or audio: they cannot be guessed, nor read by a drafter.
    """

    key: Hashable
    tokens: list[int]
    most: int
    blocks: bool = False


class Drafter(Protocol):
    """Guesses what no lookup finds. Used by the loop's thread."""

    @property
    def cost(self) -> float:
        """Seconds that one more guess for every sequence takes, as measured; 0 as long as that is unknown."""
        ...

    def propose(self, wanted: Sequence[Wanted]) -> list[list[int] | None]:
        """For each, up to `most` guesses (at least one is asked for), or ``None``: it is not ready for this one."""
        ...

    def forget(self, key: Hashable) -> None:
        """The sequence is over."""
        ...


@dataclass(slots=True)
class Share:
    """Which share of the guesses was right; a guess behind a wrong one was none.

    Each count fades by `keep`, and all together weigh `most` guesses at most: long runs of right guesses are soon
    outweighed by wrong ones, of which there is one in a step.
    """

    keep: float
    most: float
    right: float = 0.0
    tried: float = 0.0

    def count(self, right: int, tried: int) -> None:
        """`right` of `tried` guesses were accepted."""
        self.right = self.right * self.keep + right
        self.tried = self.tried * self.keep + tried
        if self.tried > self.most:
            self.right, self.tried = self.right * self.most / self.tried, self.most

    def estimate(self, prior: float, weight: float = 2.0) -> float:
        """The share, where `prior` counts as much as `weight` guesses; less than one, so that gains decline."""
        return min(0.98, (self.right + prior * weight) / (self.tried + weight))


@dataclass(slots=True)
class _Pace:
    """What is known of one sequence. `asked` and `given` guesses of `source` are in the step that is being taken."""

    lookup: PromptLookup
    shares: dict[int, Share] = field(default_factory=dict)
    source: int = DRAFT
    asked: int = 0
    given: int = 0
    idle: int = 0
    patience: int = FIRST_PROBE


@dataclass(slots=True)
class _Offer:
    """Sequence `index` could have up to `most` guesses from `source`, each of them right with probability `share`."""

    index: int
    wanted: Wanted
    pace: _Pace
    found: Match | None
    source: int
    share: float
    most: int


class Speculator:
    """Plans the guesses of each step and learns from what became of them. Used by one thread.

    Args:
        mode: ``auto`` takes the number of guesses that gives the most tokens per second by what was measured, which
            may be none; ``always`` takes all there are; ``off`` none.
        most: guesses for one sequence in one step, at most.
        match: tokens that must have occurred before.
    """

    def __init__(self, *, mode: Mode, most: int, match: int, draft: Drafter | None = None) -> None:
        self.mode = mode
        self._most = most
        self._match = match
        self._draft = draft
        self._costs = StepCosts()
        self._shares = [Share(keep=0.99, most=256.0) for _ in range(DRAFT + 1)]
        self._paces: dict[Hashable, _Pace] = {}

    # --- the four things that happen to a sequence: guessed for, checked, measured, over

    def plan(self, wanted: Sequence[Wanted], *, batch: int, budget: int) -> list[list[int]]:
        """The guesses for each of `wanted` in the next step; an empty list for those that get none.

        Args:
            wanted: sequences all of whose tokens will be computed in that step; their `tokens` are the same list each
                time as long as it only grows.
            batch: tokens of the step without guesses, those of other sequences included.
            budget: guesses that there is room for, of all together.
        """
        guesses: list[list[int]] = [[] for _ in wanted]
        if self.mode == "off" or budget < 1:
            return guesses
        offers = self._offers(wanted)
        if offers:
            counts = self._counts(offers, batch, budget)
            chosen = [(offer, count) for offer, count in zip(offers, counts, strict=True) if count]
            self._look_up([c for c in chosen if c[0].found is not None], guesses)
            self._have_drafted([c for c in chosen if c[0].found is None], guesses)
        return guesses

    def checked(self, key: Hashable, guessed: int, accepted: int) -> None:
        """Of `guessed` guesses that were computed for `key` (the first of those planned), `accepted` were right."""
        pace = self._paces.get(key)
        if pace is not None and guessed > 0:
            missing = guessed == pace.given < pace.asked  # it knew no more: that is a guess that was not right
            self._count(pace, accepted, accepted + int(accepted < guessed or missing))

    def step_took(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` tokens, guesses included, took so long, sampling included and guessing not."""
        self._costs.add(tokens, seconds)

    def forget(self, key: Hashable) -> None:
        """The sequence is over, or away for long."""
        self._paces.pop(key, None)
        if self._draft is not None:
            self._draft.forget(key)

    def _count(self, pace: _Pace, right: int, tried: int) -> None:
        self._shares[pace.source].count(right, tried)
        pace.shares.setdefault(pace.source, Share(keep=0.92, most=32.0)).count(right, tried)

    # --- what could be guessed

    def _offers(self, wanted: Sequence[Wanted]) -> list[_Offer]:
        offers = []
        for index, each in enumerate(wanted):
            if each.most < 1:
                continue
            pace = self._paces.get(each.key)
            if pace is None:
                pace = self._paces[each.key] = _Pace(PromptLookup(self._match))
            found = pace.lookup.find(each.tokens) or pace.lookup.realigned(each.tokens)
            if found is not None or (self._draft is not None and not each.blocks):
                offers.append(self._offer(index, each, pace, found))
        return offers

    def _offer(self, index: int, wanted: Wanted, pace: _Pace, found: Match | None) -> _Offer:
        """From the lookup where it has something, unless the draft was right more often than such matches."""
        source = DRAFT if found is None else _source(found, self._match)
        share = self._share(pace, source)
        if found is not None and self._draft is not None and not wanted.blocks:
            drafted = self._share(pace, DRAFT)
            if drafted > share:
                found, source, share = None, DRAFT, drafted
        return _Offer(index, wanted, pace, found, source, share, min(wanted.most, self._most))

    def _share(self, pace: _Pace, source: int) -> float:
        """That of this sequence; what is known of all the others is where it starts from."""
        everybody = self._shares[source].estimate(PRIOR)
        own = pace.shares.get(source)
        return everybody if own is None else own.estimate(everybody)

    # --- how many

    def _counts(self, offers: list[_Offer], batch: int, budget: int) -> list[int]:
        """The number of guesses for each offer."""
        counts = [0] * len(offers)
        if self.mode == "always":
            for _, _, place in _by_turns(offers)[:budget]:
                counts[place] += 1
            return counts
        if self._costs.age(batch) > REFRESH:
            return counts
        gains = _by_gain(offers)[:budget]
        for _, _, place in gains[: self._best(offers, gains, batch)]:
            counts[place] += 1
        self._probe(offers, counts, batch, budget - sum(counts))
        return counts

    def _best(self, offers: list[_Offer], gains: list[tuple[float, int, int]], batch: int) -> int:
        """How many of `gains` to take, for the most tokens per second."""
        curve = self._costs.curve(batch, batch + len(gains))
        best, best_rate = 0, MARGIN * batch / curve[0]
        tokens, drafting = float(batch), 0.0
        for number, (gain, depth, place) in enumerate(gains, 1):
            tokens += gain
            if self._draft is not None and offers[place].found is None:
                drafting = max(drafting, depth * self._draft.cost)  # all sequences are drafted for together
            rate = tokens / (curve[number] + drafting)
            if rate > best_rate:
                best, best_rate = number, rate
        return best

    def _probe(self, offers: list[_Offer], counts: list[int], batch: int, room: int) -> None:
        """Try some guesses for those that were told no often enough; others join, since one larger step is cheaper."""
        idle = []
        for place, (offer, count) in enumerate(zip(offers, counts, strict=True)):
            pace = offer.pace
            if count:
                pace.idle, pace.patience = 0, FIRST_PROBE
            else:
                pace.idle += 1
                idle.append((pace.idle / pace.patience, place))
        if not idle or max(idle)[0] < 1.0:
            return
        room = min(room, max(PROBE, batch // 2))
        for overdue, place in sorted(idle, reverse=True):
            offer = offers[place]
            count = min(PROBE, offer.most, room)
            if overdue < 0.5 or count < 1:
                return
            offer.pace.idle, offer.pace.patience = 0, min(LAST_PROBE, 2 * offer.pace.patience)
            counts[place] = count
            room -= count

    # --- which

    def _look_up(self, chosen: list[tuple[_Offer, int]], guesses: list[list[int]]) -> None:
        for offer, count in chosen:
            assert offer.found is not None
            guess = continuation(offer.wanted.tokens, offer.found.end, count)
            if offer.wanted.blocks:
                guess = list(itertools.takewhile(lambda token: token >= 0, guess))
            self._give(offer, count, guess, guesses)

    def _have_drafted(self, chosen: list[tuple[_Offer, int]], guesses: list[list[int]]) -> None:
        if not chosen or self._draft is None:
            return
        wanted = [Wanted(offer.wanted.key, offer.wanted.tokens, count) for offer, count in chosen]
        for (offer, count), guess in zip(chosen, self._draft.propose(wanted), strict=True):
            if guess is not None:
                self._give(offer, count, guess, guesses)

    def _give(self, offer: _Offer, asked: int, guess: list[int], guesses: list[list[int]]) -> None:
        pace = offer.pace
        pace.source, pace.asked, pace.given = offer.source, asked, len(guess)
        guesses[offer.index] = guess
        if not guess:
            self._count(pace, 0, 1)  # time was spent on it, and nothing came of it


def _source(found: Match, match: int) -> int:
    """Matches of different lengths are right more or less often, so they are different sources."""
    if not found.length:
        return REALIGNED
    return 0 if found.length < 2 * match else 1 if found.length < 4 * match else 2


def _by_gain(offers: list[_Offer]) -> list[tuple[float, int, int]]:
    """The expected tokens that each further guess brings, its number, and the place of its offer; the best first."""
    gains = []
    for place, offer in enumerate(offers):
        gain = 1.0
        for depth in range(1, offer.most + 1):
            gain *= offer.share
            if gain < LEAST_GAIN:
                break
            gains.append((gain, depth, place))
    gains.sort(reverse=True)
    return gains


def _by_turns(offers: list[_Offer]) -> list[tuple[float, int, int]]:
    """Like `_by_gain`, but every guess there is: the first of each offer, then the second of each, and so on."""
    gains = [(1.0, depth, place) for place, offer in enumerate(offers) for depth in range(1, offer.most + 1)]
    gains.sort(key=lambda gain: gain[1])
    return gains
