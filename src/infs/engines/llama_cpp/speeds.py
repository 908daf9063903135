"""How fast a model reads prompts: measured when it is loaded, and remembered, so that the next load need not."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from infs.batching.base import Chunk, Remove
from infs.batching.pacing import Pacing
from infs.engines.llama_cpp.decoder import LlamaDecoder


class KnownSpeed:
    """A small file with seconds for each token of a prompt. It is a hint: what is wrong with it is not said.

    Args:
        folder: where such files are; ``None`` remembers nothing.
        what: the model, and all of the machine and the configuration that the speed depends on.
    """

    def __init__(self, folder: Path | None, what: str) -> None:
        name = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
        self._path = folder / f"{name}.json" if folder is not None else None

    def read(self) -> float | None:
        """Seconds for each token; ``None`` if they are not known."""
        if self._path is None:
            return None
        try:
            rate = msgspec.json.decode(self._path.read_bytes(), type=float)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return rate if 0.0 < rate < math.inf else None

    def write(self, rate: float | None) -> None:
        """Remember `rate`, if it is known and the folder can be written to."""
        if self._path is None or rate is None:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(msgspec.json.encode(rate))
            part.replace(self._path)


def measure(decoder: LlamaDecoder, pacing: Pacing, clock: Callable[[], float] = time.perf_counter) -> None:
    """Tell `pacing` of steps that are taken for this: small ones first, and larger ones while they are fast."""
    size, seconds = min(pacing.grain, pacing.largest), 0.0
    _timed(decoder, 1, clock)  # whatever happens once
    while size <= pacing.largest and seconds < pacing.target / 4:
        seconds = _timed(decoder, size, clock)
        pacing.took(size, seconds)
        size *= 2
    decoder.clear()


def _timed(decoder: LlamaDecoder, tokens: int, clock: Callable[[], float]) -> float:
    begin = clock()
    (row,) = decoder.decode([Chunk(seq=0, start=0, tokens=[0] * tokens, logits=1)])
    decoder.scores(row)  # which waits for it
    seconds = clock() - begin
    decoder.apply([Remove(0, 0)])
    return seconds
