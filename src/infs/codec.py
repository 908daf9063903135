"""Tagged, versioned frames: what crosses the pipe to a worker, and a network.

A frame is a four-byte big-endian length and that many bytes of msgpack. `PROTOCOL` goes up with every change
that an older reader would misread; both ends say theirs in the first frame.
"""

from __future__ import annotations

from typing import Any

import msgspec

from infs.config import ModelConfig
from infs.errors import Failure
from infs.types import TASKS, Delta, Event, Progress, Request, ToolUse, Trail

PROTOCOL = 2
MAX_FRAME = 1 << 30  # a longer one is a broken stream, not a message
HEADER = 4


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="frame"):
    """One message."""


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """Worker to parent, first: who it is."""

    protocol: int
    version: str
    python: str
    pid: int


class Load(Frame, frozen=True, kw_only=True, tag="load"):
    """Parent to worker: what to load with which engine. `path` is a local file or folder, `cache` a folder.

    `spare` is the main memory that its caches may take, in bytes.
    """

    model: str
    engine: str
    factory: str
    path: str | None
    config: ModelConfig
    cache: str | None = None
    spare: int | None = None


class Estimate(Load, frozen=True, kw_only=True, tag="estimate"):
    """Parent to worker, before `Load`: what would loading this take?"""


class Estimated(Frame, frozen=True, kw_only=True, tag="estimated"):
    """Worker to parent: a `MemoryUse` as plain data; ``None`` if the engine cannot tell."""

    use: dict[str, Any] | None


class Loaded(Frame, frozen=True, kw_only=True, tag="loaded"):
    """Worker to parent: ready, and what the model says of itself (a `ModelInfo` as plain data)."""

    info: dict[str, Any]


class Run(Frame, frozen=True, kw_only=True, tag="run"):
    """Parent to worker: run a request. `body` is the request, encoded on its own; see `RunContext` for the rest."""

    id: int
    body: msgspec.Raw
    nonce: int = 0
    trail: list[list[int]] = []


class Cancel(Frame, frozen=True, kw_only=True, tag="cancel"):
    """Parent to worker: stop a request; it is answered by its last frame all the same."""

    id: int


class Happened(Frame, frozen=True, kw_only=True, tag="happened"):
    """Worker to parent: events of a request, in order. A `Result` among them is the last."""

    id: int
    events: list[msgspec.Raw]


class Failed(Frame, frozen=True, kw_only=True, tag="failed"):
    """Worker to parent: a request, or (with id 0) the load, ended in a failure."""

    id: int
    failure: Failure


class Shrink(Frame, frozen=True, kw_only=True, tag="shrink"):
    """Parent to worker: have caches take no more than `spare` bytes of main memory from now on."""

    spare: int


class AskStatus(Frame, frozen=True, kw_only=True, tag="ask-status"):
    """Parent to worker: how are you?"""

    id: int


class Status(Frame, frozen=True, kw_only=True, tag="status"):
    """Worker to parent: counters of the engine, as plain data, and how long its present step takes, in seconds."""

    id: int
    data: dict[str, Any]
    stalled: float = 0.0


class Close(Frame, frozen=True, kw_only=True, tag="close"):
    """Parent to worker: finish and leave."""


AnyFrame = (
    Hello
    | Load
    | Loaded
    | Estimate
    | Estimated
    | Run
    | Cancel
    | Happened
    | Failed
    | AskStatus
    | Status
    | Shrink
    | Close
)

_encoder = msgspec.msgpack.Encoder()
_frames = msgspec.msgpack.Decoder(AnyFrame)


class RequestCodec:
    """Encodes and decodes requests and events of all tasks that are known when it is made."""

    def __init__(self, tasks: dict[str, type[Request[Any]]] | None = None) -> None:
        kinds = tuple((tasks if tasks is not None else TASKS).values())
        results = tuple(kind.result_type for kind in kinds)
        self._requests: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_union(kinds))
        self._events: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            _union((Progress, Delta, ToolUse, Trail, *results))
        )

    def encode(self, value: Request[Any] | Event) -> msgspec.Raw:
        """`value` as msgpack."""
        return msgspec.Raw(_encoder.encode(value))

    def decode_request(self, data: msgspec.Raw | bytes) -> Request[Any]:
        """The request in `data`; raises `msgspec.ValidationError` for anything else."""
        request: Request[Any] = self._requests.decode(data)
        return request

    def decode_event(self, data: msgspec.Raw | bytes) -> Event:
        """The event in `data`; raises `msgspec.ValidationError` for anything else."""
        event: Event = self._events.decode(data)
        return event


def _union(kinds: tuple[type, ...]) -> Any:
    joined: Any = kinds[0]
    for kind in kinds[1:]:
        joined = joined | kind
    return joined


def encode_frame(frame: AnyFrame) -> bytes:
    """`frame` with its length before it.

    Raises:
        ValueError: when it is longer than `MAX_FRAME` bytes.
    """
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME:
        raise ValueError(f"A message of {len(body)} bytes is longer than the {MAX_FRAME} that fit into a frame.")
    return len(body).to_bytes(HEADER, "big") + body


def frame_length(header: bytes) -> int:
    """The number of bytes that follow `header`.

    Raises:
        ValueError: when that is no sensible number, so that the stream is broken.
    """
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME:
        raise ValueError(f"A frame claims {length} bytes; the stream is broken.")
    return length


def decode_frame(body: bytes) -> AnyFrame:
    """The frame in `body`; raises `msgspec.DecodeError` (or its `ValidationError`) for anything else."""
    frame: AnyFrame = _frames.decode(body)
    return frame
