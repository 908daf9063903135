"""Images and audio in messages: bytes out of data URLs and base64, and out of URLs that are fetched."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence

from starlette.requests import Request

from infs.errors import InvalidRequest
from infs.http.fetching import NotFetched, fetch_all
from infs.http.openai.bodies import AudioContent, ImageContent, MessageBody
from infs.http.service import Service
from infs.types import AudioPart, ImagePart

STARTS = {
    "wav": re.compile(rb"RIFF....WAVE", re.DOTALL),
    "mp3": re.compile(rb"ID3|\xff[\xe0-\xff]"),
    "flac": re.compile(rb"fLaC"),
}

Fetched = Mapping[str, bytes]
"""What was fetched, by its URL."""


async def fetch_media(service: Service, request: Request, messages: Sequence[MessageBody]) -> Fetched:
    """The files that `messages` name by http(s) URL; given up as soon as the client is gone.

    Raises:
        InvalidRequest: the server does not fetch files, or one cannot be had.
    """
    places: dict[str, str] = {}
    for place, url in _urls(messages):
        places.setdefault(url, place)
    if not places:
        return {}
    reach = service.settings.fetch_media
    if reach == "never":
        raise InvalidRequest(
            "This server does not fetch files. Send the image as a data URL (data:image/png;base64,...), or set "
            "server.fetch_media to public, for URLs of the public Internet, or to anywhere.",
            param=next(iter(places.values())),
        )
    try:
        return await service.run(
            request.receive, lambda: fetch_all(places, reach=reach, limit=service.settings.max_body)
        )
    except NotFetched as error:
        raise InvalidRequest(
            f"{error.url[:200]} could not be fetched: {error.reason}.", param=places[error.url]
        ) from error


def _urls(messages: Sequence[MessageBody]) -> Iterator[tuple[str, str]]:
    """Where there is a URL to fetch, and which."""
    for number, message in enumerate(messages):
        for index, part in enumerate(message.content if isinstance(message.content, list) else []):
            if isinstance(part, ImageContent) and part.image_url.url[:8].lower().startswith(("http://", "https://")):
                yield f"messages[{number}].content[{index}].image_url.url", part.image_url.url


def image_part(part: ImageContent, where: str, fetched: Fetched) -> ImagePart:
    """The image of `part`, which stands at `where`.

    Raises:
        InvalidRequest: its URL is not as it should be.
    """
    url, param = part.image_url.url, f"{where}.image_url.url"
    data = fetched.get(url)
    return ImagePart(data=_of_data_url(url, param) if data is None else _some(data, param))


def audio_part(part: AudioContent, where: str) -> AudioPart:
    """The sound of `part`, which stands at `where`.

    Raises:
        InvalidRequest: it is no base64, or not of its format.
    """
    audio, where = part.input_audio, f"{where}.input_audio"
    data = _some(_base64(audio.data.encode("utf-8", "surrogatepass"), f"{where}.data"), f"{where}.data")
    if not STARTS[audio.format].match(data):
        raise InvalidRequest(f"The data is no {audio.format} file.", param=f"{where}.format")
    return AudioPart(data=data)


def _of_data_url(url: str, param: str) -> bytes:
    """The bytes in a data URL."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise InvalidRequest(
            f"{url[:100]!r} is no URL of an image: send a data URL (data:image/png;base64,...), or an http(s) URL.",
            param=param,
        )
    data = urllib.parse.unquote_to_bytes(body)
    return _some(_base64(data, param) if head.lower().endswith(";base64") else data, param)


def _base64(data: bytes, param: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"This is not valid base64: {error}.", param=param) from error


def _some(data: bytes, param: str) -> bytes:
    if not data:
        raise InvalidRequest("The file is empty.", param=param)
    return data
