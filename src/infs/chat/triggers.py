"""Watching an output for the beginning of a tool call."""

from __future__ import annotations

from infs.chat.parser import Thinking
from infs.chat.structured import OutputRule

_SPACE = b" \t\r\n"


class TriggerWatch:
    """Finds the first trigger of a rule in an output that comes as bytes. Cheap: it looks at the last few only.

    After a trigger it can go on with what follows, as if that had been no trigger.
    """

    def __init__(self, rule: OutputRule) -> None:
        self._open, self._close = _marks(rule.thinking)
        self._anywhere = [(t.text.encode(), t.lead.encode()) for t in rule.triggers if not t.anchored]
        self._anchored = [(t.text.encode(), t.lead.encode()) for t in rule.triggers if t.anchored]
        self._longest = max((len(text) for text, _ in self._anywhere), default=1)
        self._start = True
        self._thought = rule.thought
        self._seen = b""

    def feed(self, piece: bytes) -> bytes | None:
        """Take more of the output, control tokens in it as their texts.

        Returns:
            What the grammar is to be fed, once a trigger has come: its lead and what stands behind it in `piece`.
            ``None`` while there is none.
        """
        self._seen += piece
        while True:
            if self._thought:
                _, found, rest = self._seen.partition(self._close)
                if not found:
                    self._seen = self._seen[1 - len(self._close) :] if len(self._close) > 1 else b""
                    return None
                self._seen, self._thought, self._start = rest, False, True
            if self._start:
                said = self._seen.lstrip(_SPACE)
                if said.startswith(self._open):
                    self._seen, self._thought = said[len(self._open) :], True
                    continue
                if self._could_begin(said):
                    return None
            return self._find()

    def _could_begin(self, said: bytes) -> bool:
        """Whether it takes more to know whether reasoning, or an anchored trigger, comes first."""
        return any(
            len(text) > len(said) and text.startswith(said) for text in (self._open, *(t for t, _ in self._anchored))
        )

    def _find(self) -> bytes | None:
        if self._start:
            said = self._seen.lstrip(_SPACE)
            for text, lead in sorted(self._anchored, key=lambda pair: -len(pair[0])):
                if said.startswith(text):
                    return self._found(lead, said[len(text) :])
            self._start = False
        places = [(place, text, lead) for text, lead in self._anywhere if (place := self._seen.find(text)) >= 0]
        if places:
            place, text, lead = min(places)
            return self._found(lead, self._seen[place + len(text) :])
        self._seen = self._seen[1 - self._longest :] if self._longest > 1 else b""
        return None

    def _found(self, lead: bytes, rest: bytes) -> bytes:
        self._seen, self._start = rest, False
        return lead + rest


def _marks(thinking: Thinking) -> tuple[bytes, bytes]:
    return thinking.open.encode(), thinking.close.encode()
