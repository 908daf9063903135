"""What the pieces of an output come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from infs.chat.parser import Content, OutputParser, Piece, Reasoning
from infs.types import ToolCallDelta


@dataclass
class Heard:
    """An output as it was understood; calls have an id, a name and arguments."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)

    def hear(self, pieces: Sequence[Piece]) -> None:
        """Add pieces."""
        for piece in pieces:
            match piece:
                case Content(text):
                    assert text
                    self.content += text
                case Reasoning(text):
                    assert text
                    self.reasoning += text
                case ToolCallDelta():
                    self._call(piece)

    def _call(self, piece: ToolCallDelta) -> None:
        if piece.id is not None:
            assert piece.name is not None
            assert piece.index == len(self.calls)
            self.calls.append((piece.id, piece.name, piece.arguments))
        else:
            assert piece.name is None
            assert piece.index == len(self.calls) - 1
            call_id, name, arguments = self.calls[-1]
            self.calls[-1] = (call_id, name, arguments + piece.arguments)


def ids() -> Callable[[], str]:
    """Ids for calls: ``call_0``, ``call_1`` and so on."""
    numbers = iter(range(1000))
    return lambda: f"call_{next(numbers)}"


def hear(parser: OutputParser, *pieces: str) -> Heard:
    """What `parser` makes of an output in these pieces."""
    heard = Heard()
    for piece in pieces:
        heard.hear(parser.feed(piece))
    heard.hear(parser.finish())
    return heard
