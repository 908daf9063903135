"""What the bytes of an image or of audio are, and whether decoding them is safe; nothing is decoded here.

The native decoders believe what a file says of its size, and an allocation that fails there ends the process.
"""

from __future__ import annotations

import struct
from typing import Literal

from infs.errors import InvalidRequest

MOST_PIXELS = 64 * 1024 * 1024
MOST_SECONDS = 3600
MOST_MP3 = 16 * 1024 * 1024  # bytes: what the length of an MP3 is, only decoding it would tell
FORMATS = "JPEG, PNG, BMP and GIF, and of audio WAV, MP3 and FLAC"
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of segments that hold the size

Kind = Literal["image", "audio"]


def check_media(data: bytes, param: str) -> Kind:
    """What `data` is.

    Raises:
        InvalidRequest: it is of no format that can be decoded, damaged or too large.
    """
    try:
        if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")):
            _check_pixels(*_size(data), param)
            return "image"
        if _is_audio(data):
            _check_length(data, param)
            return "audio"
    except (struct.error, IndexError) as error:
        raise damaged(param) from error
    what = f"starts with {data[:8]!r}" if data else "is empty"
    raise InvalidRequest(
        f"{param} is no image or audio that can be read: it {what}. Images may be {FORMATS}.", param=param
    )


def damaged(param: str) -> InvalidRequest:
    """The error for data that starts as it should and does not go on so."""
    return InvalidRequest(f"{param} is damaged, or not complete: it cannot be decoded.", param=param)


def _is_audio(data: bytes) -> bool:
    is_mp3 = data.startswith(b"ID3") or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0)
    return is_mp3 or data.startswith(b"fLaC") or (data[:4] == b"RIFF" and data[8:12] == b"WAVE")


# --- images


def _check_pixels(width: int, height: int, param: str) -> None:
    if width < 1 or height < 1:
        raise damaged(param)
    if width * height > MOST_PIXELS:
        raise InvalidRequest(
            f"{param} has {width} x {height} pixels; an image may have {MOST_PIXELS} in all.", param=param
        )


def _size(data: bytes) -> tuple[int, int]:
    """Width and height, as the header says."""
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(b"GIF8"):
        width, height = struct.unpack("<HH", data[6:10])
    elif data.startswith(b"BM"):
        width, height = (abs(side) for side in struct.unpack("<ii", data[18:26]))
    else:
        return _jpeg_size(data)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        if data[at] in JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 4 : at + 8])
            return width, height
        at += 1 + struct.unpack(">H", data[at + 1 : at + 3])[0]


# --- audio


def _check_length(data: bytes, param: str) -> None:
    if data.startswith(b"fLaC"):
        seconds = _flac_seconds(data)
    elif data.startswith(b"RIFF"):
        seconds = _wav_seconds(data, param)
    elif len(data) > MOST_MP3:
        raise InvalidRequest(f"{param} has {len(data)} bytes; an MP3 may have {MOST_MP3}.", param=param)
    else:
        return
    if seconds > MOST_SECONDS:
        raise InvalidRequest(f"{param} lasts {seconds:.0f} s; audio may last {MOST_SECONDS} s.", param=param)


def _flac_seconds(data: bytes) -> float:
    packed = struct.unpack(">Q", data[18:26])[0]  # 20 bits of rate, 8 of something else, 36 of the number of samples
    rate, samples = packed >> 44, packed & 0xF_FFFF_FFFF
    if not rate or not samples:
        raise IndexError("the length is not told")
    return float(samples / rate)


def _wav_seconds(data: bytes, param: str) -> float:
    at, pace = 12, 0
    while True:
        name, size = struct.unpack("<4sI", data[at : at + 8])
        if name == b"fmt ":
            rate, _, block = struct.unpack("<IIH", data[at + 12 : at + 22])
            pace = rate * block
        elif name == b"data":
            if not pace or size > len(data) - at - 8:
                raise damaged(param)
            return float(size / pace)
        at += 8 + size + size % 2
