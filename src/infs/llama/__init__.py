"""llama.cpp for Python programs: a model in this process, from one call down to its cache. See `Llama`."""

from infs.engines.llama_cpp.output import Processor as LogitsProcessor
from infs.llama.handles import Handle, Stream
from infs.llama.llama import Llama
from infs.llama.sequences import LowSequence

__all__ = ["Handle", "Llama", "LogitsProcessor", "LowSequence", "Stream"]
