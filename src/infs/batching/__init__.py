"""Continuous batching: which tokens are computed in the next step, and what is kept of them.

Everything here is free of tensors, and everything but `tiers` of I/O: the decoder and the output of a sequence are
protocols (`base`), and what measures time is given its clock, so the scheduler and the caches are tested in
milliseconds on fakes.
"""
