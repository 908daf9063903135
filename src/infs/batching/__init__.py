"""Continuous batching: which tokens are computed in the next step, and what is kept of them.

Everything here is free of tensors, of I/O and of clocks: the decoder and the output of a sequence are protocols
(`base`), so the scheduler and the cache are tested in milliseconds on fakes.
"""
