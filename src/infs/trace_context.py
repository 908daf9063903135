"""The trace that a request belongs to, as W3C Trace Context writes it.

An edge sets it for what it runs, in the headers' own names (``traceparent``, ``tracestate``); whoever traces requests
reads it. So neither needs to know the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

NO_TRACE: Mapping[str, str] = MappingProxyType({})

TRACE_HEADERS = ("traceparent", "tracestate")

trace_context: ContextVar[Mapping[str, str]] = ContextVar("infs.trace_context", default=NO_TRACE)
