"""Whose turn it is: by priority, then in equal shares for all clients, then by arrival."""

from __future__ import annotations

from dataclasses import dataclass, field

MANY = 1024  # clients that are remembered before those that owe nothing are forgotten
ANSWER = 256  # tokens of an answer, as long as nobody knows better

Turn = tuple[int, float, int]
"""Sorts requests: priority, virtual time, arrival."""


def expected(most: int | None) -> int:
    """Tokens that an answer of `most` tokens is taken for, before anybody knows."""
    return ANSWER if most is None else min(most, ANSWER)


@dataclass(slots=True)
class Order:
    """Start-time fair queueing: each client's requests start where its request before ends, in virtual time.

    The virtual time of a request is what it costs, in tokens. Time goes on with whoever is served, so a client that
    was away does not save up a share, and one that sends a hundred requests at once waits behind others' first ones.
    """

    now: float = 0.0
    arrivals: int = 0
    _ends: dict[str, float] = field(default_factory=dict)

    def turn(self, priority: int, client: str, prompt: int, most: int | None) -> Turn:
        """The turn of a new request of `prompt` tokens, which may produce `most`."""
        return self.join(priority, client, prompt + expected(most))

    def join(self, priority: int, client: str, cost: float) -> Turn:
        """The turn of a new request that takes `cost` tokens."""
        self.arrivals += 1
        start = max(self.now, self._ends.get(client, 0.0))
        if len(self._ends) >= MANY:
            self._ends = {name: end for name, end in self._ends.items() if end > self.now}
        self._ends[client] = start + cost
        return priority, start, self.arrivals

    def served(self, turn: Turn) -> None:
        """The request with `turn` starts."""
        self.now = max(self.now, turn[1])

    def leave(self, client: str, cost: float) -> None:
        """A request of `client` that would have taken `cost` tokens is not served, so the next one comes earlier."""
        if client in self._ends:
            self._ends[client] = self._earlier(self._ends[client], cost)

    def closer(self, turn: Turn, cost: float) -> Turn:
        """`turn`, once one of `cost` tokens that the same client had before it is given up."""
        priority, start, arrival = turn
        return priority, self._earlier(start, cost), arrival

    def _earlier(self, time: float, cost: float) -> float:
        """Before `time` by `cost`, but not in the past."""
        return min(time, max(self.now, time - cost))
