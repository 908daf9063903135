"""The limit of what a model may think before it has to answer."""

from __future__ import annotations

from collections.abc import Callable

from infs.chat.parser import Thinking


class ReasoningBudget:
    """Counts the tokens of reasoning in one output, and ends it when there were enough.

    Args:
        limit: tokens that may be thought.
        thought: the prompt has opened the reasoning.
        tokenize: the tokens of what ends it, `Thinking.end`.
    """

    def __init__(self, thinking: Thinking, limit: int, *, thought: bool, tokenize: Callable[[str], list[int]]) -> None:
        self._open, self._close = thinking.open.encode(), thinking.close.encode()
        self._end = thinking.end
        self._tokenize = tokenize
        self._left = limit
        self._thought = thought
        self._start = not thought
        self._seen = b""

    def accept(self, piece: bytes) -> None:
        """One more token, whose text is `piece`, control tokens included."""
        self._seen += piece
        if self._start:
            self._look_for_beginning()
        elif self._thought:
            self._left -= 1
            self._thought = self._close not in self._seen
            self._seen = self._seen[1 - len(self._close) :] if len(self._close) > 1 else b""

    def _look_for_beginning(self) -> None:
        said = self._seen.lstrip()
        if said.startswith(self._open):
            self._start, self._thought, self._seen = False, True, b""
        elif not self._open.startswith(said):
            self._start = False

    def forced(self) -> list[int]:
        """What ends the reasoning, when it is time; once."""
        if not self._thought or self._left > 0:
            return []
        self._thought = False
        return self._tokenize(self._end)
