"""Every failure that infs reports, as one tree.

    InfsError
    ├── ConfigError               the configuration is wrong
    ├── RequestError              the caller's request is wrong; sending it again will not help
    │   ├── InvalidRequest        a field has a wrong type or value
    │   ├── ContextLengthExceeded the prompt does not fit into the context
    │   └── Unsupported           the model or its engine cannot do what was asked
    ├── ModelNotFound             no model of that id
    ├── Unauthorized              no valid API key
    ├── SourceError               the files of a model could not be had
    │   ├── SourceNotFound        nothing there
    │   ├── SourceForbidden       a token is missing or has no access
    │   ├── DownloadFailed        the connection, or the other end, failed
    │   ├── ChecksumMismatch      what came is not what was configured
    │   └── StorageFull           no space left
    ├── EngineError               an engine failed
    │   ├── EngineNotFound        no engine of that name
    │   ├── MissingExtra          a library is not installed
    │   ├── LoadFailed            the model could not be loaded
    │   │   ├── LoadInterrupted   the process that loaded it ended
    │   │   └── InsufficientMemory it can never fit into the memory that there is
    │   ├── WorkerDied            the process that ran the request ended
    │   │   └── WorkerGone        it had ended before the request came
    │   ├── RequestQuarantined    the request ended several workers, and is run no more
    │   └── GenerationFailed      the engine failed while it ran the request
    ├── CapacityError             not now
    │   ├── QueueFull             too many requests are waiting
    │   ├── QueueTimeout          no place in an instance came free in time
    │   └── ServerClosed          the server is shutting down
    ├── RequestTimeout            the request's own time is over
    └── RequestCancelled          somebody cancelled the request

Each class has a ``code`` (stable, for programs), an HTTP ``status`` and says whether the same request may
succeed later (``retryable``). An error crosses a pipe or a network as a `Failure` and comes back as the same
class.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error as data: what crosses a process or a network."""

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None


class InfsError(Exception):
    """The root of the tree.

    Args:
        message: what went wrong and what to do about it, for a person.
        param: the field of the request or the key of the configuration that is to blame.
        retry_after: seconds after which another try makes sense.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def to_failure(self) -> Failure:
        """This error as data."""
        return Failure(code=self.code, message=self.message, param=self.param, retry_after=self.retry_after)

    @staticmethod
    def from_failure(failure: Failure) -> InfsError:
        """The error that `failure` was made of; an unknown code gives a plain `InfsError`."""
        kind = _by_code(InfsError).get(failure.code, InfsError)
        return kind(failure.message, param=failure.param, retry_after=failure.retry_after)

    def __reduce__(self) -> tuple[object, ...]:
        return InfsError.from_failure, (self.to_failure(),)


def _by_code(kind: type[InfsError]) -> dict[str, type[InfsError]]:
    """The classes below `kind` by their codes. A class without a code of its own crosses as the one above it."""
    found = {kind.code: kind} if "code" in vars(kind) else {}
    for sub in kind.__subclasses__():
        found |= _by_code(sub)
    return found


class ConfigError(InfsError):
    """The configuration is wrong."""

    code = "invalid_config"


class RequestError(InfsError):
    """The caller's request is wrong."""

    code = "invalid_request"
    status = 400


class InvalidRequest(RequestError):
    """A field has a wrong type or value."""

    code = "invalid_value"


class ContextLengthExceeded(RequestError):
    """The prompt does not fit into the context."""

    code = "context_length_exceeded"


class Unsupported(RequestError):
    """The model, or its engine, cannot do what was asked."""

    code = "unsupported"


class ModelNotFound(InfsError):
    """No model of that id is configured."""

    code = "model_not_found"
    status = 404


class Unauthorized(InfsError):
    """No valid API key came with the request."""

    code = "invalid_api_key"
    status = 401


class SourceError(InfsError):
    """The files of a model could not be had."""

    code = "source_error"
    status = 502


class SourceNotFound(SourceError):
    """The source names nothing that is there."""

    code = "source_not_found"


class SourceForbidden(SourceError):
    """A token is missing, or has no access."""

    code = "source_forbidden"


class DownloadFailed(SourceError):
    """The connection, or the other end, failed."""

    code = "download_failed"
    retryable = True


class ChecksumMismatch(SourceError):
    """What came is not what was configured."""

    code = "checksum_mismatch"


class StorageFull(SourceError):
    """No space left for the files."""

    code = "storage_full"
    status = 507


class EngineError(InfsError):
    """An engine failed."""

    code = "engine_error"


class EngineNotFound(EngineError):
    """No engine of that name is known."""

    code = "engine_not_found"


class MissingExtra(EngineError):
    """A library that an engine needs is not installed."""

    code = "missing_extra"


class LoadFailed(EngineError):
    """The model could not be loaded."""

    code = "load_failed"


class LoadInterrupted(LoadFailed):
    """The process that loaded the model ended before it was done; another one may have more luck.

    `killed`: somebody else ended it.
    """

    code = "load_interrupted"
    killed = False


class InsufficientMemory(LoadFailed):
    """The model can never fit into the memory that it may use here."""

    code = "insufficient_memory"
    status = 507


class WorkerDied(EngineError):
    """The process that ran the request ended before the request did."""

    code = "worker_died"
    status = 502
    retryable = True


class WorkerGone(WorkerDied):
    """The process had ended before the request reached it, so the request had no part in that."""

    code = "worker_gone"


class RequestQuarantined(EngineError):
    """The request ended several workers one after the other, so it is run no more."""

    code = "request_quarantined"


class GenerationFailed(EngineError):
    """The engine failed while it ran the request."""

    code = "generation_failed"

    @staticmethod
    def of(error: Exception) -> InfsError:
        """What `error` means for a request: itself where it is of this tree, else a failure of the engine."""
        if isinstance(error, InfsError):
            return error
        return GenerationFailed(f"The engine failed: {type(error).__name__}: {error}")


class CapacityError(InfsError):
    """Not now."""

    code = "over_capacity"
    status = 503
    retryable = True


class QueueFull(CapacityError):
    """Too many requests are waiting already."""

    code = "queue_full"
    status = 429


class QueueTimeout(CapacityError):
    """No place in an instance came free within the time that the request may wait for one."""

    code = "queue_timeout"


class ServerClosed(CapacityError):
    """The server is shutting down."""

    code = "server_closed"


class RequestTimeout(InfsError):
    """The time that the request was given is over."""

    code = "timeout"
    status = 504
    retryable = True


class RequestCancelled(InfsError):
    """Somebody cancelled the request."""

    code = "cancelled"
    status = 499
