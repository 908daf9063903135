"""GGUF models through llama.cpp: continuous batching over the low-level bindings of llama-cpp-python."""
