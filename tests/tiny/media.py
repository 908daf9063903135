"""The bytes of image and audio files with random content."""

from __future__ import annotations

import io
import struct
import wave
import zlib

import numpy as np


def png(seed: int = 0, *, width: int = 16, height: int = 16) -> bytes:
    """A PNG of 8-bit RGB."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (height, width * 3), dtype=np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(name, body) for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bmp(seed: int = 0, *, side: int = 16) -> bytes:
    """A BMP of 24 bits."""
    pixels = np.random.default_rng(seed).integers(0, 256, side * side * 3, dtype=np.uint8).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + info + pixels


def wav(seed: int = 0, *, samples: int = 8000, rate: int = 16000) -> bytes:
    """A WAV of 16 bits: a tone with some noise, whose height depends on the seed."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        noise = np.random.default_rng(seed).normal(0.0, 300.0, samples)
        tone = 8000.0 * np.sin(2 * np.pi * 300 * (seed + 1) ** 2 * np.arange(samples) / rate)
        file.writeframes((noise + tone).astype("<i2").tobytes())
    return stream.getvalue()


def flac(seed: int = 0, *, samples: int = 8000, rate: int = 16000) -> bytes:
    """A FLAC of one block that is not compressed, 16 bits."""
    values = np.random.default_rng(seed).normal(0.0, 3000.0, samples).astype(">i2").tobytes()
    packed = (rate << 44) | (15 << 36) | samples
    info = struct.pack(">HH6xQ16x", samples, samples, packed)
    header = b"\xff\xf8\x70\x00\x00" + struct.pack(">H", samples - 1)
    frame = header + bytes([_crc(header, 8, 0x07)]) + b"\x02" + values
    return b"fLaC\x80\0\0\x22" + info + frame + struct.pack(">H", _crc(frame, 16, 0x8005))


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    top, mask, value = 1 << (bits - 1), (1 << bits) - 1, 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
    return value


def mp3(*, frames: int = 20) -> bytes:
    """An MP3 of silence, 128 kbit/s."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * frames
