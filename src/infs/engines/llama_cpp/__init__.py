"""The llama-cpp engine: GGUF models, many requests in one batch."""

import os

# Read when ggml is loaded: where it gives up, its reason shall be its last word, and no debugger be started.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
