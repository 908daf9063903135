"""The images and audio of one request, from the stand-ins of a rendered prompt to the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from infs.chat.media import Media, Medium
from infs.engines.llama_cpp.media_formats import check_media
from infs.errors import InvalidRequest

if TYPE_CHECKING:
    from infs.engines.llama_cpp.media import MediaChunk, Projector

Tokenize = Callable[[str, bool], list[int]]
"""The tokens of a text, which is the beginning of a prompt or not."""


class MediaReader:
    """Reads each medium of a request once, however often its prompt is written.

    Args:
        projector: reads them; needed only if there are any.
    """

    def __init__(self, projector: Projector | None, media: Media) -> None:
        self.media = media
        self._projector = projector
        self._known: dict[Medium, list[list[int] | MediaChunk]] = {}

    def read(self, text: str, tokenize: Tokenize) -> tuple[list[int], tuple[MediaChunk, ...]]:
        """The tokens of the prompt `text`, with stand-ins of the media in it, and what these stand for.

        Raises:
            InvalidRequest: a file cannot be decoded, is not of the kind that it is given as, or the model does not
                take so many images.
        """
        tokens: list[int] = []
        chunks: list[MediaChunk] = []
        pieces = list(self.media.pieces(text))
        self._check_number(pieces)
        if not pieces or isinstance(pieces[0], Medium):
            tokens += tokenize("", True)
        for index, piece in enumerate(pieces):
            if isinstance(piece, str):
                tokens += tokenize(piece, index == 0)
                continue
            for part in self._parts(piece):
                if isinstance(part, list):
                    tokens += part
                else:
                    tokens += part.tokens
                    chunks.append(part)
        return tokens, tuple(chunks)

    def _parts(self, medium: Medium) -> list[list[int] | MediaChunk]:
        assert self._projector is not None, "media are refused where there is none"
        if medium not in self._known:
            kind = check_media(medium.data, medium.place)
            if kind != medium.kind:
                raise InvalidRequest(f"{medium.place} is given as {medium.kind}, and is {kind}.", param=medium.place)
            self._known[medium] = self._projector.parts(medium.data, medium.place)
        return self._known[medium]

    def _check_number(self, pieces: list[str | Medium]) -> None:
        images = [piece for piece in pieces if isinstance(piece, Medium) and piece.kind == "image"]
        if self._projector is not None and self._projector.one_image and len(images) > 1:
            raise InvalidRequest("This model takes one image in a prompt.", param=images[1].place)
