"""What a model file is, so that its cached context is never used with another."""

from __future__ import annotations

import hashlib
from pathlib import Path

SAMPLES = 64
SAMPLE = 1 << 14  # bytes
HEADER = 1 << 20  # bytes: the metadata and the table of tensors, or most of it


def fingerprint(path: Path) -> str:
    """A hash of the size of a file, of its beginning, and of samples from all over it.

    A whole hash would take longer than loading. Two models that differ differ in nearly every tensor, and every
    quantisation and every fine-tuning is seen in the samples.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(HEADER))
        for index in range(SAMPLES):
            file.seek(size * index // SAMPLES)
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()
